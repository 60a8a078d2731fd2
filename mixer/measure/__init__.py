"""Measures of what the desk does: how far the sliders reach, and the card that reports it."""
