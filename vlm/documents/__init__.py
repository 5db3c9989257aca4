"""Documents beside the image: files to passages, an index of them on disk, and what a text finds there."""
