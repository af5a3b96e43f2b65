"""Texts, and pairs of texts, as rows of ids in the format that a model knows from its pre-training.

encoder            [CLS] text [SEP]    [CLS] text A [SEP] text B [SEP], marked 0 ... 0 1 ... 1
decoder            <|endoftext|> text <|endoftext|>
encoder-decoder    [CLS] text [SEP]
"""

from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np
import torch

from ..model.config import ModelConfig
from ..plumbing.errors import UserError

END = "<|endoftext|>"  # before, between and after the texts of a decoder
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"  # around each turn of a conversation (ChatML)
NO_SPACE_BEFORE = tuple(".,;:!?%)]}'’”")  # marks that follow a word without a space


class RaggedRows:
    """Rows of ids of unequal lengths, in one flat array: row i is ids[edges[i] : edges[i + 1]].

    `pad_id` pads the shorter rows of a batch on the right. Rows longer than `longest` are cut: `n_cut` counts
    them, starting from the number cut before. `n_first`: how many tokens of each row come before its second
    text, where token_type_ids become 1; none: the model has no segments.
    """

    def __init__(self, rows: Iterable[Sequence[int]], pad_id: int = 0, longest=None, n_first=None, n_cut=0):
        flat, edges = array("i"), [0]  # four bytes a token; a list takes eight, and an object
        for row in rows:
            n_cut += longest is not None and len(row) > longest
            flat.extend(row[:longest])
            edges.append(len(flat))
        self.ids, self.edges, self.pad_id, self.n_cut = np.array(flat), np.array(edges), pad_id, n_cut
        self.lengths = np.diff(self.edges)  # (N,)
        self.n_first = None if n_first is None else np.array(n_first)  # (N,)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> list[int]:
        return self.ids[self.edges[:-1][i] : self.edges[1:][i]].tolist()  # edges[i + 1] is wrong for i = -1

    def padded(self, chosen: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return rows (B,) as ids (B, T), padded on the right, and where ids are real; (B, 2): (B, 2, T)."""
        chosen = np.asarray(chosen)
        lengths = self.lengths[chosen][..., None]  # (B, 1)
        column = np.arange(lengths.max())  # (T,)
        real = column < lengths  # (B, T), without a loop over tokens
        place = np.where(real, self.edges[chosen][..., None] + column, 0)  # in the flat array
        return np.where(real, self.ids[place], self.pad_id), real

    def batch(self, chosen: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return input_ids, attention_mask and, with segments, token_type_ids, (B, T) each, as `padded`."""
        ids, real = self.padded(chosen)
        arrays = dict(input_ids=ids, attention_mask=real)
        if self.n_first is not None:
            n_first = self.n_first[np.asarray(chosen)][..., None]  # (B, 1)
            arrays["token_type_ids"] = real & (np.arange(ids.shape[-1]) >= n_first)
        return {name: torch.from_numpy(value.astype(np.int64)) for name, value in arrays.items()}


def batches_by_length(lengths: Sequence[int], batch_size: int) -> list[np.ndarray]:
    """Cut the numbers of all rows into batches of rows of similar length, so that there is little padding."""
    order = np.argsort(lengths, kind="stable")
    return np.split(order, range(batch_size, len(order), batch_size)) if len(order) else []


def text_rows(tokenizer, config: ModelConfig, texts: Sequence[str], seconds=None, longest=None) -> RaggedRows:
    """Return each text, or its pair with one of `seconds`, as a row of at most `longest` tokens.

    Longer texts are cut at the end. `longest` none: all of the model's positions. UserError if out of range.
    """
    longest, n_text = config.max_positions if longest is None else longest, 1 if seconds is None else 2
    room = longest - len(framed(tokenizer, config, [], None if seconds is None else [])[0])
    if room < n_text or longest > config.max_positions:
        raise UserError(f"--context {longest}: must be {longest - room + n_text} to {config.max_positions}")
    rows, n_cut = [], 0
    for i, text in enumerate(texts):
        first = text_ids(tokenizer, config, text)
        second = [] if seconds is None else text_ids(tokenizer, config, seconds[i])
        n_cut += len(first) + len(second) > room
        # The longer text of a pair is cut first, down to half of the room: as in Devlin et al. 2019's code.
        first = first[: max(room - len(second), (room + 1) // 2)]
        second = second[: room - len(first)]
        rows.append(framed(tokenizer, config, first, None if seconds is None else second))
    return rows_of(tokenizer, config, rows, n_cut)


def framed(tokenizer, config: ModelConfig, first: list[int], second=None) -> tuple[list[int], int]:
    """Return a row with its special tokens, and how many of its tokens come before text B."""
    has_two = {"[CLS]", END} <= tokenizer.aliases.keys()  # LLaMA's <s> begins, </s> ends; GPT-2 has one token
    begin = tokenizer.special_id("[CLS]" if config.kind != "decoder" or has_two else END)
    end = text_end(tokenizer) if config.kind == "decoder" else tokenizer.special_id("[SEP]")
    if second is None:
        return [begin, *first, end], len(first) + 2
    # Liu et al. 2019 and Lewis et al. 2020, whose [SEP] is </s>, put two of these between texts.
    twice = config.kind != "decoder" and "</s>" in tokenizer.special_tokens
    a = [begin, *first, end, end] if twice else [begin, *first, end]
    return [*a, *second, end], len(a)


def text_end(tokenizer) -> int:
    """Return the id that ends a decoder's text; for a published chat model, the end of a turn."""
    return tokenizer.special_id("[EOS]" if "[EOS]" in tokenizer.aliases else END)


def chat_ids(tokenizer, turns: Iterable[tuple[str, str]]) -> list[int]:
    """Return the ids of turns (role, text) in ChatML, up to where the assistant begins to speak.

    <|im_start|>user, line break, text <|im_end|> line break <|im_start|>assistant, line break
    """
    start, end = map(tokenizer.special_id, (TURN_START, TURN_END))
    spoken = [tokenizer.encode(f"{role}\n{text}", allow_special=False) for role, text in turns]
    ids = [token for turn in spoken for token in (start, *turn, end, *tokenizer.encode("\n"))]
    return [*ids, start, *tokenizer.encode("assistant\n")]


def rows_of(tokenizer, config: ModelConfig, rows: Sequence[tuple[list[int], int]], n_cut=0) -> RaggedRows:
    """Return `framed` rows as RaggedRows, with this kind of model's padding, and its segments if any."""
    pad_id = tokenizer.special_id(END if config.kind == "decoder" else "[PAD]")
    n_first = [n for _, n in rows] if config.n_segments else None
    return RaggedRows([row for row, _ in rows], pad_id, n_first=n_first, n_cut=n_cut)


def text_ids(tokenizer, config: ModelConfig, text: str) -> list[int]:
    """Return the ids of a text without special tokens."""
    return tokenizer.encode(space_before(tokenizer, config) + text, allow_special=False)


def located_ids(tokenizer, config: ModelConfig, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Return `text_ids`, and for each token its place (a, b): it stands for text[a:b]."""
    space = space_before(tokenizer, config)
    ids, places = tokenizer.encode_located(space + text)
    return ids, [(a - len(space), b - len(space)) for a, b in places]


def space_before(tokenizer, config: ModelConfig) -> str:
    """Return the prefix of a text: " " for our encoders, whose training sentences begin so, else ""."""
    return " " if "[CLS]" in tokenizer.special_tokens and config.kind != "decoder" else ""


def prompt_ids(tokenizer, config: ModelConfig, prompt: str) -> list[int]:
    """Return a prompt's ids as the model knows the beginning of a text: a decoder's without an end token."""
    row, _ = framed(tokenizer, config, text_ids(tokenizer, config, prompt))
    return row[:-1] if config.kind == "decoder" else row


def word_ids(tokenizer, config: ModelConfig, words: Sequence[str]) -> list[list[int]]:
    """Return each word's ids as in a text: a space before all but marks like ","; [UNK] if it has none."""
    first = [text_ids(tokenizer, config, word) for word in words[:1]]
    others = (word if word.startswith(NO_SPACE_BEFORE) else " " + word for word in words[1:])
    pieces = first + [tokenizer.encode(word, allow_special=False) for word in others]
    return [ids or [tokenizer.special_id("[UNK]")] for ids in pieces]


def word_rows(tokenizer, config: ModelConfig, sentences: Iterable[Sequence[str]], longest: int) -> tuple:
    """Return sentences (lists of words) as rows, and for each row the columns of its words' first tokens.

    Why the first token: in an encoder it attends to the word's other tokens, and one prediction a word needs
    no vote (Devlin et al. 2019, section 5.3). Rows are cut to `longest`; words beyond it have no column.
    """
    room = longest - len(framed(tokenizer, config, [])[0])
    rows, columns, n_cut = [], [], 0
    for words in sentences:
        pieces = word_ids(tokenizer, config, words)
        ids = [token for piece in pieces for token in piece]
        starts = accumulate(map(len, pieces[:-1]), initial=1)  # column 0: [CLS], or a decoder's END
        n_cut += len(ids) > room
        rows.append(framed(tokenizer, config, ids[:room]))
        columns.append([start for start in starts if start <= room])
    return rows_of(tokenizer, config, rows, n_cut), columns


def decoder_begin(tokenizer) -> list[int]:
    """Return what an encoder-decoder's decoder starts from: [CLS]; for published BARTs </s> <s>."""
    start = [tokenizer.special_id("[START]")] if "[START]" in tokenizer.aliases else []
    return [*start, tokenizer.special_id("[CLS]")]
