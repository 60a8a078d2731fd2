"""The reward study: RAD, reward heads and anchors as methods of steering, compared at equal divergence."""
