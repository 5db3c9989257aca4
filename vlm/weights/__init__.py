"""Checkpoints: where they are, how they are stored, and how outside ones become ours."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or not ours; the message says what to do."""
