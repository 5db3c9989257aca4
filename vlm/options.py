"""How to choose words: the options of a search, and what they may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from vlm.typed import Count, FieldError, Limit, Natural, check_fields, fit_fields

_LENGTH_PENALTY = Limit("in [-100, 100]", lambda value: -100 <= value <= 100)
# What memory holds; and numbers that 32 bits tell from 0 and from infinity.
_BEAMS = Annotated[int, Limit("in [1, 10000]", lambda value: 1 <= value <= 10_000)]
_TEMPERATURE = Limit("in [1e-6, 1e6]", lambda value: 1e-6 <= value <= 1e6)
_TOP_P = Limit("in [1e-6, 1]", lambda value: 1e-6 <= value <= 1)
_PENALTY = Limit("in [1e-3, 1e3]", lambda value: 1e-3 <= value <= 1e3)


class Precision(StrEnum):
    """What a model computes in; `vlm.load` says how."""

    auto = "auto"
    float32 = "float32"
    bf16 = "bf16"
    fp16 = "fp16"
    int8 = "int8"


class OptionError(FieldError):
    """A generation option that there is not, or with an impossible value; the message names it."""


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

    beams: _BEAMS = 1
    candidates: _BEAMS = 1
    max_tokens: Count = 32
    min_tokens: Natural = 0
    length_penalty: Annotated[float, _LENGTH_PENALTY] = 1.0
    sample: bool = False
    temperature: Annotated[float, _TEMPERATURE] = 1.0
    top_k: Natural = 0
    top_p: Annotated[float, _TOP_P] = 1.0
    repetition_penalty: Annotated[float, _PENALTY] = 1.0
    no_repeat_ngram: Natural = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, OptionError)
        if self.min_tokens > self.max_tokens:
            raise OptionError(
                f"min_tokens {self.min_tokens} is more than max_tokens {self.max_tokens}"
            )
        if not self.sample and (self.temperature, self.top_k, self.top_p) != (1.0, 0, 1.0):
            raise OptionError("temperature, top_k and top_p are for sampling; set sample, too")
        if self.sample and self.beams > 1:
            raise OptionError("sampling and beam search do not go together; set beams to 1")
        if not self.sample and self.candidates > self.beams:
            raise OptionError(
                f"{self.candidates} candidates need as many beams, or sampling; beams is {self.beams}"
            )


# No words at all is no caption and no answer.
CAPTION = Options(beams=3, min_tokens=1)
# An answer's score is its plain log-probability, and the other beams are its alternatives.
ANSWER = Options(beams=5, candidates=5, min_tokens=1, max_tokens=12, length_penalty=0.0)

# A document is read to its end; the decoder's room is the limit.
READING = Options(max_tokens=4096)
# What Florence-2 is told to do, as its makers choose words.
TOLD = Options(beams=3, max_tokens=4096, no_repeat_ngram=3)


def choose(defaults: Options, given: Mapping[str, Any]) -> Options:
    """What a caller gave over a task's defaults: sampling needs no beams, and candidates need as many.

    Raises OptionError.
    """
    try:
        given = fit_fields(Options, given)
    except FieldError as misfit:
        raise OptionError(str(misfit)) from None
    values = {**vars(defaults), **given}
    if values["sample"] and "beams" not in given:
        values["beams"] = 1
    if "candidates" in given and "beams" not in given and not values["sample"]:
        values["beams"] = max(values["beams"], values["candidates"])
    if "beams" in given and "candidates" not in given:
        values["candidates"] = min(values["candidates"], values["beams"])
    if values["sample"] and "candidates" not in given:
        values["candidates"] = 1
    return Options(**values)
