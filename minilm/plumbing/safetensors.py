"""Tensors in a file, in the safetensors format (huggingface/safetensors, README, "Format"), by hand.

8 bytes     n, the length of the header (unsigned, little-endian)
n bytes     JSON: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}
the rest    the numbers, little-endian; data_offsets count from here. Unlike in a pickle, no code can run
"""

import json
import math
import os

import torch

from .errors import UserError
from .folders import atomic_write

DTYPES = dict(F64=torch.float64, F32=torch.float32, F16=torch.float16, BF16=torch.bfloat16, BOOL=torch.bool)
DTYPES |= dict(I64=torch.int64, I32=torch.int32, I16=torch.int16, I8=torch.int8, U8=torch.uint8)
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_tensors(path, tensors: dict[str, torch.Tensor]) -> None:
    """Write named tensors atomically; UserError for a type or a name that the format cannot hold."""
    header, end = {"__metadata__": {"format": "pt"}}, 0  # without which transformers refuses the file
    # Wide types first: then each tensor starts at a multiple of the size of its numbers.
    tensors = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))
    for name, tensor in tensors.items():
        if tensor.dtype not in NAMES or name in header:
            raise UserError(f"{path}: cannot hold {name!r} of type {tensor.dtype}")
        begin, end = end, end + tensor.nbytes
        header[name] = dict(dtype=NAMES[tensor.dtype], shape=[*tensor.shape], data_offsets=[begin, end])
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)

    def write(file):
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():  # one contiguous copy at a time
            file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)

    atomic_write(path, write)


def read_tensors(path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file by name, in the order of their bytes; UserError says what is wrong."""
    try:
        with open(path, "rb") as file:
            size, n = os.fstat(file.fileno()).st_size, int.from_bytes(file.read(8), "little")
            if n > min(size - 8, 100_000_000):  # the safetensors library has this limit, too
                raise ValueError(f"the header is {n} bytes long, the file {size}")
            header, tensors, position, room = json.loads(file.read(n).decode()), {}, 0, size - 8 - n
            header.pop("__metadata__", None)
            for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
                dtype, shape, (begin, end) = DTYPES.get(entry["dtype"]), entry["shape"], entry["data_offsets"]
                # type() and not isinstance(): to Python true is an int. 64 dimensions are torch's limit too.
                whole = all(type(number) is int and number >= 0 for number in [*shape, begin, end])
                if not (dtype and whole and len(shape) <= 64):
                    raise ValueError(f"{name!r} is {entry}; known types are {', '.join(DTYPES)}")
                n_byte = math.prod(shape) * dtype.itemsize
                if begin != position or end != position + n_byte or end > room:
                    raise ValueError(f"{name!r} is {entry}, takes {n_byte} bytes after {position} of {room}")
                flat, position = torch.empty(n_byte, dtype=torch.uint8), end
                file.readinto(flat.numpy().data)
                tensors[name] = flat.view(dtype).reshape(shape)
            if position != room:
                raise ValueError(f"the tensors take {position} bytes, the file has {room} for them")
            return tensors
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path}: not a complete safetensors file: {str(error)[:300]}") from None


def check_state(path, found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Raise UserError, with the first few differences, unless both have the same names and shapes."""
    ours, wanted = ({n: [*getattr(t, "shape", "?")] for n, t in state.items()} for state in (found, expected))
    wrong = {
        "missing": [n for n in wanted if n not in ours],
        "unexpected": [str(n) for n in ours if n not in wanted],
        "of wrong shape": [f"{n}: {ours[n]}, expected {s}" for n, s in wanted.items() if ours.get(n, s) != s],
    }
    if texts := [f"{len(names)} {what} ({', '.join(names[:3])})" for what, names in wrong.items() if names]:
        raise UserError(f"{path} does not fit the model: {'; '.join(texts)}")
