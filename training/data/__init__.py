"""Readers of public image and text datasets, their mixing, and questions made from captions."""
