"""Whole texts, and pairs of texts, as the rows of ids that a trained model knows.

    encoder            [CLS] text [SEP]    [CLS] text A [SEP] text B [SEP], marked 0 ... 0 1 ... 1
    decoder            <|endoftext|> text <|endoftext|>
    encoder-decoder    [CLS] text [SEP]

    a pair apart       two rows, each as that of one text

A text looks as it did in pre-training: a trained model is of little use on rows of another make.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model.config import ModelConfig
from ..model.draft import pad
from ..plumbing.errors import UserError

END = "<|endoftext|>"  # before, between and after the texts of a decoder
NO_SPACE_BEFORE = tuple(".,;:!?%)]}'’”")  # what stands close to the word before it


@dataclass
class TextRows:
    """Texts as ids: `ids[i]` are those of row i, `segments[i]` which text each belongs to."""

    ids: list[list[int]]
    segments: list[list[int]] | None  # none: the model has no segments
    pad_id: int
    n_cut: int  # rows that were cut to fit

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, chosen: Sequence[int]) -> dict[str, Tensor]:
        """Return the chosen rows, padded on the right to the longest of them.

        Returns:
            input_ids, attention_mask and, for a model with segments, token_type_ids, each (B, T).
        """
        ids, mask = pad([self.ids[i] for i in chosen], self.pad_id, "right")
        rows = dict(input_ids=ids, attention_mask=torch.ones_like(ids) if mask is None else mask.long())
        if self.segments is not None:
            rows["token_type_ids"], _ = pad([self.segments[i] for i in chosen], 0, "right")
        return rows


@dataclass
class PairRows:
    """Pairs of texts, each text in a row of its own: rows 2 i and 2 i + 1 of `rows` are pair i."""

    rows: TextRows

    def __len__(self) -> int:
        return len(self.rows) // 2

    @property
    def n_cut(self) -> int:
        """Count the texts that were cut to fit."""
        return self.rows.n_cut

    @property
    def ids(self) -> list[list[int]]:
        """Return the ids of both texts of each pair, one after the other."""
        both = self.rows.ids
        return [a + b for a, b in zip(both[::2], both[1::2], strict=True)]

    def batch(self, chosen: Sequence[int]) -> dict[str, Tensor]:
        """Return the chosen pairs as `TextRows.batch` does rows, each tensor (B, 2, T)."""
        rows = self.rows.batch([2 * i + side for i in chosen for side in (0, 1)])  # (2 B, T)
        return {name: value.unflatten(0, (-1, 2)) for name, value in rows.items()}


def pair_rows(
    tokenizer, config: ModelConfig, firsts: Sequence[str], seconds: Sequence[str], longest: int | None = None
) -> PairRows:
    """Return each text of `firsts`, and the one in `seconds` of the same index, as two rows (`text_rows`)."""
    texts = [text for pair in zip(firsts, seconds, strict=True) for text in pair]
    return PairRows(text_rows(tokenizer, config, texts, longest=longest))


def text_rows(
    tokenizer,
    config: ModelConfig,
    texts: Sequence[str],
    seconds: Sequence[str] | None = None,
    longest: int | None = None,
) -> TextRows:
    """Return each text, or each text with the one in `seconds` of the same index, as a row.

    Args:
        longest: tokens of a row, special ones included; none: all positions of the model. Longer texts are
            cut at their end, of a pair the longer one first.

    Raises:
        UserError: where `longest` leaves no room for a token, or is more than the model's positions.
    """
    longest = config.max_positions if longest is None else longest
    n_special = len(framed(tokenizer, config, [], None if seconds is None else [])[0])
    least = n_special + (1 if seconds is None else 2)
    if not least <= longest <= config.max_positions:
        raise UserError(f"--context {longest}: a row must have from {least} to {config.max_positions} tokens")
    ids, segments, n_cut = [], [], 0
    for i, text in enumerate(texts):
        first = text_ids(tokenizer, config, text)
        second = None if seconds is None else text_ids(tokenizer, config, seconds[i])
        n_first, n_second = room_of(len(first), len(second or ()), longest - n_special)
        n_cut += (n_first, n_second) != (len(first), len(second or ()))
        row, marks = framed(tokenizer, config, first[:n_first], second and second[:n_second])
        ids.append(row)
        segments.append(marks)
    pad_id = tokenizer.special_id(END if config.kind == "decoder" else "[PAD]")
    return TextRows(ids, segments if config.n_segments else None, pad_id, n_cut)


def text_ids(tokenizer, config: ModelConfig, text: str) -> list[int]:
    """Return the ids of a text without special tokens.

    An encoder of ours was trained on sentences with a space before them (`pretraining/next_sentence.py`).
    """
    ours = "[CLS]" in tokenizer.special_tokens and config.kind != "decoder"
    return tokenizer.encode(" " + text if ours else text, allow_special=False)


def prompt_ids(tokenizer, config: ModelConfig, prompt: str) -> list[int]:
    """Return a prompt as the model knows the beginning of a text: of a decoder without an end."""
    row, _ = framed(tokenizer, config, text_ids(tokenizer, config, prompt))
    return row[:-1] if config.kind == "decoder" else row


def word_ids(tokenizer, config: ModelConfig, words: Sequence[str]) -> list[list[int]]:
    """Return the tokens of each word, as they would be in a text: a space before it, not before a full stop.

    A word of which the tokenizer makes nothing has none.
    """
    pieces = [text_ids(tokenizer, config, word) for word in words[:1]]
    for word in words[1:]:
        space = "" if word.startswith(NO_SPACE_BEFORE) else " "
        pieces.append(tokenizer.encode(space + word, allow_special=False))
    return pieces


def starts_of(pieces: list[list[int]]) -> list[int]:
    """Return the place of each word's first token in the row of all tokens."""
    starts, place = [], 0
    for piece in pieces:
        starts.append(place)
        place += len(piece)
    return starts


def decoder_begin(tokenizer) -> list[int]:
    """Return the ids from which an encoder-decoder's decoder starts: [CLS], of a published BART </s> <s>.

    BART's own loss shifts its labels so.
    """
    start = [tokenizer.special_id("[START]")] if "[START]" in tokenizer.aliases else []
    return [*start, tokenizer.special_id("[CLS]")]


def room_of(n_first: int, n_second: int, room: int) -> tuple[int, int]:
    """Return how many tokens of each of two texts fit into `room`: the longer one gives up tokens first.

    Source: `_truncate_seq_pair` of Devlin et al. 2019's code, without its loop.
    """
    if n_first + n_second <= room:
        return n_first, n_second
    if n_first > n_second:
        kept = max(room - n_second, -(-room // 2))
        return kept, room - kept
    kept = max(room - n_first, room // 2)
    return room - kept, kept


def framed(
    tokenizer, config: ModelConfig, first: list[int], second: list[int] | None = None
) -> tuple[list[int], list[int]]:
    """Return a row with its special tokens, and for each of its tokens 0 (text A) or 1 (text B)."""
    if config.kind == "decoder":
        begin, between, end = [tokenizer.special_id(END)], [tokenizer.special_id(END)], END
    else:
        begin, end = [tokenizer.special_id("[CLS]")], "[SEP]"
        # Liu et al. 2019 and Lewis et al. 2020, whose [SEP] is </s>, put two of them between texts.
        between = [tokenizer.special_id(end)] * (2 if "</s>" in tokenizer.special_tokens else 1)
    end = [tokenizer.special_id(end)]
    if second is None:
        row = [*begin, *first, *end]
        return row, [0] * len(row)
    a, b = [*begin, *first, *between], [*second, *end]
    return [*a, *b], [0] * len(a) + [1] * len(b)
