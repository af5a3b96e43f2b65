"""Grades show_batch.py: every tensor of a row stands under its tokens or behind its name."""

import re
from itertools import chain

import pytest
import torch

from minilm.training.objective import IGNORED
from minilm.training.show_batch import batch_lines


def shown(bpe, batch: dict, classes=(), n_row: int = 1) -> dict[str, list[list[str]]]:
    """Return the cells behind each name, one list for each line of that name."""
    found: dict[str, list[list[str]]] = {}
    for line in filter(None, batch_lines(batch, bpe, n_row, classes)):
        found.setdefault(line.split()[0], []).append(line.split()[1:])
    return found


def ids(bpe, *texts: str) -> torch.Tensor:
    rows = [bpe.encode(text) for text in texts]
    n = max(map(len, rows))
    return torch.tensor([row + [bpe.special_id("[PAD]")] * (n - len(row)) for row in rows])


def test_tokens_show_their_spaces_and_line_breaks(bpe):
    lines = shown(bpe, dict(input_ids=ids(bpe, " a\nb [SEP]")))
    told = "a space is _, a line break \\n, and a special token has its name"
    assert "".join(lines["input_ids"][0]) == "_a\\nb_[SEP]", told
    assert lines["position"][0] == [str(i) for i in range(len(lines["input_ids"][0]))]


def test_columns_stand_one_space_apart(bpe):
    batch = dict(input_ids=ids(bpe, "abc"), labels=torch.tensor([[5, IGNORED, IGNORED]]))
    lines = batch_lines(batch, bpe, 1, classes=[*"OOOOO", "verb"])
    assert lines == ["row 0", "position     0 1 2", "input_ids    a b c", "labels    verb - -", ""]


def test_what_stands_under_a_token_ends_in_its_column(bpe):
    rows = ids(bpe, " sun tree window été", " a")
    real = (rows != bpe.special_id("[PAD]")).long()
    labels = rows.where(real == 1, IGNORED)
    lines = batch_lines(dict(input_ids=rows, attention_mask=real, labels=labels), bpe, 2)
    blocks = [lines[k + 1 : k + 5] for k, line in enumerate(lines) if line.startswith("row")]
    for position, *others in blocks:
        for end in (found.end() for found in re.finditer(r" \d+", position)):
            assert all(line[end - 1] != " " and line[end : end + 1] in (" ", "") for line in others), lines
    assert blocks[1][1].split() == ["input_ids", "_a", "[PAD]"], "one column of padding is enough"


def test_what_is_hidden_stands_at_its_place(bpe):
    labels = torch.tensor([[*bpe.encode("xy"), IGNORED]])
    batch = dict(input_ids=ids(bpe, "abcde"), masked_positions=torch.tensor([[3, 1, 0]]))
    lines = shown(bpe, batch | dict(masked_labels=labels, n_masked=torch.tensor(2.0)))
    assert lines["masked_labels"] == [["-", "y", "-", "x", "-"]], "a label belongs to the place of its number"
    assert set(lines) == {"row", "position", "input_ids", "masked_labels"}, "counts of a batch are no row's"


def test_the_labels_of_a_decoder_stand_under_its_own_tokens(bpe):
    source, target = ids(bpe, "abc"), ids(bpe, "xyz")  # as long, so the shape alone does not tell
    batch = dict(input_ids=source, attention_mask=torch.ones(1, 3).long(), decoder_input_ids=target)
    batch |= dict(labels=target.roll(-1, 1), survived=torch.tensor([[1, 0, IGNORED]]))
    names = [line.split()[0] for line in batch_lines(batch, bpe, 1) if line]
    assert names[2:4] == ["input_ids", "attention_mask"]
    assert names[4:] == ["position", "decoder_input_ids", "labels", "survived"]
    lines = shown(bpe, batch)
    assert lines["labels"] == [["y", "z", "x"]] and lines["survived"] == [["1", "0", "-"]]


def test_labels_have_the_names_of_their_classes(bpe):
    text = dict(input_ids=ids(bpe, "ab", "cd"), labels=torch.tensor([1, 0]), weights=torch.tensor([0.5, 1.0]))
    assert shown(bpe, text, ("bad", "good"), n_row=2)["labels"] == [["good"], ["bad"]]
    assert shown(bpe, text)["labels"] == [["1"]] and shown(bpe, text)["weights"] == [["0.5"]]
    words = dict(input_ids=ids(bpe, "ab"), labels=torch.tensor([[IGNORED, 2]]))
    assert shown(bpe, words, ("O", "B", "I"))["labels"] == [["-", "I"]]
    numbers = dict(text, labels=torch.tensor([0.5, 1.0]))
    assert shown(bpe, numbers, ("bad", "good"))["labels"] == [["0.5"]], "no class"
    span = dict(input_ids=ids(bpe, "abc"), labels=torch.tensor([[1, 2]]))
    assert shown(bpe, span)["labels"] == [["1", "2"]], "the two places of a span are no tokens"


def test_both_sides_of_a_pair_are_shown(bpe):
    both = ids(bpe, "ab", "cd")[None]  # (1, 2, T), as a chosen and a rejected answer
    batch = dict(input_ids=both, attention_mask=torch.tensor([[[1, 1], [1, 0]]]), n_prompt=torch.tensor([1]))
    lines = shown(bpe, batch)
    assert lines["input_ids"] == [["a", "b"], ["c", "d"]]
    assert lines["attention_mask"] == [["1", "1"], ["1", "0"]] and lines["n_prompt"] == [["1"]]


def test_a_long_row_is_wrapped_and_nothing_is_lost(bpe):
    text = "The sun, the tree and the window. " * 9
    batch = dict(input_ids=ids(bpe, text))
    lines = batch_lines(batch, bpe, 5)
    assert max(map(len, lines)) <= 100 and len(lines) > 6
    assert "".join(chain(*shown(bpe, batch)["input_ids"])) == text.replace(" ", "_")


@pytest.mark.parametrize("n", [1, 2, 3])
def test_of_equal_columns_at_the_end_one_is_left(bpe, n):
    lines = shown(bpe, dict(input_ids=torch.full((1, n), bpe.special_id("[PAD]"))))
    assert lines["position"] == [["0"]] and lines["input_ids"] == [["[PAD]"]], "one column of padding"
    lines = shown(bpe, dict(input_ids=torch.tensor([[*bpe.encode("a"), *bpe.encode("b") * n]])))
    assert lines["input_ids"] == [["a", "b"]]
