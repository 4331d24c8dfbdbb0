"""How it runs: one folder a device, one file an op. ``schedules.table`` says which rule serves what."""
