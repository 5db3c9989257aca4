"""Captions of millions of images: shards and clusters."""
