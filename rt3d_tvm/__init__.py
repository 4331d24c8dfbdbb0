"""Structured-sparse 3D CNNs from pruning to phone: RT3D as an extension of Apache TVM."""
