"""The page's controls as checked values: what the browser posts, links, code to copy, presets."""
