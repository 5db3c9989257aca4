"""The photos of a folder: captioned in order, and what is written about each."""
