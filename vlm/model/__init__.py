"""Encoder, memory and decoder: what is computed, written once and plainly."""
