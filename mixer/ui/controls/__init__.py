"""The components that are always on the page: deck, formula box, stage, shelf, and the tools in the head."""
