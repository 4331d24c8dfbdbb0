"""What is computed: the kernel-group-structured weight format and its kernels, on TVM and numpy."""
