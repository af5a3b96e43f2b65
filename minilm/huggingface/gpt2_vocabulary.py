"""GPT-2's vocabulary files: byte strings written in printable characters.

vocab.json gives each token its id, merges.txt lists the merges, one pair a line, in the order learnt.
Published by Radford et al. 2019 with GPT-2; RoBERTa, BART and others keep the layout.
"""

import json
from collections.abc import Iterable
from pathlib import Path


def byte_characters() -> list[str]:
    """Return the character that stands for each of the 256 bytes.

    A byte stands there as its own character where that shows, else as the next one from U+0100 on.
    """
    shown, spare = {*range(33, 127), *range(161, 173), *range(174, 256)}, iter(range(256, 512))
    return [chr(byte if byte in shown else next(spare)) for byte in range(256)]


def token_name(token: bytes, characters: list[str]) -> str:
    """Return a token as these files write it; `characters` of `byte_characters`."""
    return "".join([characters[byte] for byte in token])


def token_bytes(ids: dict[str, int], special_tokens: Iterable[str]) -> dict[str, bytes]:
    """Return the bytes of each named token; special tokens are plain UTF-8.

    Raises TypeError for a character that stands for no byte.
    """
    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    specials = set(special_tokens)
    return {n: n.encode() if n in specials else bytes(map(byte_of.get, n)) for n in ids}


def read_files(vocab_json: str | Path, merges_txt: str | Path) -> tuple[dict[str, int], list[list[str]]]:
    """Return the ids by token, and the merges as pairs of tokens, both as the files write them."""
    ids = json.loads(Path(vocab_json).read_text("utf-8"))
    lines = Path(merges_txt).read_text("utf-8").split("\n")
    return ids, [line.split(" ") for line in lines if line and not line.startswith("#version:")]
