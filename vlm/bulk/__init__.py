"""Captions of many images: folders, shards and clusters."""
