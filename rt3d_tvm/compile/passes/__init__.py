"""Compiler passes on Relax, one a file: IR before and after stands in each docstring."""
