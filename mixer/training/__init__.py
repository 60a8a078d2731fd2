"""Training of the base model, anchors, judges, reward models and heads. Nothing here runs while text is written."""
