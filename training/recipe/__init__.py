"""What a run depends on: the recipe, its sources and the model that it starts from."""
