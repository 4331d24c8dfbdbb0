"""Pruning: the sparsity schemes, what they save, and the algorithms that apply them."""
