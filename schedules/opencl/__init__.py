"""Schedules for GPUs programmed in OpenCL: Adreno, and whatever else runs OpenCL."""
