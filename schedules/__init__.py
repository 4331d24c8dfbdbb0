"""How it runs: one folder a device, one file an op. ``table`` says which rule serves what."""
