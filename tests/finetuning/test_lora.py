"""Grades finetuning/lora.py: the model starts as it was, and is saved without a trace of LoRA."""

import pytest
import small
import torch
import tuned
from mistakes import assert_right
from torch import nn

import minilm
from minilm.finetuning.heads import Head, put_head_on
from minilm.finetuning.lora import TARGETS, THIN, LoRALinear, add_lora, merged_state

IDS = torch.randint(6, 200, (3, 9), generator=torch.Generator().manual_seed(0))


def thin(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if name.endswith(THIN)}


def disturbed(model: nn.Module) -> nn.Module:
    """Give the thin matrices other values, as training would."""
    for p in thin(model).values():
        nn.init.normal_(p, std=0.3)
    return model


def test_a_layer_computes_equation_3():
    layer, x = nn.Linear(7, 5), torch.randn(2, 3, 7)
    lora = LoRALinear(layer, rank=2, alpha=6.0)
    axes = ("row", "token", "feature")
    start = {"W x is left out": torch.zeros(2, 3, 5), "the bias is left out": layer(x) - layer.bias}
    start |= {"the bias is added twice": layer(x) + layer.bias}
    start |= {"W x is multiplied by alpha / r too": 3.0 * layer(x)}
    assert_right(lora(x), layer(x), start, rtol=1e-4, axes=axes, what="at the start, where B is 0")
    assert lora.lora_a.any(), "A must be random: if A and B are both 0, neither gets a gradient"
    assert lora.lora_a.shape == (2, 7) and lora.lora_b.shape == (5, 2)
    nn.init.normal_(lora.lora_b)
    thin = x @ lora.lora_a.T @ lora.lora_b.T
    expected = layer(x) + (6.0 / 2) * thin
    mistakes = {
        "the factor alpha / r is missing": layer(x) + thin,
        "the factor is alpha, not alpha / r": layer(x) + 6.0 * thin,
        "the factor is 1 / r: alpha is missing": layer(x) + thin / 2,
        "B A x is left out": layer(x),
    }
    what = "alpha 6, r 2, a random B"
    assert_right(lora(x), expected, mistakes, rtol=1e-4, atol=1e-5, axes=axes, what=what)
    before = lora.weight.detach().clone()
    state = merged_state(nn.Sequential(lora))["0.weight"]
    assert torch.equal(lora.weight, before), "the frozen matrix is changed in place: it would be added twice"
    told = "merged: W + alpha / r B A"
    torch.testing.assert_close(lora(x), nn.functional.linear(x, state, lora.bias), msg=told)
    lora(x).sum().backward()
    learning = [p.grad is not None for p in (lora.lora_a, lora.lora_b)]
    assert all(learning), f"does a gradient reach A, B? {learning}: both must learn"


@pytest.mark.parametrize("kind", tuned.KINDS)
def test_merged_and_unmerged_compute_the_same(kind, tmp_path):
    body = tuned.body(kind)
    model = put_head_on(body, Head(body.config, 4, "text"))
    add_lora(model, 3, 6.0, TARGETS)
    disturbed(model).eval()
    batch = dict(input_ids=IDS, attention_mask=torch.ones_like(IDS))
    plain = put_head_on(body, Head(body.config, 4, "text")).eval()
    assert list(plain.state_dict()) == list(merged_state(model)), "the names must be the usual ones"
    before = plain.output(batch)
    plain.load_state_dict(merged_state(model))
    assert not torch.allclose(plain.output(batch), before, atol=1e-2), "the addition is lost"
    torch.testing.assert_close(plain.output(batch), model.output(batch), rtol=1e-4, atol=1e-5)
    minilm.save(model, small.tokenizer(), tmp_path / "saved")
    loaded, _ = minilm.load(tmp_path / "saved")
    small.assert_equal(dict(loaded.state_dict()), {n: merged_state(model)[n] for n in loaded.state_dict()})


def test_targets_name_the_layers():
    model = tuned.body("encoder-decoder")
    model.down = nn.Linear(12, 3)  # as a head may be called: only layers inside blocks are replaced
    add_lora(model, 2, 4.0, ("q", "down"))
    found = {name for name, layer in model.named_modules() if isinstance(layer, LoRALinear)}
    blocks = ("encoder.blocks.0", "encoder.blocks.1", "decoder.blocks.0")
    expected = {f"{block}.{layer}" for block in blocks for layer in ("self_attention.q", "feed_forward.down")}
    assert found == expected | {"decoder.blocks.0.cross_attention.q"}
    assert len(thin(model)) == 2 * len(found)
    assert tuned.body("encoder-decoder").state_dict().keys() <= model.state_dict().keys()


def test_a_is_drawn_as_widely_as_the_layer_is_narrow():
    layer = LoRALinear(nn.Linear(400, 3), 30, 1.0)
    assert float(layer.lora_a.detach().std()) == pytest.approx(400**-0.5, rel=0.05) and layer.scale == 1 / 30


def test_an_addition_has_the_type_of_the_weights_it_is_added_to():
    layer, x = nn.Linear(6, 5).bfloat16(), torch.ones(3, 6, dtype=torch.bfloat16)
    assert torch.equal(LoRALinear(layer, 2, 4.0)(x), layer(x)), "B begins at 0"
