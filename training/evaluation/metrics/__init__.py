"""Caption and visual question answering metrics, and how much of a difference is noise."""
