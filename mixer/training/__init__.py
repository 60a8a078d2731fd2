"""Training of the base model, anchors and judges. Nothing here runs while text is being steered."""
