"""Grades what tests/benchmarks/run.py makes of the times it measured; no clock decides here."""

import pytest
import torch
from benchmarks import run
from benchmarks.case import MATRIX, OURS, STEP, Case
from benchmarks.steps import flops
from torch.overrides import TorchFunctionMode

from minilm.model.config import ModelConfig
from minilm.model.transformer import build
from minilm.plumbing.errors import UserError

PRODUCTS = (torch.nn.functional.linear, torch.Tensor.__matmul__, torch.Tensor.matmul, torch.matmul)
SECONDS = {OURS: [2.0, 1.0, 4.0], "peer": [3.0, 2.0, 2.0]}


def test_cases_are_chosen_by_patterns_and_keep_their_order():
    names = ["gpt2", "gpt2-bf16", "batch-causal"]
    assert run.choose(None, names) == names
    assert run.choose("batch-*,gpt2", names) == ["gpt2", "batch-causal"], "gpt2 is not gpt2-bf16"
    with pytest.raises(UserError, match="no case 'gpt3'.*gpt2"):
        run.choose("gpt2,gpt3", names)


def test_the_sides_take_turns_and_none_that_is_missing():
    told = []
    sides = {name: lambda name=name: told.append(name) for name in (OURS, "peer")} | {"gone": None}
    seconds = run.take_turns(Case(sides), 3)
    assert told == [OURS, "peer"] * 4, "one turn warms up, then three count"
    assert [len(values) for values in seconds.values()] == [3, 3]


def test_a_peer_that_gives_something_else_ends_it():
    with pytest.raises(UserError, match="peer gives something else"):
        run.take_turns(Case({OURS: lambda: 1, "peer": lambda: 2}, same=lambda a, b: a == b), 1)


def test_a_ratio_is_the_median_of_its_rounds_and_misses_its_aim_below_it():
    ours, peer = run.rows(Case({}, {"peer": 1.6}, work=(10, "rows")), SECONDS)
    assert ours["seconds"] == dict(median=2.0, least=1.0, most=4.0) and ours["rate"] == 5
    assert peer["figure"] == dict(median=1.5, least=0.5, most=2.0, fastest=2.0), "theirs over ours, 1.5 2 0.5"
    assert (peer["aim"], peer["reached"]) == (1.6, False)
    assert run.rows(Case({}, {"peer": 1.5}), SECONDS)[1]["reached"]


def test_the_matrix_rate_and_the_step_of_a_batch_are_told_as_shares():
    _, matrix = run.rows(Case({}, flops=run.N["cpu"] ** 3), {OURS: [1.0], MATRIX: [0.5]})
    assert matrix["figure"]["median"] == 0.25, "half of the product's flops in twice its time"
    _, step = run.rows(Case({}, {STEP: 0.05}), {OURS: [1.0], STEP: [24.0]})
    assert step["figure"]["median"] == 0.04 and step["reached"], "1 of 25 is at most 5 %"


def test_a_line_has_times_figure_and_aim():
    ours, peer = run.rows(Case({}, {"peer": 1.6}, work=(10, "rows")), SECONDS)
    assert run.line("case", ours, "rows").split()[:6] == ["case", OURS, "2,000.0", "ms", "1,000.0", "–"]
    assert run.line("case", ours, "rows").endswith("5.0 rows/s")
    assert run.line("case", peer, "rows").endswith("at least 1.60: missed")
    assert "1.50 (2.00)  0.50 – 2.00" in run.line("case", peer, "rows")
    _, step = run.rows(Case({}, {STEP: 0.05}), {OURS: [1.0], STEP: [24.0]})
    assert run.line("case", step, "rows").endswith("at most 5.0%")


class Counting(TorchFunctionMode):
    """Counts the flops of all matrix products while it lasts: two for each number that is multiplied."""

    n = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        if function in PRODUCTS:
            self.n += 2 * result.numel() * args[0].shape[-1]
        return result


@pytest.mark.parametrize("layers", [(2, 0), (0, 3), (2, 3)], ids=["encoder", "decoder", "encoder-decoder"])
def test_the_flops_of_a_step_are_three_times_those_of_the_products_forward(layers):
    B, T, D = 3, 6, 8
    shape = dict(n_encoder_layer=layers[0], n_decoder_layer=layers[1], d_model=D, n_head=2, d_ff=20)
    model = build(ModelConfig(vocab_size=50, **shape)).use_explicit_attention()
    ids = torch.ones(B, T, dtype=torch.long)
    with Counting() as counted:
        model(ids, decoder_input_ids=ids if all(layers) else None)
    hidden_half = 2 * 2 * B * T * (T / 2) * D * layers[1]  # attention written out computes what is masked
    assert flops(model, B, T, B * T) == 3 * (counted.n - hidden_half)
