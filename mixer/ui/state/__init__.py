"""The page's controls as checked values: what the browser posts, links, snippets, presets."""
