"""Grades plumbing/safetensors.py: the safetensors format, and every way in which a file can lie."""

import io
import json
import os
import random
import re

import pytest
import torch

from minilm.plumbing.errors import UserError
from minilm.plumbing.safetensors import (
    DTYPES,
    FormatError,
    check_entry,
    check_state,
    read_header,
    read_tensor,
    read_tensors,
    without_duplicates,
    write_tensors,
)


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def file_bytes(header, data=b"") -> bytes:
    """The bytes of a file with this header, right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def every_dtype() -> dict[str, torch.Tensor]:
    numbers = torch.linspace(0, 100, 15).reshape(3, 5)
    return {f"t.{d}": numbers > 50 if d == torch.bool else numbers.to(d) for d in DTYPES.values()}


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


def test_tensors_of_every_type_come_back(tmp_path):
    tensors = every_dtype() | {
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "one": torch.ones(1, dtype=torch.int8),
        "ç": torch.arange(4),
    }
    write_tensors(tmp_path / "a", tensors)
    found = read_tensors(tmp_path / "a")
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert same(found[name], tensor), name


def test_the_bytes_are_those_of_the_format(tmp_path):
    write_tensors(tmp_path / "a", {"w": torch.tensor([[1, 2], [3, 258]], dtype=torch.int16)}, {"k": "v"})
    data = (tmp_path / "a").read_bytes()
    n = int.from_bytes(data[:8], "little")
    assert n % 8 == 0, "the header is filled up with spaces to a multiple of 8"
    assert json.loads(data[8 : 8 + n]) == {"__metadata__": {"k": "v"}, "w": entry([2, 2], 0, 8, "I16")}
    assert data[8 + n :] == bytes([1, 0, 2, 0, 3, 0, 2, 1]), "row by row, little-endian"


def test_every_tensor_is_aligned_to_its_numbers(tmp_path):
    tensors = {
        "a": torch.ones(3, dtype=torch.int8),
        "b": torch.ones(3),
        "c": torch.ones(1, dtype=torch.float64),
    }
    write_tensors(tmp_path / "a", tensors)
    data = (tmp_path / "a").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    for name, tensor in tensors.items():
        assert header[name]["data_offsets"][0] % tensor.element_size() == 0, name


def test_transformers_is_told_where_the_tensors_come_from(tmp_path):
    write_tensors(tmp_path / "a", {})
    assert b'{"format": "pt"}' in (tmp_path / "a").read_bytes()
    assert read_tensors(tmp_path / "a") == {}


def test_views_are_written_as_they_look(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"t": whole.t(), "column": whole[:, 1], "parameter": torch.nn.Parameter(whole)}
    write_tensors(tmp_path / "a", tensors)
    found = read_tensors(tmp_path / "a")
    assert all(same(found[name], tensors[name].detach()) for name in tensors)


def test_what_is_read_owns_its_memory(tmp_path):
    write_tensors(tmp_path / "a", {"x": torch.zeros(2, 3), "y": torch.ones(4)})
    found = read_tensors(tmp_path / "a")
    found["x"].fill_(7)
    assert found["y"].eq(1).all()
    assert read_tensors(tmp_path / "a")["x"].eq(0).all(), "writing into a tensor must not change the file"
    assert not found["x"].requires_grad


def test_a_write_that_fails_keeps_the_old_file(tmp_path):
    write_tensors(tmp_path / "a", {"x": torch.zeros(2)})
    for wrong in ({"x": torch.zeros(2, dtype=torch.complex64)}, {"__metadata__": torch.zeros(2)}):
        with pytest.raises(UserError, match="cannot hold"):
            write_tensors(tmp_path / "a", wrong)
    assert read_tensors(tmp_path / "a")["x"].shape == (2,)
    assert os.listdir(tmp_path) == ["a"]


FOUR = b"\0" * 4
WRONG = {
    "empty file": (b"", "header"),
    "seven bytes": (b"\0" * 7, "header"),
    "header beyond the file": (b"\xff" * 8 + b"{}", "header is 18446744073709551615 bytes long, the file 10"),
    "no JSON": (file_bytes(b"{nonsense}"), "not JSON"),
    "no UTF-8": (file_bytes(b'{"\xff": 1}'), "not JSON"),
    "no object": (file_bytes(b"[]"), "not a JSON object"),
    "deep": (file_bytes(b"[" * 100_000), "not JSON"),
    "a number of 5000 digits": (file_bytes(b'{"a": ' + b"1" * 5000 + b"}"), "not JSON"),
    "metadata": (file_bytes({"__metadata__": {"a": 1}}), "__metadata__"),
    "metadata list": (file_bytes({"__metadata__": []}), "__metadata__"),
    "twice": (file_bytes(b'{"a": 1, "a": 2}'), "'a' occurs twice"),
    "no entry": (file_bytes({"a": 3}), "'a' is not described"),
    "no shape": (file_bytes({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, FOUR), "'a' is not described"),
    "more keys": (file_bytes({"a": entry([1], 0, 4) | {"x": 1}}, FOUR), "'a' is not described"),
    "unknown type": (file_bytes({"a": entry([1], 0, 4, "F33")}, FOUR), "F33"),
    "long names": (file_bytes({"a": entry([1], 0, 4, "F" * 5000)}, FOUR), "the type 'FFF"),
    "type is a list": (file_bytes({"a": entry([1], 0, 4, ["F32"])}, FOUR), "the type"),
    "shape is true": (file_bytes({"a": entry([True], 0, 4)}, FOUR), "the shape"),
    "shape is a float": (file_bytes({"a": entry([1.0], 0, 4)}, FOUR), "the shape"),
    "negative shape": (file_bytes({"a": entry([-1, -1], 0, 4)}, FOUR), "the shape"),
    "offsets backwards": (file_bytes({"a": entry([1], 4, 0)}, FOUR), "offsets"),
    "three offsets": (file_bytes({"a": entry([1], 0, 4) | {"data_offsets": [0, 4, 8]}}, FOUR), "offsets"),
    "negative offset": (file_bytes({"a": entry([1], -4, 0)}, FOUR), "offsets"),
    "65 dimensions": (file_bytes({"a": entry([1] * 65, 0, 4)}, FOUR), "65 dimensions"),
    "length": (file_bytes({"a": entry([2], 0, 4)}, FOUR), "takes 8 bytes"),
    "huge claim": (file_bytes({"a": entry([2**40], 0, 2**42)}, FOUR), "the tensors take"),
    "overflow": (file_bytes({"a": entry([2**62, 4], 0, 0)}), "takes"),
    "empty but huge": (file_bytes({"a": entry([2**62, 2**62, 0], 0, 0)}), "the shape"),
    "gap": (file_bytes({"a": entry([1], 4, 8)}, FOUR * 2), "'a' leaves a gap"),
    "overlap": (file_bytes({"a": entry([2], 0, 8), "b": entry([1], 4, 8)}, FOUR * 2), "'b' overlaps"),
    "same bytes": (file_bytes({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, FOUR), "'b' overlaps"),
    "cut off": (file_bytes({"a": entry([2], 0, 8)}, FOUR), "take 8 bytes, the file has 4"),
    "bytes left over": (file_bytes({"a": entry([1], 0, 4)}, FOUR * 2), "take 4 bytes, the file has 8"),
    "two is no truth": (file_bytes({"a": entry([2], 0, 2, "BOOL")}, b"\1\2"), "neither 1 nor 0"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, what):
    data, message = WRONG[what]
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(UserError, match="model.safetensors: not a complete safetensors file: ") as caught:
        read_tensors(tmp_path / "model.safetensors")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_header_above_the_limit_is_not_read(tmp_path):
    with open(tmp_path / "a", "wb") as file:
        file.write((100_000_001).to_bytes(8, "little"))
        file.truncate(100_000_100)  # a hole: takes no space on the disk
    with pytest.raises(UserError, match="at most 100000000"):
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
    assert list(found) == ["first", "second"]
    assert (found["first"].item(), found["second"].tolist()) == (1.0, [2.0])


def test_a_file_that_is_not_there(tmp_path):
    for path in [tmp_path / "none", tmp_path]:
        with pytest.raises(UserError, match="cannot be read"):
            read_tensors(path)


def test_read_header_gives_type_shape_and_bytes():
    data = file_bytes({"b": entry([1, 2], 2, 10), "a": entry([2], 0, 2, "I8")}, b"\0" * 10)
    header = read_header(io.BytesIO(data), len(data))
    assert header == {"a": (torch.int8, [2], 2), "b": (torch.float32, [1, 2], 8)}


def test_check_entry_gives_the_offsets():
    assert check_entry("a", entry([3, 0], 5, 5)) == (5, 5)
    assert check_entry("a", entry([3, 2], 6, 18, "BF16")) == (6, 18)
    with pytest.raises(FormatError, match="'a'"):
        check_entry("a", None)


def test_without_duplicates_builds_the_object():
    assert without_duplicates([("a", 1), ("b", 2)]) == {"a": 1, "b": 2}
    with pytest.raises(FormatError, match="'b' occurs twice"):
        without_duplicates([("b", 1), ("a", 1), ("b", 1)])


def test_read_tensor_reads_the_next_bytes_only():
    file = io.BytesIO(bytes(range(6)))
    assert read_tensor(file, "a", torch.uint8, [2, 1], 2).tolist() == [[0], [1]]
    assert read_tensor(file, "b", torch.uint8, [3], 3).tolist() == [2, 3, 4]
    with pytest.raises(FormatError, match="'c' ends too early"):
        read_tensor(file, "c", torch.uint8, [2], 2)


def test_weights_that_do_not_fit_are_named():
    expected = {name: torch.zeros(2, 3) for name in "abcdef"}
    found = {"a": torch.zeros(3, 2), "b": torch.zeros(2, 3), "z": torch.zeros(1), "c": torch.tensor(1.0)}
    with pytest.raises(UserError) as caught:
        check_state("w", found, expected)
    assert str(caught.value) == (
        "w does not fit the model: 3 missing (d, e, f); 1 unexpected (z); "
        "2 of another shape (a: 3x2, expected 2x3, c: scalar, expected 2x3)"
    )
    check_state("w", expected, expected)
    with pytest.raises(UserError, match=r"6 missing \(a, b, c, \.\.\.\)"):
        check_state("w", {}, expected)


def mutated(whole: bytes, draw: random.Random) -> bytes:
    """Return a file with some damage: other bytes, doubled, dropped ones, a lie in a number, a cut."""
    kind, where = draw.randrange(5), draw.randrange(len(whole))
    if kind == 0:  # bytes become others, most often in the header
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            damaged[min(int(draw.expovariate(0.01)), len(whole) - 1)] = draw.randrange(256)
        return bytes(damaged)
    if kind == 1:
        return whole[:where]
    if kind == 2:
        other = draw.randrange(len(whole))
        return whole[:where] + whole[other : other + draw.randrange(20)] + whole[where:]
    if kind == 3:
        return whole[:where] + whole[where + draw.randint(1, 9) :]
    header_end = 8 + int.from_bytes(whole[:8], "little")
    numbers = list(re.finditer(rb"\d+", whole[8:header_end]))
    found = draw.choice(numbers)
    lie = draw.choice([b"0", b"-1", b"9" * 19, b"1e9", b"true", b"[]", str(2 ** draw.randrange(64)).encode()])
    text = whole[8:header_end][: found.start()] + lie + whole[8:header_end][found.end() :]
    return len(text).to_bytes(8, "little") + text + whole[header_end:]


def test_ten_thousand_damaged_files_are_read_or_refused_in_one_line(tmp_path):
    write_tensors(tmp_path / "whole", every_dtype())
    whole, draw, path = (tmp_path / "whole").read_bytes(), random.Random(0), tmp_path / "damaged"
    refused = 0
    for i in range(10_000):
        content = mutated(whole, draw)
        path.write_bytes(content)
        try:
            read = read_tensors(path)
        except UserError as error:
            refused += 1
            assert str(path) in str(error), f"file {i} is not named: {error}"
        else:
            n_byte = sum(tensor.numel() * tensor.element_size() for tensor in read.values())
            assert n_byte < len(content), f"file {i}: more was read than the file holds"
    assert 5_000 < refused < 10_000, "some damage is in the numbers alone, and cannot be noticed"
