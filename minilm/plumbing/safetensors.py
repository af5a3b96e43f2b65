"""Tensors in a file, in the safetensors format, written and read by hand.

    8 bytes     n, the length of the header (unsigned, little-endian)
    n bytes     JSON: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...,
                       "__metadata__": {"key": "text"}}, filled up with spaces to a multiple of 8
    the rest    the numbers, little-endian; data_offsets count from here

Nothing in such a file can run code, unlike in a pickle. A reader trusts nothing in the header: the tensors
must follow each other without gap or overlap and end where the file ends, so no claim asks for more memory
than the file has bytes. Format: huggingface/safetensors, README, section "Format".
"""

import json
import math
import os
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from .errors import UserError
from .folders import atomic_write

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library
METADATA = "__metadata__"


def write_tensors(
    path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write named tensors atomically. Two names of one tensor are written twice.

    `metadata`: texts to keep beside the tensors; none: {"format": "pt"}, which transformers asks for.
    UserError for a tensor of a type that the format (or this module) does not have.
    """
    header: dict[str, dict] = {METADATA: {"format": "pt"} if metadata is None else metadata}
    for name, tensor in tensors.items():
        if tensor.dtype not in NAMES or name == METADATA:
            raise UserError(f"{path}: cannot hold {name!r} of type {tensor.dtype}")
    # Wide numbers first: then each tensor starts at a multiple of its number's size.
    ordered = sorted(tensors, key=lambda name: -tensors[name].element_size())
    end = 0
    for name in ordered:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)

    def write(file: BinaryIO) -> None:
        """Write header and tensors."""
        file.write(len(text).to_bytes(8, "little") + text)
        for name in ordered:  # one contiguous copy at a time
            flat = tensors[name].detach().cpu().contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().data)

    atomic_write(path, write)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, in the order of their bytes. They own their memory.

    UserError names the file and what is wrong with it.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            header = read_header(file, size)
            return {name: read_tensor(file, name, *entry) for name, entry in header.items()}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except FormatError as error:
        reason = str(error)[:300]  # it may quote a header made to be long
        raise UserError(f"{path}: not a complete safetensors file: {reason}") from None


class FormatError(Exception):
    """What is wrong with a file; `read_tensors` adds which."""


def read_header(file: BinaryIO, size: int) -> dict[str, tuple[torch.dtype, list[int], int]]:
    """Return name -> (dtype, shape, number of bytes), in the order of the bytes in a file of `size` bytes.

    Raises FormatError unless the tensors fill the rest of the file exactly.
    """
    length = int.from_bytes(file.read(8), "little")
    if length > size - 8:  # also where there are no 8 bytes
        raise FormatError(f"the header is {length} bytes long, the file {size}")
    if length > MAX_HEADER:
        raise FormatError(f"the header is {length} bytes long, at most {MAX_HEADER} are allowed")
    try:
        header = json.loads(file.read(length).decode(), object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise FormatError("the header is not a JSON object")
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise FormatError(f"{METADATA} is not an object of texts")
    entries = sorted((*check_entry(name, entry), name) for name, entry in header.items())
    position, checked = 0, {}
    for begin, end, name in entries:
        if begin != position:
            what = "overlaps the tensor before it" if begin < position else "leaves a gap before it"
            raise FormatError(f"{name!r} {what}: it starts at byte {begin}, expected {position}")
        checked[name] = (DTYPES[header[name]["dtype"]], header[name]["shape"], end - begin)
        position = end
    if position != size - 8 - length:
        raise FormatError(f"the tensors take {position} bytes, the file has {size - 8 - length} for them")
    return checked


def without_duplicates(pairs: list[tuple[str, object]]) -> dict:
    """Build a JSON object; FormatError where a key occurs twice."""
    built = {}
    for name, value in pairs:
        if name in built:
            raise FormatError(f"{name!r} occurs twice")
        built[name] = value
    return built


def check_entry(name: str, entry) -> tuple[int, int]:
    """Return the offsets (begin, end) of one tensor; FormatError unless type, shape and offsets agree."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{name!r} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FormatError(f"{name!r} has the type {dtype!r}, known are {', '.join(DTYPES)}")
    for numbers in (shape, offsets):
        # type() and not isinstance(): to Python true is an int.
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
            raise FormatError(f"{name!r} has the shape {shape} and the offsets {offsets}")
    if len(shape) > 64 or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FormatError(f"{name!r} has {len(shape)} dimensions and the offsets {offsets}")
    n_byte = math.prod(shape) * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != n_byte:
        raise FormatError(f"{name!r} of shape {shape} takes {n_byte} bytes, its offsets are {offsets}")
    return offsets[0], offsets[1]


def read_tensor(file: BinaryIO, name: str, dtype: torch.dtype, shape: list[int], n_byte: int) -> Tensor:
    """Read the next `n_byte` bytes of the file straight into a new tensor of this type and shape."""
    flat = torch.empty(n_byte, dtype=torch.uint8)
    if file.readinto(flat.numpy().data) != n_byte:
        raise FormatError(f"{name!r} ends too early")
    if dtype == torch.bool and bool((flat > 1).any()):
        raise FormatError(f"{name!r} is of true and false, but holds a byte that is neither 1 nor 0")
    try:
        return flat.view(dtype).reshape(shape)
    except RuntimeError as error:  # an empty tensor whose other dimensions are beyond any memory
        raise FormatError(f"{name!r} has the shape {shape} ({error})") from None


def check_state(path: str | Path, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raise UserError, naming the first few, unless both have the same names with the same shapes."""

    def shape(tensor: Tensor) -> str:
        return "x".join(map(str, tensor.shape)) or "scalar"

    differing = [n for n in expected if n in found and found[n].shape != expected[n].shape]
    problems = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "of another shape": [
            f"{name}: {shape(found[name])}, expected {shape(expected[name])}" for name in differing
        ],
    }
    texts = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in problems.items()
        if names
    ]
    if texts:
        raise UserError(f"{path} does not fit the model: {'; '.join(texts)}")
