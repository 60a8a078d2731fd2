"""Files that a person writes or reads: mixes, presets, CSV tables."""
