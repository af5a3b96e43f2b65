"""Grades model/transformer.py: what a model returns, its heads, and how its parameters live.

What it may see: test_transformer_sight.py. That it is what its config says: test_transformer_config.py.
"""

import copy

import pytest
import torch
from torch import nn
from unequal import KINDS, PAD, POSITIONS, B, D, H, S, T, V, config, ids, inputs, model

from minilm.model.transformer import VocabularyHead

every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_shapes_of_logits_and_hidden_states(kind):
    m, given = model(kind), inputs(kind)
    length = S if kind == "encoder" else T
    assert m(**given).shape == (B, length, V)
    states = m.hidden_states(**given)
    assert [state.shape for state in states] == [(B, length, D)] * 3, "n_layer + 1, the embeddings first"
    assert torch.equal(m.vocabulary_logits(states[-1]), m(**given)), "the logits come from the last states"


def test_an_encoder_decoder_needs_decoder_input_ids():
    m, given = model("encoder-decoder"), inputs("encoder-decoder")
    with pytest.raises(ValueError, match="decoder_input_ids"):
        m(given["input_ids"])
    states = m.hidden_states(given["input_ids"])
    assert len(states) == 2 and states[0].shape == (B, S, D), "without them the states are the encoder's"


def test_encode_then_decode_is_the_whole_model():
    m, given = model("encoder-decoder", n_encoder_layer=3), inputs("encoder-decoder")
    mask, decoder_mask = PAD["right"], PAD["right"][:, 2:]
    whole = m.hidden_states(**given, attention_mask=mask, decoder_attention_mask=decoder_mask)
    memory = m.encode(given["input_ids"], mask, given["token_type_ids"])[-1]
    parts = m.decode(given["decoder_input_ids"], decoder_mask, memory, mask)
    assert len(whole) == len(parts)
    for found, part in zip(whole, parts, strict=True):
        assert torch.equal(found, part), "the decoder reads the encoder's last states, with its mask"


@pytest.mark.parametrize("n", [1, 3])
def test_first_and_last_positions_alone_are_what_they_are_among_all(n):
    m, given, mask = model("encoder-decoder"), ids(B, S), PAD["right"]
    whole, part = m.encode(given, mask), m.encode(given, mask, n_first=n)
    torch.testing.assert_close(part[-1], whole[-1][:, :n], msg=f"n_first={n}: the first {n} positions")
    m, mask = model("decoder"), PAD["left"]
    whole, part = m.decode(given, mask), m.decode(given, mask, n_last=n)
    assert torch.equal(part[-2], whole[-2])
    torch.testing.assert_close(part[-1], whole[-1][:, -n:], msg=f"n_last={n}: the last {n} positions")
    with pytest.raises(ValueError, match="caches need all positions"):  # the next token would see too little
        m.decode(given, caches=m.new_caches(S), n_last=n)


@pytest.mark.parametrize("kind", ["encoder", "encoder-decoder"])
def test_segments_matter_to_the_encoder_only(kind):
    m, given = model(kind, n_segments=2), inputs(kind)
    other = given | dict(token_type_ids=1 - given["token_type_ids"])
    assert (m(**given) - m(**other)).abs().max() > 1e-3, "token_type_ids are not used"
    assert m.decoder is None or m.decoder.embeddings.segment is None, "a decoder reads one text"


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("transform", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_vocabulary_head_follows_its_formula(tied, transform, bias):
    """BERT: norm(gelu(dense(h))) E^T + b; without the transform h E^T; not tied: a matrix of its own."""
    fields = dict(tie_embeddings=tied, head_transform=transform, head_bias=bias, norm_eps=0.2)
    head, hidden, vectors = VocabularyHead(config(**fields)), torch.randn(B, T, D), torch.randn(V, D)
    for p in head.parameters():
        nn.init.normal_(p)
    h = hidden
    if transform:
        h = nn.functional.gelu(h @ head.dense.weight.T + head.dense.bias)
        spread = (h.var(-1, unbiased=False, keepdim=True) + 0.2).sqrt()
        h = (h - h.mean(-1, keepdim=True)) / spread * head.norm.weight + head.norm.bias
    expected = h @ (vectors if tied else head.output.weight).T + (head.bias if bias else 0)
    told = "norm(activation(dense(h)))" if transform else "h"
    told += " times the tokens' vectors" if tied else " times the head's own `output`"
    told += " plus the bias" if bias else ""
    assert torch.allclose(head(hidden, vectors), expected, atol=1e-4), told
    assert torch.allclose(head(hidden[0, 3], vectors), expected[0, 3], atol=1e-4), "(..., D): any states"


def test_pooled_and_next_sentence_read_the_first_token():
    m, hidden = model(pooler=True, next_sentence=True), torch.randn(B, T, D)
    pooled = torch.tanh(hidden[:, 0] @ m.pooler.weight.T + m.pooler.bias)
    assert torch.allclose(m.pooled(hidden), pooled, atol=1e-6), "tanh of the pooler at the first token"
    expected = pooled @ m.next_sentence.weight.T + m.next_sentence.bias
    assert m.next_sentence_logits(hidden).shape == (B, 2)
    told = "its input is `pooled`, not the state itself"
    assert torch.allclose(m.next_sentence_logits(hidden), expected, atol=1e-6), told


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("tied", [True, False])
@every_kind
def test_no_parameter_is_dead(kind, tied, norm):
    fields = dict(embedding_norm=True, final_norm=True, head_transform=True, head_bias=True)
    if kind != "decoder":
        fields |= dict(n_segments=2, pooler=True, next_sentence=True)
    m, given = model(kind, norm=norm, tie_embeddings=tied, **fields), inputs(kind)
    logits = m(**given)
    loss = (logits * torch.randn(logits.shape)).sum()
    if kind != "decoder":
        pair = m.next_sentence_logits(m.encode(given["input_ids"], None, given["token_type_ids"])[-1])
        loss = loss + (pair * torch.randn(pair.shape)).sum()
    loss.backward()
    for name, p in m.named_parameters():
        assert p.grad is not None, f"no output depends on {name}"
        # A bias of the keys adds the same to all scores of a query, which softmax takes out again.
        assert name.endswith("k.bias") or (p.grad != 0).any(), f"{name} never learns"


@pytest.mark.parametrize("tied", [True, False])
@every_kind
def test_tied_embeddings_are_one_tensor_and_untied_ones_two(kind, tied):
    m = model(kind, tie_embeddings=tied)
    storages = [p.untyped_storage().data_ptr() for p in m.state_dict().values()]
    assert len(set(storages)) == len(storages), "a tensor is saved twice under two names"
    assert ("vocabulary.output.weight" in m.state_dict()) == (not tied)
    hidden = m.hidden_states(**inputs(kind))[-1].detach()
    before = m.vocabulary_logits(hidden)
    m.tokens.weight.data[3] += 1.0
    changed = (m.vocabulary_logits(hidden) - before).abs().amax((0, 1)) > 1e-4  # (V,)
    assert changed.nonzero().flatten().tolist() == [3] * tied, "row 3 of the embedding gives token 3's logit"


def test_the_vectors_of_tokens_that_no_text_holds_learn_from_the_output_they_are_tied_to():
    """Each step says of every token that it was not to be written here."""
    m = model("decoder")
    m(torch.tensor([[3, 5, 8]])).log_softmax(-1)[0, :, 4].sum().backward()
    moved = m.tokens.weight.grad.abs().amax(1) > 0  # (V,)
    assert moved.all(), f"token {int((~moved).nonzero()[0])} has no gradient: are its vectors detached?"


@every_kind
@pytest.mark.parametrize("positions", POSITIONS)
def test_the_state_dict_holds_the_parameters_and_nothing_else(positions, kind):
    m, other = (model(kind, positions=positions, pooler=kind != "decoder") for _ in range(2))
    assert set(m.state_dict()) == {name for name, _ in m.named_parameters()}, "buffers are not saved"
    given = inputs(kind)
    assert not torch.equal(other(**given), m(**given))
    other.load_state_dict(m.state_dict(), strict=True)
    assert torch.equal(other(**given), m(**given))


def test_weights_keep_the_names_under_which_run_folders_hold_them():
    m = model("encoder-decoder", n_segments=2, embedding_norm=True, final_norm=True, tie_embeddings=False)
    names = {name.replace(".0.", ".N.") for name in m.state_dict() if ".1." not in name}
    linear = lambda *layers: {f"{layer}.{what}" for layer in layers for what in ("weight", "bias")}
    block = [f"self_attention.{part}" for part in ("q", "k", "v", "out")]
    block += ["self_attention_norm", "feed_forward.up", "feed_forward.down", "feed_forward_norm"]
    cross = [part.replace("self", "cross") for part in block if "self" in part]
    stacks = {f"{stack}.blocks.N.{name}" for stack in ("encoder", "decoder") for name in linear(*block)}
    stacks |= {f"{stack}.embeddings.position.weight" for stack in ("encoder", "decoder")}
    stacks |= {f"decoder.blocks.N.{name}" for name in linear(*cross)} | {"encoder.embeddings.segment.weight"}
    stacks |= linear("encoder.norm", "decoder.norm", "encoder.embeddings.norm", "decoder.embeddings.norm")
    assert names == stacks | {"tokens.weight", "vocabulary.output.weight"}


@every_kind
def test_explicit_attention_shows_its_weights_and_changes_nothing(kind):
    m, given = model(kind), inputs(kind)
    fast = m(**given)
    assert m.use_explicit_attention() is m, "it returns the model, so that calls can be chained"
    assert torch.allclose(m(**given), fast, atol=1e-5)
    shapes = {"encoder": (S, S), "decoder": (T, T)}
    for side in kind.split("-"):
        for block in getattr(m, side).blocks:
            weights = block.self_attention.weights
            assert weights.shape == (B, H, *shapes[side])
            later = torch.ones(shapes[side], dtype=torch.bool).triu(1)
            assert (weights[..., later] == 0).all() == (side == "decoder"), "they show the causal mask"
            if block.cross_attention is not None:
                assert block.cross_attention.weights.shape == (B, H, T, S)
    copy.deepcopy(m)  # weights that kept their graph could not be copied
    m.use_explicit_attention(False)
    assert torch.equal(m(**given), fast), "explicit=False must bring the fast path back"
    block = (m.decoder or m.encoder).blocks[0]
    assert block.self_attention.weights is None, "old weights must not be taken for those of the last call"
