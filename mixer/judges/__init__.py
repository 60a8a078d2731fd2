"""Judges: classifiers that score a finished or growing text in [0, 1]."""
