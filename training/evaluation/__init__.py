"""Predictions to figures."""
