"""Grades finetuning/moving.py: which weights move, and how fast."""

import pytest
import tuned

from minilm.finetuning.heads import Head, put_head_on
from minilm.finetuning.lora import LoRALinear
from minilm.finetuning.moving import PUBLISHED, SMALL, TIMES, depth_of, let_move, share_and_start


def made(kind: str = "encoder"):
    body = tuned.body(kind)
    return put_head_on(body, Head(body.config, 3, "text"))


def moving(model) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def assert_moving(model, expected: set[str]) -> None:
    too_many, too_few = sorted(moving(model) - expected), sorted(expected - moving(model))
    assert not too_many, f"must be frozen: {', '.join(too_many)}"
    assert not too_few, f"must move: {', '.join(too_few)}"


def test_depth_counts_from_the_embeddings_up():
    config = tuned.config("encoder-decoder")  # two blocks in the encoder, one in the decoder
    depths = {
        "tokens.weight": 0,
        "encoder.embeddings.position.weight": 0,
        "decoder.embeddings.position.weight": 0,
        "encoder.blocks.0.self_attention.q.weight": 1,
        "encoder.blocks.1.feed_forward.up.bias": 2,
        "encoder.norm.weight": 2,
        "decoder.blocks.0.cross_attention.q.weight": 3,
        "decoder.norm.bias": 3,
        "head.linear.weight": 4,
    }
    for name, depth in depths.items():
        found = depth_of(name, config)
        assert found == depth, f"{name}: depth {found}, not {depth}: 0 embeddings, blocks from 1, then heads"
    assert depth_of("pooler.weight", tuned.config()) == 3
    assert depth_of("encoder.of_ones_own.weight", config) == 0, "no block of a stack and no head"


@pytest.mark.parametrize("kind", tuned.KINDS)
def test_head_moves_the_head_alone_and_all_what_is_in_use(kind):
    model = made(kind)
    let_move(model, "head")
    assert_moving(model, {"head.linear.weight", "head.linear.bias"})
    blocks = [block for stack in (model.encoder, model.decoder) if stack for block in stack.blocks]
    told = "a frozen block has no dropout: the mode must be set again after freezing"
    assert model.head.training and not any(block.training for block in blocks), told
    let_move(model, "all")
    assert_moving(model, {name for name, _ in model.named_parameters() if model.in_use(name)})


@pytest.mark.parametrize("kind", tuned.KINDS)
def test_bias_moves_the_head_and_every_bias_in_use(kind):
    model = made(kind)
    let_move(model, "bias")
    used = {name for name, _ in model.named_parameters() if model.in_use(name)}  # others would only decay
    assert_moving(model, {name for name in used if name.endswith(".bias")} | {"head.linear.weight"})


def test_last_moves_the_blocks_nearest_to_the_head():
    above = ("encoder.blocks.1.", "encoder.norm.", "head.")
    for kind, tune, expected in (
        ("encoder", "last:1", (*above, "pooler.")),
        ("encoder-decoder", "last:2", (*above, "decoder.blocks.", "decoder.norm.")),
    ):
        model = made(kind)
        let_move(model, tune)
        assert_moving(model, {name for name, _ in model.named_parameters() if name.startswith(expected)})


def test_blocks_learn_more_slowly_and_wake_later_from_the_top_down():
    names = ("head.linear.bias", "encoder.norm.weight", "encoder.blocks.0.feed_forward.up.bias")
    found = [share_and_start(name, tuned.config(), 0.5, 30) for name in (*names, "tokens.weight")]
    told = "the head learns at the full rate from the start; each level below at half of it, 30 steps later"
    assert found == [(1.0, 0), (0.5, 30), (0.25, 60), (0.125, 90)], told
    assert share_and_start("tokens.weight", tuned.config(), 1.0, 0) == (1.0, 0)


def test_lora_is_that_of_the_flags_where_nothing_else_is_said():
    model = made()
    let_move(model, "lora")
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoRALinear)}
    assert {name.rpartition(".")[2] for name in found} == {"q", "v"} and len(found) == 2 * 2
    assert {(len(layer.lora_a), layer.scale) for layer in found.values()} == {(8, 16 / 8)}  # rank, alpha/rank


def test_the_rates_are_those_of_the_figures_in_the_readme():
    measured = dict(last=3e-4, head=1e-1, lora=3e-3, bias=3e-3, scratch=3e-4)
    assert dict(all=5e-5) | measured == PUBLISHED, "5e-5: of those of Devlin et al. 2019, A.3"
    assert SMALL == 1e-3 and TIMES == dict(all=1, last=1, head=10, lora=5, bias=30)
