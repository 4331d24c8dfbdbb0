"""How long a search is, unless somebody says otherwise. Nothing is imported: help shows it."""

# Trials a layer, and the seconds that one may take.
TRIALS, DEADLINE_S = 64, 60.0
