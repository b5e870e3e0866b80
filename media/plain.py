"""Dataclasses ↔ JSON, for what comes out of a process that is not trusted: nothing is ever unpickled from it."""

from __future__ import annotations

import dataclasses
import enum
import types
from fractions import Fraction
from typing import Any, Final, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")

SLOTS: Final = 4
"""Frames that may be decoded ahead in shared memory."""


def to_plain(value: Any) -> Any:
    """What JSON can hold: dataclasses become objects, fractions pairs, bytes hexadecimal text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Fraction):
        return [value.numerator, value.denominator]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    return value


def from_plain(kind: type[T], value: Any) -> T:
    """The inverse of `to_plain`. Raises TypeError, ValueError or KeyError if `value` is no `kind`."""
    return cast(T, _restore(kind, value))


def _restore(kind: Any, value: Any) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        (kind,) = (option for option in get_args(kind) if option is not type(None))
        return _restore(kind, value)
    if origin is tuple:
        items = get_args(kind)
        return tuple(_restore(items[0] if items[-1] is Ellipsis else items[at], item) for at, item in enumerate(value))
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: _restore(hints[name], value[name]) for name in hints if name in value})  # type: ignore[operator]
    if kind is Fraction:
        return Fraction(int(value[0]), int(value[1]))
    if kind is bytes:
        return bytes.fromhex(value)
    if issubclass(kind, enum.Enum) or kind is float:
        return kind(value)
    if type(value) is not kind:
        raise TypeError(f"{value!r} is not {kind.__name__}")
    return value
