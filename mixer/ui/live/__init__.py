"""Texts in flight for browsers: who writes what, and the frames that reach the page."""
