"""How to choose words: the options of a search, and what they may be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

from vlm.errors import UserError


class OptionError(UserError):
    """A generation option with an impossible value; the message names it."""


@dataclass(frozen=True)
class Options:
    """How to choose words.

    `beams` 1 is greedy, unless `sample`. `candidates` is how many results to return, best first; those of beams are
    distinct, samples may coincide.
    A hypothesis of `n` tokens (its end included) scores its summed log-probability / `n ** length_penalty`.
    `temperature`, `top_k` (0 keeps every token) and `top_p` (1 does) are for sampling. `no_repeat_ngram` n forbids a
    sequence of n tokens to occur twice; `repetition_penalty` above 1 makes used tokens less likely (CTRL, Keskar et
    al. 2019).
    """

    beams: int = 1
    candidates: int = 1
    max_tokens: int = 32
    min_tokens: int = 0
    length_penalty: float = 1.0
    sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        counts = ("beams", "candidates", "max_tokens", "min_tokens", "top_k", "no_repeat_ngram")
        for name in counts:
            if not isinstance(getattr(self, name), Integral):
                raise OptionError(f"{name} must be a whole number, not {getattr(self, name)!r}")
        for name in ("length_penalty", "temperature", "top_p", "repetition_penalty"):
            value = getattr(self, name)
            if not isinstance(value, Real) or not math.isfinite(value):
                raise OptionError(f"{name} must be a number, not {value!r}")
        if self.seed is not None and not isinstance(self.seed, Integral):
            raise OptionError(f"seed must be a whole number, not {self.seed!r}")
        if abs(self.length_penalty) > 100:
            raise OptionError(f"length_penalty must be in [-100, 100], not {self.length_penalty}")
        for name in ("beams", "candidates", "max_tokens"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("min_tokens", "top_k", "no_repeat_ngram"):
            if getattr(self, name) < 0:
                raise OptionError(f"{name} must not be negative, not {getattr(self, name)}")
        if self.min_tokens > self.max_tokens:
            raise OptionError(
                f"min_tokens {self.min_tokens} is more than max_tokens {self.max_tokens}"
            )
        if self.temperature < 1e-6:
            raise OptionError(f"temperature must be at least 1e-6, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise OptionError(f"top_p must be in (0, 1], not {self.top_p}")
        if not self.repetition_penalty > 0:
            raise OptionError(f"repetition_penalty must be positive, not {self.repetition_penalty}")
        if not self.sample and (self.temperature, self.top_k, self.top_p) != (1.0, 0, 1.0):
            raise OptionError("temperature, top_k and top_p are for sampling; set sample, too")
        if self.sample and self.beams > 1:
            raise OptionError("sampling and beam search do not go together; set beams to 1")
        if not self.sample and self.candidates > self.beams:
            raise OptionError(
                f"{self.candidates} candidates need as many beams, or sampling; beams is {self.beams}"
            )
