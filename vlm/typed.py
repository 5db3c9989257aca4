"""Values from JSON, YAML or a caller as a dataclass' fields: what does not fit is named in a sentence.

A dataclass says all of it in its annotations, `Annotated[int, Limit]` where the type is not enough.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, Literal, NamedTuple

from vlm.errors import UserError

SHOWN = 80  # characters of a wrong value
QUOTES = "'\""


class FieldError(UserError):
    """A value that a field does not take; the message begins with the field's name."""


class Limit(NamedTuple):
    """What a value must be beside its type: in words, which follow "must be", and as a test."""

    words: str
    holds: Callable[[Any], bool]


Count = Annotated[int, Limit("at least 1", lambda value: value > 0)]
Natural = Annotated[int, Limit("0 or more", lambda value: value >= 0)]
Finite = Annotated[float, Limit("finite", math.isfinite)]
Positive = Annotated[float, Limit("positive and finite", lambda value: 0 < value < math.inf)]
NonNegative = Annotated[float, Limit("finite and 0 or more", lambda value: 0 <= value < math.inf)]
Share = Annotated[float, Limit("in [0, 1)", lambda value: 0 <= value < 1)]

_WORDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}


def build(kind: type, values: Any, error: type[FieldError], what: str) -> Any:
    """The dataclass `kind` of a mapping, and of mappings in it.

    Raises `error` for an unknown or missing key, and for a value that does not fit, by its path as in
    `sources[0].weight`; `what` names the whole.
    """
    if not isinstance(values, Mapping):
        raise error(f"{what} must be a mapping, not {_shown(values)}")
    try:
        return _build(kind, values, "")
    except FieldError as misfit:
        raise error(str(misfit)) from None


def fit_fields(kind: type, values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Some of a dataclass' fields, each as its type has it. Raises FieldError; names begin with `where`."""
    hints = _hints(kind)
    for name in values:
        if name not in hints:
            close = difflib.get_close_matches(str(name), hints, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(hints)}"
            raise FieldError(f"unknown key {where}{_shown(name).strip(QUOTES)}; {hint}")
    return {name: fit(hints[name], value, f"{where}{name}") for name, value in values.items()}


def check_fields(instance: Any, error: type[FieldError] = FieldError) -> None:
    """For `__post_init__`: each field as its type has it, a list where a tuple is meant or numpy's number as well.

    Raises `error`.
    """
    own: Any = type(instance)
    for name, kind in _hints(own).items():
        try:
            value = fit(kind, getattr(instance, name), name)
        except FieldError as misfit:
            raise error(str(misfit)) from None
        object.__setattr__(instance, name, value)  # of a frozen dataclass, before anyone sees it


def fit(kind: Any, value: Any, where: str) -> Any:
    """`value` as the type `kind` has it. Raises FieldError, which begins with `where`."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is Annotated:
        fitted = fit(inner[0], value, where)
        for limit in inner[1:]:
            if not limit.holds(fitted):
                raise _misfit(where, limit.words, value)
        return fitted
    if origin in (typing.Union, types.UnionType):  # only ever "or None"
        if value is None:
            return None
        return fit(next(k for k in inner if k is not types.NoneType), value, where)
    if origin is Literal:
        if value is False and "no" in inner:  # YAML reads a bare no as false
            return "no"
        if not isinstance(value, str) or value not in inner:
            raise _misfit(where, f"one of {', '.join(inner)}", value)
        return value
    if origin is tuple:
        return _fit_tuple(inner, value, where)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if isinstance(value, Mapping):
            return _build(kind, value, f"{where}.")
        if not isinstance(value, kind):
            raise _misfit(where, "a mapping", value)
        return value
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise _misfit(where, "a mapping of names to values", value)
        return {name: fit(inner[1], v, f"{where}.{name}") for name, v in value.items()}
    return _fit_scalar(kind, value, where)


def _fit_tuple(inner: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _misfit(where, "a list", value)
    if inner[-1] is Ellipsis:
        inner = (inner[0],) * len(value)
    if len(inner) != len(value):
        raise FieldError(f"{where} must have {len(inner)} values, not {len(value)}")
    return tuple(fit(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(inner, value)))


def _fit_scalar(kind: type, value: Any, where: str) -> Any:
    """Text, truth or a number: none stands for another, but a whole number for any number."""
    if kind is int and isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if kind is float and isinstance(value, Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # a whole number of hundreds of digits
            number = math.nan
        if not math.isnan(number):
            return number
    elif kind not in (int, float) and isinstance(value, kind):
        return value
    raise _misfit(where, _WORDS[kind], value)


def _build(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    fitted = fit_fields(kind, values, where)
    for field in dataclasses.fields(kind):
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and field.name not in values:
            raise FieldError(f"{where}{field.name} is missing")
    try:
        return kind(**fitted)
    except FieldError as misfit:  # of fields that do not go together
        raise FieldError(f"{where}{misfit}") from None


@cache
def _hints(kind: type) -> dict[str, Any]:
    """The types of a dataclass' fields, in their order."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _misfit(where: str, wanted: str, value: Any) -> FieldError:
    return FieldError(f"{where} must be {wanted}, not {_shown(value)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
