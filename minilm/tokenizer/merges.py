"""How byte-pair encoding learns: text -> words (pre-tokens) -> which neighbours to join.

Sennrich, Haddow and Birch 2016 (arXiv 1508.07909, section 3.2), over bytes as in GPT-2 (Radford et al. 2019,
section 2.2). `pre_tokens` cuts a text into words, `train_naive` finds which neighbours to join, `train_fast`
finds the same sooner. `tokenizer.py` joins them in new text.
"""

import operator
import re
from collections import Counter, defaultdict
from heapq import heapify, heappop, heappush
from itertools import chain, pairwise

# GPT-2's '(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ for ASCII. White space is
# spelt out: Python's \s also holds \x1c-\x1f, which are no White_Space in Unicode, `regex` and Rust.
GPT2_PATTERN = re.compile(
    r"'(?:[sdmt]|ll|ve|re)| ?[A-Za-z]+| ?[0-9]+| ?[^\t-\r A-Za-z0-9]+|[\t-\r ]+(?![^\t-\r ])|[\t-\r ]+"
)


def _stand_in(match: re.Match) -> str:
    """Return an ASCII character of the same class as the one found, in the Unicode of the running Python."""
    char = match.group()
    # isalpha is exactly \p{L}; isnumeric is \p{N} and letters such as U+4E00, "one". No contraction holds
    # an "A", and no word begins with a tab.
    return "A" if char.isalpha() else "0" if char.isnumeric() else "\t" if char.isspace() else "!"


def pre_tokens(text: str, pattern: re.Pattern | None = None) -> list[str]:
    """Cut a text into the pieces that no merge crosses; joined, they are the text.

    Without `pattern`: GPT-2's pieces. With one: its matches, and whatever stands between two matches.
    """
    if pattern is None and text.isascii():
        return GPT2_PATTERN.findall(text)
    shape = re.sub(r"[^\x00-\x7f]", _stand_in, text) if pattern is None else text
    spans = (match.span() for match in (pattern or GPT2_PATTERN).finditer(shape))
    return [text[a:b] for a, b in pairwise([0, *chain.from_iterable(spans), len(text)]) if a < b]


def join(tokens: list, pair: tuple, new) -> list:
    """Replace each `pair` of neighbours by `new`, from left to right."""
    joined = []
    for token in tokens:
        if joined and token == pair[1] and joined[-1] == pair[0]:
            joined[-1] = new
        else:
            joined.append(token)
    return joined


def train_naive(words: dict[bytes, int], n_merges: int) -> list[tuple[bytes, bytes]]:
    """Learn merges (Sennrich et al. 2016, section 3.2): count all pairs, join the best, count all again.

    `words`: pre-token -> how often it occurs. The most frequent pair is best; of equals, the greater pair of
    byte strings. Fewer merges come back where the pairs run out.
    """
    sequences, merges = {word: [bytes([byte]) for byte in word] for word in words}, []
    while len(merges) < n_merges:
        counts = Counter()
        for word, tokens in sequences.items():
            for pair in pairwise(tokens):
                counts[pair] += words[word]
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        sequences = {word: join(tokens, best, best[0] + best[1]) for word, tokens in sequences.items()}
    return merges


def _heap_entry(count: int, pair: tuple[bytes, bytes]) -> tuple:
    """Put the most frequent pair first, then the greatest; the 1 at its end puts "ab" before "a"."""
    return -count, *((*map(operator.neg, token), 1) for token in pair), pair


def single_bytes(word: bytes) -> list[bytes]:
    """Cut a word into its bytes: the tokens from which BPE starts."""
    return [bytes([byte]) for byte in word]


def train_fast(words: dict[bytes, int], n_merges: int, cut=single_bytes) -> list[tuple[bytes, bytes]]:
    """Learn what `train_naive` does: count once, then recount only the words that hold the joined pair.

    `cut` says which tokens a word starts as.
    """
    sequences = {word: cut(word) for word in words}
    counts, places, merges = Counter(), defaultdict(set), []  # places: pair -> the words that hold it
    for word, tokens in sequences.items():
        for pair in pairwise(tokens):
            counts[pair] += words[word]
            places[pair].add(word)
    heap = [_heap_entry(count, pair) for pair, count in counts.items()]
    heapify(heap)
    while heap and len(merges) < n_merges:
        negative_count, *_, pair = heappop(heap)
        if -negative_count != counts[pair]:  # from before other merges took some of these pairs
            if counts[pair]:
                heappush(heap, _heap_entry(counts[pair], pair))
            continue
        merges.append(pair)
        new, born = pair[0] + pair[1], set()
        for word in places.pop(pair):
            for old in pairwise(sequences[word]):
                counts[old] -= words[word]
            sequences[word] = join(sequences[word], pair, new)
            for now in pairwise(sequences[word]):
                counts[now] += words[word]
                if new in now:
                    born.add(now)
                    places[now].add(word)
        for pair in born:
            heappush(heap, _heap_entry(counts[pair], pair))
    return merges
