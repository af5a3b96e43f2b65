"""Grades plumbing/safetensors.py against the safetensors library, in both directions."""

import pytest
import torch
from torch.testing import assert_close

from minilm.plumbing.errors import UserError
from minilm.plumbing.safetensors import DTYPES, read_tensors, write_tensors

safetensors = pytest.importorskip("safetensors")
library = pytest.importorskip("safetensors.torch")


@pytest.fixture
def tensors():
    numbers = torch.linspace(0, 100, 15).reshape(3, 5)
    named = {f"layer.{d}": numbers > 50 if d == torch.bool else numbers.to(d) for d in DTYPES.values()}
    return named | {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "odd": torch.ones(7).char()}


def test_each_reads_what_the_other_writes(tmp_path, tensors):
    write_tensors(tmp_path / "a.safetensors", tensors)
    assert_close(library.load_file(tmp_path / "a.safetensors"), tensors, rtol=0, atol=0)
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    library.save_file(tensors, tmp_path / "b.safetensors", metadata={"format": "pt"})
    assert_close(read_tensors(tmp_path / "b.safetensors"), tensors, rtol=0, atol=0)


def test_both_refuse_a_file_that_was_cut_off_or_changed(tmp_path, tensors):
    write_tensors(tmp_path / "a", tensors)
    data = (tmp_path / "a").read_bytes()
    for wrong in (data[:-1], data + b"\0", b"\xff" + data[1:], data.replace(b"BF16", b"BF61")):
        (tmp_path / "b").write_bytes(wrong)
        with pytest.raises(UserError):
            read_tensors(tmp_path / "b")
        with pytest.raises(safetensors.SafetensorError):
            library.load_file(tmp_path / "b")
