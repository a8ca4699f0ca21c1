"""Which file of a folder is what: image or mask, of which split, and which belong together."""
