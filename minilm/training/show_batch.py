"""Rows of a batch as readable text (`--show-batch N`), for any objective, under the names in the code.

A space in a token is shown as _ ; a missing label as - .
"""

from itertools import accumulate, groupby

import torch
from torch import Tensor

from ..plumbing.settings import WIDTH
from .objective import ENCODER, IGNORED


def batch_lines(batch: dict[str, Tensor], tokenizer, n_row: int, classes=()) -> list[str]:
    """Return lines that show the first rows of a batch; values in the shape of the tokens are under them.

    `classes`: names of the labels; none: labels under tokens are shown as tokens, others as numbers.
    """

    def cells(name: str, values: Tensor, by_token: bool) -> list[str]:
        """Return the name, then each value as text."""
        is_class = name == "labels" and classes and not values.is_floating_point()
        is_token = name.endswith("input_ids") or (name.endswith("labels") and by_token and not is_class)
        texts = {IGNORED: "-"}
        for value in values.tolist():
            if value not in texts and is_token:
                token = tokenizer.decode_bytes([value]).decode(errors="replace")
                texts[value] = repr(token)[1:-1].replace(" ", "_")  # a line break as \n
            elif value not in texts:
                texts[value] = classes[value] if is_class else f"{value:g}"
        return [name, *(texts[value] for value in values.tolist())]

    lines, own = [], batch.keys() - ENCODER if "decoder_input_ids" in batch else set()  # the decoder's
    for b in range(min(n_row, len(batch["input_ids"]))):
        row = {name: value[b] for name, value in batch.items() if value.dim()}
        if "masked_positions" in row:  # (P,) places and their tokens: spread over the row, (T,)
            places, labels = row.pop("masked_positions"), row["masked_labels"]
            row["masked_labels"] = torch.full_like(row["input_ids"], IGNORED)
            row["masked_labels"][places[labels != IGNORED]] = labels[labels != IGNORED]
        lines.append(f"row {b}")
        for ids in [name for name in row if name.endswith("input_ids")]:
            shape = row[ids].shape
            names = [n for n, value in row.items() if value.shape == shape and (n in own) == (ids in own)]
            # A pair has two sides, (2, T): two texts, or the chosen and the rejected answer.
            for values in zip(*(row.pop(name).view(-1, shape[-1]) for name in names), strict=True):
                lines += aligned([cells(*pair, by_token=True) for pair in zip(names, values, strict=True)])
        lines += ["  ".join(cells(name, value.view(-1), by_token=False)) for name, value in row.items()]
        lines.append("")
    return lines


def aligned(rows: list[list[str]]) -> list[str]:
    """Return rows of cells under their positions, wrapped; equal columns at the end are shown once."""
    head, *columns = zip(["position", *map(str, range(len(rows[0]) - 1))], *rows, strict=True)
    while len(columns) > 1 and columns[-1][1:] == columns[-2][1:]:
        columns.pop()  # padding
    widths, first = [max(map(len, column)) + 1 for column in columns], max(map(len, head))
    ends, lines = accumulate(widths), []
    numbered = zip(ends, widths, columns, strict=True)
    for _, chunk in groupby(numbered, lambda one: one[0] // (WIDTH - first - max(widths))):
        cells = [[text.rjust(width) for text in column] for _, width, column in chunk]
        lines += map("".join, zip([name.ljust(first) for name in head], *cells, strict=True))
    return lines
