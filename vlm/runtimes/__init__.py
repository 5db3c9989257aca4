"""The same model, faster on the machine at hand."""
