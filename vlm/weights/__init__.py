"""Checkpoints: where they are, how they are stored, and how outside ones become ours."""

from vlm.errors import UserError


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or not ours; the message says what to do."""
