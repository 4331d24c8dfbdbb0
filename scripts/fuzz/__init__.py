"""Fuzzers: random graphs, files, artifacts, kills, connections; a case is known by its seed."""
