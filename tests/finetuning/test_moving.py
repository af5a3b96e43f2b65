"""Grades finetuning/moving.py: which weights move, and how fast."""

import pytest
import tuned

from minilm.finetuning.heads import Head, put_head_on
from minilm.finetuning.moving import depth_of, let_move, n_last, pace_of
from minilm.plumbing.errors import UserError


def made(kind: str = "encoder", on: str = "text"):
    body = tuned.body(kind)
    return put_head_on(body, Head(body.config, 3, on))


def moving(model) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


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
    assert {name: depth_of(name, config) for name in depths} == depths
    assert depth_of("pooler.weight", tuned.config()) == 3


@pytest.mark.parametrize("kind", tuned.KINDS)
def test_head_moves_the_head_alone(kind):
    model = made(kind)
    let_move(model, "head")
    assert moving(model) == {"head.linear.weight", "head.linear.bias"}
    assert model.n_moving() == 12 * 3 + 3


@pytest.mark.parametrize("kind", tuned.KINDS)
def test_all_moves_what_is_in_use(kind):
    model = made(kind)
    let_move(model, "all")
    assert moving(model) == {name for name, _ in model.named_parameters() if model.in_use(name)}


def test_last_moves_the_blocks_nearest_to_the_head():
    model = made()
    let_move(model, "last:1")
    expected = ("encoder.blocks.1.", "encoder.norm.", "pooler.", "head.")
    assert moving(model) == {name for name, _ in model.named_parameters() if name.startswith(expected)}
    model = made("encoder-decoder")
    let_move(model, "last:2")
    expected = ("encoder.blocks.1.", "encoder.norm.", "decoder.blocks.", "decoder.norm.", "head.")
    assert moving(model) == {name for name, _ in model.named_parameters() if name.startswith(expected)}


def test_a_way_that_there_is_not_is_one_line():
    assert (n_last("last:12"), n_last("all"), n_last("head"), n_last("lora")) == (12, None, None, None)
    for tune in ("heads", "last", "last:0", "last:-1", "last:x"):
        with pytest.raises(UserError, match=f"--tune {tune}: expected all, head, lora, last:N"):
            n_last(tune)
    with pytest.raises(UserError, match="--tune last:3: the model has 2 blocks"):
        let_move(made(), "last:3")
    with pytest.raises(UserError, match="--tune head: this task has no head of its own"):
        let_move(put_head_on(tuned.body("decoder"), None), "head")


def test_each_block_learns_more_slowly_than_the_one_above_it():
    pace = pace_of(tuned.config(), 0.5, 0)
    names = ("head.linear.weight", "encoder.blocks.1.feed_forward.up.weight", "tokens.weight")
    assert [pace(name) for name in names] == [(1.0, 0), (0.5, 0), (0.125, 0)]
    assert pace_of(tuned.config(), 1.0, 0)("tokens.weight") == (1.0, 0)


def test_blocks_wake_from_the_top_down():
    pace = pace_of(tuned.config(), 1.0, 30)
    names = (
        "head.linear.bias",
        "encoder.norm.weight",
        "encoder.blocks.0.self_attention.q.bias",
        "tokens.weight",
    )
    assert [pace(name) for name in names] == [(1.0, 0), (1.0, 30), (1.0, 60), (1.0, 90)]
