"""What a safetensors file says of itself at its beginning: names, types and shapes of its tensors, and its notes.

Read by hand, not by mapping the file as `safe_open` does: a process that has mapped a file is ended by the system when
somebody copies another over it at that moment, and a weights folder is where that happens.
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
"""Bytes that hold the header's length, the least significant first."""
_MOST: Final = 8 * 1024**2
"""Bytes of a header: a large network of ours needs a hundredth of it."""
_BYTES: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of a number, of the types that weights have."""


def write_tensors(tensors: dict[str, Tensor], path: Path, notes: dict[str, str]) -> None:
    """Write a safetensors file. OSError where that fails; safetensors has an error of its own for it."""
    try:
        save_file(tensors, path, metadata=notes)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


@dataclass(frozen=True)
class Header:
    """A safetensors file without its numbers."""

    shapes: dict[str, tuple[int, ...]]
    """Of each tensor, by name."""
    notes: dict[str, str]
    """What was written beside the tensors."""


def read_header(path: Path) -> Header:
    """The header of a file, which is not read any further. Raises BadWeights with what is wrong, and OSError."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(_LENGTH), "little")
        return _parsed(file.read(min(length, _MOST)), length, size)


def header_of(data: bytes) -> Header:
    """The same of a file's bytes. Raises BadWeights."""
    length = int.from_bytes(data[:_LENGTH], "little")
    return _parsed(data[_LENGTH : _LENGTH + min(length, _MOST)], length, len(data))


def _parsed(text: bytes, length: int, size: int) -> Header:
    """Check a header of `length` bytes, of a file of `size` bytes in all."""
    if size < _LENGTH or not 2 <= length <= min(_MOST, size - _LENGTH) or len(text) != length:
        raise BadWeights("it is no safetensors file, or only the beginning of one")
    try:
        content: Any = json.loads(text)
        notes = content.pop("__metadata__", None) or {}
        shapes = {name: _shape(entry) for name, entry in content.items()}
        end = max((entry["data_offsets"][1] for entry in content.values()), default=0)
        notes = {name: value for name, value in notes.items() if isinstance(value, str)}
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise BadWeights("its header is damaged") from error
    if _LENGTH + length + end != size:
        raise BadWeights(f"it is damaged: {_LENGTH + length + end} bytes are announced, and {size} are there")
    return Header(shapes, notes)


def _shape(entry: dict[str, Any]) -> tuple[int, ...]:
    """A tensor's shape. Raises ValueError and its like where it has another size than its numbers take."""
    shape = tuple(int(side) for side in entry["shape"])
    start, end = entry["data_offsets"]
    each = _BYTES.get(entry["dtype"])
    if min(shape, default=0) < 0 or not 0 <= start <= end or (each and end - start != math.prod(shape) * each):
        raise ValueError("a tensor's size is wrong")
    return shape
