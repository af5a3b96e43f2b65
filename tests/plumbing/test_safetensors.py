"""Grades plumbing/safetensors.py: the safetensors format, and every way in which a file can lie."""

import json
import os
import random
import re

import pytest
import torch

from minilm.plumbing.errors import UserError
from minilm.plumbing.safetensors import DTYPES, check_state, read_tensors, write_tensors


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def file_bytes(header, data=b"") -> bytes:
    """The bytes of a file with this header, right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def every_dtype() -> dict[str, torch.Tensor]:
    numbers = torch.linspace(0, 100, 15).reshape(3, 5)
    return {f"t.{d}": numbers > 50 if d == torch.bool else numbers.to(d) for d in DTYPES.values()}


def test_tensors_of_every_type_and_every_view_come_back(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = every_dtype() | dict(scalar=torch.tensor(2.5), empty=torch.zeros(0, 3), ç=torch.arange(4))
    tensors |= dict(transposed=whole.t(), column=whole[:, 1], parameter=torch.nn.Parameter(whole))
    tensors |= {"64 dimensions": torch.ones([1] * 64)}
    write_tensors(tmp_path / "a", tensors)
    found = read_tensors(tmp_path / "a")
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
    assert '"ç"'.encode() in (tmp_path / "a").read_bytes(), "names are UTF-8, as people read them"


def test_the_bytes_are_those_of_the_format(tmp_path):
    tensors = {"one": torch.ones(1, dtype=torch.int8), "w": torch.tensor([[1, 2], [3, 258]]).short()}
    write_tensors(tmp_path / "a", tensors)
    data = (tmp_path / "a").read_bytes()
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + n])
    assert header.pop("__metadata__") == {"format": "pt"}, "transformers asks where the tensors come from"
    expected = {"w": entry([2, 2], 0, 8, "I16"), "one": entry([1], 8, 9, "I8")}
    assert header == expected, "wide numbers come first: each tensor begins at a multiple of its size"
    assert data[8 + n :] == bytes([1, 0, 2, 0, 3, 0, 2, 1, 1]), "row by row, little-endian"
    write_tensors(tmp_path / "a", {})
    assert read_tensors(tmp_path / "a") == {}
    for n in range(1, 9):
        write_tensors(tmp_path / "a", {"w" * n: torch.ones(1)})
        length = int.from_bytes((tmp_path / "a").read_bytes()[:8], "little")
        assert length % 8 == 0, "the header is filled up with spaces"


def test_what_is_read_owns_its_memory(tmp_path):
    write_tensors(tmp_path / "a", {"x": torch.zeros(2, 3), "y": torch.ones(4)})
    found = read_tensors(tmp_path / "a")
    found["x"].fill_(7)
    assert read_tensors(tmp_path / "a")["x"].eq(0).all(), "writing into a tensor must not change the file"
    assert not found["x"].requires_grad


def test_a_write_that_fails_keeps_the_old_file(tmp_path):
    write_tensors(tmp_path / "a", {"x": torch.zeros(2)})
    for wrong in ({"x": torch.zeros(2, dtype=torch.complex64)}, {"__metadata__": torch.zeros(2)}):
        with pytest.raises(UserError, match="cannot hold"):
            write_tensors(tmp_path / "a", wrong)
    assert read_tensors(tmp_path / "a")["x"].shape == (2,) and os.listdir(tmp_path) == ["a"]


FOUR = b"\0" * 4
WRONG = {
    "empty file": (b"", "the header is 0 bytes long, the file 0"),
    "seven bytes": (b"\0" * 7, "the file 7"),
    "header beyond the file": (b"\xff" * 8 + b"{}", "header is 18446744073709551615 bytes long, the file 10"),
    "no JSON": (file_bytes(b"{nonsense}"), "line 1"),
    "no UTF-8": (file_bytes(b'{"\xff": 1}'), "utf-8"),
    "no object": (file_bytes(b"[]"), ""),
    "deep": (file_bytes(b"[" * 100_000), "decoding a JSON array"),
    "a number of 5000 digits": (file_bytes(b'{"a": ' + b"1" * 5000 + b"}"), "digits"),
    "no entry": (file_bytes({"a": 3}), ""),
    "no shape": (file_bytes({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, FOUR), "'shape'"),
    "unknown type": (file_bytes({"a": entry([1], 0, 4, "F33")}, FOUR), "F33"),
    "long names": (file_bytes({"a": entry([1], 0, 4, "F" * 5000)}, FOUR), "FFF"),
    "type is a list": (file_bytes({"a": entry([1], 0, 4, ["F32"])}, FOUR), "list"),
    "shape is a text": (file_bytes({"a": entry("1", 0, 4)}, FOUR), "'a' is"),
    "shape is true": (file_bytes({"a": entry([True], 0, 4)}, FOUR), "[True]"),
    "shape is a float": (file_bytes({"a": entry([1.0], 0, 4)}, FOUR), "[1.0]"),
    "negative shape": (file_bytes({"a": entry([-1, -1], 0, 4)}, FOUR), "[-1, -1]"),
    "offsets backwards": (file_bytes({"a": entry([1], 4, 0)}, FOUR), "after 0 of"),
    "three offsets": (file_bytes({"a": entry([1], 0, 4) | {"data_offsets": [0, 4, 8]}}, FOUR), "unpack"),
    "negative offset": (file_bytes({"a": entry([1], -4, 0)}, FOUR), "[-4, 0]"),
    "65 dimensions": (file_bytes({"a": entry([1] * 65, 0, 4)}, FOUR), "'a' is"),
    "length": (file_bytes({"a": entry([2], 0, 4)}, FOUR), "takes 8 bytes after 0 of 4"),
    "huge claim": (file_bytes({"a": entry([2**40], 0, 2**42)}, FOUR), f"takes {2**42} bytes"),
    "overflow": (file_bytes({"a": entry([2**62, 4], 0, 0)}), f"takes {2**66} bytes"),
    "empty but huge": (file_bytes({"a": entry([2**62, 2**62, 0], 0, 0)}), ""),
    "beyond all numbers": (file_bytes({"a": entry([10**4000] * 64, 0, 4)}, FOUR), "digits"),
    "gap": (file_bytes({"a": entry([1], 4, 8)}, FOUR * 2), "after 0 of"),
    "overlap": (file_bytes({"a": entry([2], 0, 8), "b": entry([1], 4, 8)}, FOUR * 2), "after 8 of 8"),
    "same bytes": (file_bytes({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, FOUR), "after 4 of 4"),
    "cut off": (file_bytes({"a": entry([2], 0, 8)}, FOUR), "takes 8 bytes after 0 of 4"),
    "bytes left over": (file_bytes({"a": entry([1], 0, 4)}, FOUR * 2), "take 4 bytes, the file has 8"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, what):
    data, message = WRONG[what]
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(UserError, match="model.safetensors: not a complete safetensors file: ") as caught:
        read_tensors(tmp_path / "model.safetensors")
    text = str(caught.value)
    assert message in text and len(text) < 1000 and "\n" not in text


def test_a_header_above_the_limit_is_not_read(tmp_path):
    with open(tmp_path / "a", "wb") as file:
        file.write((100_000_001).to_bytes(8, "little"))
        file.truncate(100_000_100)  # a hole: takes no space on the disk
    with pytest.raises(UserError, match="the header is 100000001 bytes long"):
        read_tensors(tmp_path / "a")


def test_every_cut_of_a_file_is_refused(tmp_path):
    write_tensors(tmp_path / "a", {"x": torch.arange(3), "y": torch.ones(2, dtype=torch.bool)})
    data = (tmp_path / "a").read_bytes()
    for length in range(len(data)):
        (tmp_path / "b").write_bytes(data[:length])
        with pytest.raises(UserError):
            read_tensors(tmp_path / "b")


def test_the_order_in_the_header_does_not_matter(tmp_path):
    data = torch.tensor([1.0, 2.0]).numpy().tobytes()
    (tmp_path / "a").write_bytes(file_bytes({"second": entry([1], 4, 8), "first": entry([], 0, 4)}, data))
    found = read_tensors(tmp_path / "a")
    assert [(name, tensor.tolist()) for name, tensor in found.items()] == [("first", 1.0), ("second", [2.0])]


def test_a_file_that_is_not_there(tmp_path):
    for path in [tmp_path / "none", tmp_path]:
        with pytest.raises(OSError, match=str(path)):
            read_tensors(path)


def test_weights_that_do_not_fit_are_named():
    expected = {name: torch.zeros(2, 3) for name in "abcdef"}
    found = {"a": torch.zeros(3, 2), "b": torch.zeros(2, 3), "z": torch.zeros(1), "c": torch.tensor(1.0)}
    with pytest.raises(UserError) as caught:
        check_state("w", found, expected)
    assert str(caught.value) == (
        "w does not fit the model: 3 missing (d, e, f); 1 unexpected (z); "
        "2 of wrong shape (a: [3, 2], expected [2, 3], c: [], expected [2, 3])"
    )
    check_state("w", expected, expected)
    with pytest.raises(UserError, match=r"6 missing \(a, b, c\)"):
        check_state("w", {}, expected)


def mutated(whole: bytes, draw: random.Random) -> bytes:
    """Return a file with some damage: other bytes, doubled, dropped ones, a lie in a number, a cut."""
    kind, where, other = draw.randrange(5), draw.randrange(len(whole)), draw.randrange(len(whole))
    if kind == 0:  # bytes become others, most often in the header
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            damaged[min(int(draw.expovariate(0.01)), len(whole) - 1)] = draw.randrange(256)
        return bytes(damaged)
    if kind == 1:
        return whole[:where]
    if kind == 2:
        return whole[:where] + whole[other : other + draw.randrange(20)] + whole[where:]
    if kind == 3:
        return whole[:where] + whole[where + draw.randint(1, 9) :]
    end = 8 + int.from_bytes(whole[:8], "little")
    number = draw.choice(list(re.finditer(rb"\d+", whole[:end])))
    lie = draw.choice([b"0", b"-1", b"9" * 19, b"1e9", b"true", b"[]", str(2 ** draw.randrange(64)).encode()])
    text = whole[8 : number.start()] + lie + whole[number.end() : end]
    return len(text).to_bytes(8, "little") + text + whole[end:]


@pytest.mark.parametrize("n", [1_000, pytest.param(10_000, marks=pytest.mark.reliability)])
def test_damaged_files_are_read_or_refused_in_one_line(n, tmp_path):
    write_tensors(tmp_path / "whole", every_dtype())
    whole, draw, path = (tmp_path / "whole").read_bytes(), random.Random(0), tmp_path / "damaged"
    refused = 0
    for i in range(n):
        content = mutated(whole, draw)
        path.write_bytes(content)
        try:
            n_byte = sum(tensor.nbytes for tensor in read_tensors(path).values())
            assert n_byte < len(content), f"file {i}: more was read than the file holds"
        except UserError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error), f"file {i} is not named: {error}"
    assert n / 2 < refused < n, "some damage is in the numbers alone, and cannot be noticed"
