"""A settings file: what answers, and how it chooses words. Two of them are to differ in one thing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vlm.errors import UserError
from vlm.explain.maps import METHODS
from vlm.options import ANSWER, CAPTION, Precision, choose
from vlm.typed import FieldError, build
from vlm.weights.hub import DEFAULT


class AssumptionError(UserError):
    """A settings file that cannot be used; the message names it and says why."""


@dataclass(frozen=True)
class Assumptions:
    """What is assumed: a checkpoint, what it computes in, options of the search, and the `method` of maps.

    With a method it is the maps that are judged, and not the words.
    """

    model: str = DEFAULT
    precision: str = Precision.float32
    openvino: bool = False
    method: str | None = None
    search: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.precision not in list(Precision):
            names = ", ".join(Precision)
            raise FieldError(f"precision must be one of {names}, not {self.precision!r}")
        if self.method is not None and self.method not in METHODS:
            raise FieldError(f"method must be one of {', '.join(METHODS)}, not {self.method!r}")

    @property
    def options(self) -> dict[str, Any]:
        """The options of the search that were given."""
        return dict(self.search or {})

    @property
    def runs(self) -> tuple[str, str, bool, bool]:
        """What two of the same need one loaded model for: its name, precision, OpenVINO and gradients."""
        gradients = self.method is not None and METHODS[self.method].gradients
        return self.model, self.precision, self.openvino, gradients

    def flat(self, task: str) -> dict[str, Any]:
        """Every setting by its name, with the task's default where none was given."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "search"}
        defaults = CAPTION if task == "caption" else ANSWER
        return {**own, **vars(defaults), **self.options}


def read_assumptions(path: Path, task: str) -> Assumptions:
    """The settings of a JSON file, an object such as {"beams": 1}. Raises AssumptionError."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise AssumptionError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise AssumptionError(
            f'{path} is no JSON; write an object of settings, such as {{"beams": 1}}'
        ) from None
    if not isinstance(values, Mapping):
        raise AssumptionError(f'{path} must hold an object of settings, such as {{"beams": 1}}')
    own = {f.name for f in fields(Assumptions)} - {"search"}
    known = [*sorted(own), *vars(CAPTION)]
    if unknown := [name for name in values if name not in known]:
        raise AssumptionError(
            f"{path}: there is no setting {unknown[0]!r}; there are: {', '.join(known)}"
        )
    search = {name: value for name, value in values.items() if name not in own}
    try:
        choose(CAPTION if task == "caption" else ANSWER, search)
        settings = {name: value for name, value in values.items() if name in own}
        return build(Assumptions, {**settings, "search": search}, FieldError, "settings")
    except FieldError as misfit:
        raise AssumptionError(f"{path}: {misfit}") from None


def differing(first: Assumptions, second: Assumptions, task: str) -> dict[str, tuple[Any, Any]]:
    """The settings that are not the same, by name."""
    one, other = first.flat(task), second.flat(task)
    return {name: (one[name], other[name]) for name in one if one[name] != other[name]}


def check_one_thing(changed: Mapping[str, tuple[Any, Any]], several: bool) -> None:
    """Raise AssumptionError where nothing differs, or more than one thing does and not `several` may."""
    if not changed:
        raise AssumptionError("the two files say the same; change one setting in one of them")
    if len(changed) > 1 and not several:
        names = ", ".join(f"{name} ({a} and {b})" for name, (a, b) in changed.items())
        raise AssumptionError(
            f"the two differ in {len(changed)} things: {names}; change one at a time, "
            "so that a difference has one cause, or give --several"
        )
