"""The panels of the page's shelf: Paint, Sweep, Pad, Batch, Export."""
