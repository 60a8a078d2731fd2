"""Recipes: one file from which a base gets anchors, reward heads, measures and a model card, in one run."""
