"""Reward heads and reward models: what each next token is worth for an attribute, and how they steer."""
