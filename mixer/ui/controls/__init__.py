"""What is always on the page: the deck, the formula box, the stage with its texts, the tools in the head."""
