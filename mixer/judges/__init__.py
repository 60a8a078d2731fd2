"""Judges: what scores a finished or growing text in [0, 1]."""
