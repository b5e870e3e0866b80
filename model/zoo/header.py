"""Read the header of a safetensors file: names, number formats and shapes of the tensors, and the metadata.

The header is read without mapping the file, unlike `safe_open`. If another file is copied over a mapped file, the
system kills the process, and users copy files into the weights folder at any time.
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from model.errors import BadWeights

_LENGTH: Final = 8
"""Bytes of the header's length, little endian."""
_MOST: Final = 8 * 1024**2
"""Most bytes of a header; a large network needs a hundredth."""
_BYTES: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of a number, by the number formats of weights."""


def write_tensors(tensors: dict[str, Tensor], path: Path, notes: dict[str, str]) -> None:
    """Write a safetensors file. Raises OSError if writing fails, instead of safetensors' own error."""
    try:
        save_file(tensors, path, metadata=notes)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file."""

    shapes: dict[str, tuple[int, ...]]
    """Shape of each tensor, by name."""
    notes: dict[str, str]
    """Metadata."""


def read_header(path: Path) -> Header:
    """Read the header of a file and nothing else. Raises BadWeights with the reason, and OSError."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(_LENGTH), "little")
        return _parsed(file.read(min(length, _MOST)), length, size)


def header_of(data: bytes) -> Header:
    """Read the header from the bytes of a file. Raises BadWeights with the reason."""
    length = int.from_bytes(data[:_LENGTH], "little")
    return _parsed(data[_LENGTH : _LENGTH + min(length, _MOST)], length, len(data))


def _parsed(text: bytes, length: int, size: int) -> Header:
    """Parse and check a header of `length` bytes in a file of `size` bytes."""
    if size < _LENGTH or not 2 <= length <= min(_MOST, size - _LENGTH) or len(text) != length:
        raise BadWeights("not a safetensors file, or only its beginning")
    try:
        content: Any = json.loads(text)
        notes = content.pop("__metadata__", None) or {}
        shapes = {name: _shape(entry) for name, entry in content.items()}
        end = max((entry["data_offsets"][1] for entry in content.values()), default=0)
        notes = {name: value for name, value in notes.items() if isinstance(value, str)}
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise BadWeights("the header is damaged") from error
    if _LENGTH + length + end != size:
        raise BadWeights(f"the file is damaged: it has {size} bytes instead of {_LENGTH + length + end}")
    return Header(shapes, notes)


def _shape(entry: dict[str, Any]) -> tuple[int, ...]:
    """Return the shape of a tensor. Raises ValueError if its size does not match its bytes."""
    shape = tuple(int(side) for side in entry["shape"])
    start, end = entry["data_offsets"]
    each = _BYTES.get(entry["dtype"])
    if min(shape, default=0) < 0 or not 0 <= start <= end or (each and end - start != math.prod(shape) * each):
        raise ValueError("the size of a tensor is wrong")
    return shape
