"""Dataclasses and named tuples ↔ JSON, for messages of the untrusted child. The parent never unpickles them."""

from __future__ import annotations

import dataclasses
import enum
import types
from fractions import Fraction
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Convert to JSON types: records to objects, fractions to pairs, bytes to hexadecimal text."""
    if hasattr(value, "_fields"):
        return {name: to_plain(getattr(value, name)) for name in value._fields}
    if dataclasses.is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Fraction):
        return [value.numerator, value.denominator]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {to_plain(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, enum.Enum):
        return value.value
    return value


def from_plain(kind: type[T], value: Any) -> T:
    """Restore a value of type `kind` from the result of `to_plain`.

    Raises:
        TypeError, ValueError, LookupError, ArithmeticError: `value` does not describe a `kind`.
    """
    return cast(T, _restore(kind, value))


def _restore(kind: Any, value: Any) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _restore_optional(kind, value)
    if origin is tuple:
        return _restore_tuple(get_args(kind), value)
    if origin is dict:
        return _restore_dict(get_args(kind), value)
    if dataclasses.is_dataclass(kind) or hasattr(kind, "_fields"):
        return _restore_record(cast("type[Any]", kind), value)
    return _restore_scalar(kind, value)


def _restore_optional(kind: Any, value: Any) -> Any:
    if value is None:
        return None
    (kind,) = (option for option in get_args(kind) if option is not type(None))
    return _restore(kind, value)


def _restore_tuple(kinds: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    if kinds[-1] is Ellipsis:
        return tuple(_restore(kinds[0], item) for item in value)
    return tuple(_restore(kind, item) for kind, item in zip(kinds, value, strict=True))


def _restore_dict(kinds: tuple[Any, ...], value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is not an object")
    return {_restore(kinds[0], key): _restore(kinds[1], item) for key, item in value.items()}


def _restore_record(kind: type[Any], value: Any) -> Any:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is not an object")
    hints = get_type_hints(kind)
    return kind(**{name: _restore(hints[name], value[name]) for name in hints if name in value})


def _restore_scalar(kind: Any, value: Any) -> Any:
    if kind is Fraction:
        return Fraction(int(value[0]), int(value[1]))
    if kind is bytes:
        return bytes.fromhex(value)
    if issubclass(kind, enum.Enum) or kind is float:
        return kind(value)
    if type(value) is not kind:
        raise TypeError(f"{value!r} is not {kind.__name__}")
    return value
