"""Formulas: arithmetic on next-token distributions, as text, as a tree, and as numbers.

Source: Dekoninck et al., "Controlled Text Generation via Language Model Arithmetic", arXiv 2311.14479.
"""
