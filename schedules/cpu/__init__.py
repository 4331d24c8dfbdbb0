"""Schedules for CPUs (x86-64 and AArch64 alike)."""
