"""The one way in which text meets the model, in training, evaluation and use."""

from __future__ import annotations

import re


def clean_text(text: str) -> str:
    """A text as the model should write it: single spaces, none before punctuation, no full stop."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\s+([,.;:!?'])", r"\1", text)
    return text.rstrip(". ").replace("_", " ")
