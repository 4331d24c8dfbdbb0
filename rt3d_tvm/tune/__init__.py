"""Tuning: measure kernels on a device and keep what is faster than the defaults."""
