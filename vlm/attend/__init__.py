"""Attention of other libraries' models: sources of looks, gathered into the maps and grids that are drawn here."""
