"""Compiler passes on Relax, one per file: IR before and after stands in each docstring."""
