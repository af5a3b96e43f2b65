"""Speed and memory of the tokenizer, beside the Rust library `tokenizers` where it is installed.

    python tests/benchmarks/tokenizer.py [FILE]

Without FILE the text is a megabyte of made-up words. Compare the ratios, which come from one run.
"""

import random
import sys
import time
import tracemalloc
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from minilm.tokenizer.bpe import BPE, SPECIAL_TOKENS

try:
    import tokenizers
except ImportError:
    tokenizers = None

VOCAB_SIZE = 4096


def made_up_text(n_characters: int = 1_100_000, n_words: int = 15_000) -> str:
    """Words of random syllables, the k-th about 1/k as frequent as the first (Zipf), in sentences."""
    rng = random.Random(0)
    vowels = ("a", "e", "i", "o", "u", "ea", "er", "in", "on", "st")
    syllables = [a + b for a in "bdfghklmnprstvw" for b in vowels]
    words = ["".join(rng.choices(syllables, k=rng.choice((1, 1, 2, 2, 3, 4)))) for _ in range(n_words)]
    chosen = rng.choices(words, [1 / (rank + 1) for rank in range(n_words)], k=n_characters // 5)
    ends = rng.choices((" ", " ", " ", " ", " ", ", ", ". ", "'s ", ".\n"), k=len(chosen))
    return "".join(word + end for word, end in zip(chosen, ends, strict=True))[:n_characters]


def best_of(n: int, call):
    """The shortest of n times, in seconds, and the last result."""
    times = []
    for _ in range(n):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
    return min(times), result


def rust_training(text: str):
    """The Rust library trained on the text, with the same pre-tokens, bytes and special tokens as ours."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    own = dict(vocab_size=VOCAB_SIZE, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet)
    trainer = tokenizers.trainers.BpeTrainer(show_progress=False, **own)
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def stream_memory(bpe: BPE, text: str, n_bytes: int = 5_000_000) -> int:
    """Peak bytes of `encode_iterable` over n_bytes of lines, once the cache holds the text's words."""
    lines = text.splitlines(keepends=True)
    for _ in bpe.encode_iterable(lines):
        pass
    n_rounds = max(1, n_bytes // len(text))
    tracemalloc.start()
    for _ in bpe.encode_iterable(line for _ in range(n_rounds) for line in lines):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def main() -> None:
    text = Path(sys.argv[1]).read_text("utf-8") if len(sys.argv) > 1 else made_up_text()
    megabytes = len(text.encode()) / 1e6
    small, _ = best_of(3, lambda: BPE.train([text[:130_000]], 500, SPECIAL_TOKENS))
    training, bpe = best_of(3, lambda: BPE.train([text], VOCAB_SIZE, SPECIAL_TOKENS))
    encoding, ids = best_of(3, lambda: BPE(bpe.vocab, bpe.merges, bpe.special_tokens).encode(text))
    again, _ = best_of(3, lambda: bpe.encode(text))
    decoding, _ = best_of(3, lambda: bpe.decode(ids))
    print(f"text {megabytes:.2f} MB, {len(ids)} ids, {len(text.encode()) / len(ids):.2f} bytes per id")
    print(f"train {500:5} ids on 130 KB   {small:7.3f} s")
    print(f"train {VOCAB_SIZE:5} ids on the text {training:6.3f} s")
    print(f"encode, empty cache        {encoding:7.3f} s  {megabytes / encoding:6.1f} MB/s")
    print(f"encode, filled cache       {again:7.3f} s  {megabytes / again:6.1f} MB/s")
    print(f"decode                     {decoding:7.3f} s  {megabytes / decoding:6.1f} MB/s")
    print(f"encode_iterable, 5 MB: at most {stream_memory(bpe, text) / 1e6:.2f} MB beyond the cache")
    if tokenizers is None:
        print("Rust library: not installed, comparison skipped")
        return
    rust_train, rust = best_of(3, lambda: rust_training(text))
    rust_encode, _ = best_of(3, lambda: rust.encode(text))
    print(f"Rust trains in {rust_train:.3f} s: ours takes {training / rust_train:.2f} times as long")
    print(f"Rust encodes in {rust_encode:.3f} s: ours takes {encoding / rust_encode:.2f} times as long")


if __name__ == "__main__":
    main()
