"""Work with whole texts on top of the desk: batches, CSV files, effects of sliders on a text."""
