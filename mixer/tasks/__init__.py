"""Tasks on whole texts: batches, CSV files, effects of sliders on a text."""
