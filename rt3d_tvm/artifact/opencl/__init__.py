"""OpenCL on this machine: drivers, the plan of a compiled model, and what runs it."""
