"""Learning: batches, objectives, steps, checkpoints and the report of a run."""
