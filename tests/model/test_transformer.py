"""Grades model/transformer.py: what a model returns, its heads, and how its parameters live.

What it may see: test_models_sight.py. That it is what its config says: test_models_config.py.

Sizes are unequal everywhere, so that a swapped axis fails.
"""

import pytest
import torch
from torch import nn

from minilm.model.config import ModelConfig
from minilm.model.transformer import Transformer, VocabularyHead, build

B, T, S, V, D, H, D_FF = 2, 5, 7, 31, 12, 3, 20
KINDS = {"encoder": (2, 0), "decoder": (0, 2), "encoder-decoder": (1, 2)}
POSITIONS = ["learned", "sinusoidal", "alibi"]
PAD = {  # two rows, the first of them three or two tokens short
    "left": torch.tensor([[0] * 3 + [1] * 4, [1] * 7]),
    "right": torch.tensor([[1] * 4 + [0] * 3, [1] * 7]),
}


def config(kind: str = "encoder", **fields) -> ModelConfig:
    encoder, decoder = KINDS[kind]
    small = dict(
        vocab_size=V, n_encoder_layer=encoder, n_decoder_layer=decoder, d_model=D, n_head=H, d_ff=D_FF
    )
    return ModelConfig(**(small | dict(max_positions=10, dropout=0.0, attention_dropout=0.0) | fields))


def model(kind: str = "encoder", **fields) -> Transformer:
    """A model with a value of its own in every parameter: what is left out must show."""
    made = build(config(kind, **fields)).eval()
    for p in made.parameters():
        nn.init.normal_(p, std=0.4)
    return made


def ids(rows: int, length: int) -> torch.Tensor:
    return torch.randint(V, (rows, length))


def inputs(kind: str, rows: int = B) -> dict:
    """Arguments of `forward`: segments for an encoder, and a text of its own for a decoder that has one."""
    if kind == "decoder":
        return dict(input_ids=ids(rows, T))
    given = dict(input_ids=ids(rows, S), token_type_ids=torch.randint(2, (rows, S)))
    return given | (dict(decoder_input_ids=ids(rows, T)) if kind == "encoder-decoder" else {})


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_of_logits_and_hidden_states(kind):
    m, given = model(kind), inputs(kind)
    length = S if kind == "encoder" else T
    assert m(**given).shape == (B, length, V)
    states = m.hidden_states(**given)
    assert [state.shape for state in states] == [(B, length, D)] * 3, "n_layer + 1, the embeddings first"
    assert torch.equal(m.vocabulary_logits(states[-1]), m(**given)), (
        "the logits come from the last hidden states"
    )


def test_build_makes_what_the_config_says():
    m = build(config("encoder-decoder"))
    assert isinstance(m, Transformer) and m.config == config("encoder-decoder")
    assert (len(m.encoder.blocks), len(m.decoder.blocks)) == KINDS["encoder-decoder"]
    assert m.decoder.causal and not m.encoder.causal
    assert build(config("encoder")).decoder is None and build(config("decoder")).encoder is None


def test_an_encoder_decoder_needs_decoder_input_ids():
    m, given = model("encoder-decoder"), inputs("encoder-decoder")
    with pytest.raises(ValueError, match="decoder_input_ids"):
        m(given["input_ids"])
    states = m.hidden_states(given["input_ids"])
    assert len(states) == 2 and states[0].shape == (B, S, D), (
        "without them the hidden states are the encoder's"
    )


def test_encode_then_decode_is_the_whole_model():
    m, given = model("encoder-decoder"), inputs("encoder-decoder")
    mask, decoder_mask = PAD["right"], PAD["right"][:, 2:]
    whole = m.hidden_states(**given, attention_mask=mask, decoder_attention_mask=decoder_mask)
    memory = m.encode(given["input_ids"], mask, given["token_type_ids"])[-1]
    parts = m.decode(given["decoder_input_ids"], decoder_mask, memory, mask)
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one, other)


def test_one_token_embedding_serves_both_stacks():
    m = model("encoder-decoder")
    names = [name for name, _ in m.named_parameters() if name.startswith("tokens")]
    assert names == ["tokens.weight"]
    given = inputs("encoder-decoder")
    before_in, before_out = m.encode(given["input_ids"])[0], m.decode(given["decoder_input_ids"])[0]
    m.tokens.weight.data += 1
    assert torch.allclose(m.encode(given["input_ids"])[0], before_in + 1, atol=1e-5)
    assert torch.allclose(m.decode(given["decoder_input_ids"])[0], before_out + 1, atol=1e-5)


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
    assert torch.allclose(head(hidden, vectors), expected, atol=1e-4)


def test_logits_of_chosen_positions_only():
    m = model()
    hidden = m.hidden_states(ids(B, T))[-1]
    chosen = torch.tensor([[True, False, False, True, False], [False, True, False, False, False]])
    assert torch.allclose(m.vocabulary_logits(hidden[chosen]), m.vocabulary_logits(hidden)[chosen], atol=1e-5)


def test_pooled_is_tanh_of_a_layer_on_the_first_token():
    m, hidden = model(pooler=True), torch.randn(B, T, D)
    expected = torch.tanh(hidden[:, 0] @ m.pooler.weight.T + m.pooler.bias)
    assert torch.allclose(m.pooled(hidden), expected, atol=1e-6)


def test_next_sentence_logits_read_the_pooled_vector():
    m, hidden = model(pooler=True, next_sentence=True), torch.randn(B, T, D)
    expected = m.pooled(hidden) @ m.next_sentence.weight.T + m.next_sentence.bias
    assert m.next_sentence_logits(hidden).shape == (B, 2)
    assert torch.allclose(m.next_sentence_logits(hidden), expected, atol=1e-6)


def test_more_tokens_than_positions_are_refused():
    with pytest.raises(ValueError, match="11 tokens.* 10 positions"):
        model("decoder")(ids(B, 11))


# Every field of the config is read


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
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
        assert p.grad is not None, f"{name} is part of no output"
        # A bias of the keys adds the same to all scores of a query, which softmax takes out again.
        assert name.endswith("k.bias") or (p.grad != 0).any(), f"{name} never learns"


@pytest.mark.parametrize("kind", KINDS)
def test_tied_embeddings_are_one_tensor(kind):
    m = model(kind)
    names = list(m.state_dict())
    assert "tokens.weight" in names and m.vocabulary.output is None
    storages = [p.untyped_storage().data_ptr() for p in m.state_dict().values()]
    assert len(set(storages)) == len(storages), "a tensor is saved twice under two names"
    hidden = m.hidden_states(**inputs(kind))[-1].detach()
    before = m.vocabulary_logits(hidden)
    m.tokens.weight.data[3] += 1.0
    changed = (m.vocabulary_logits(hidden) - before).abs().amax((0, 1)) > 1e-4  # (V,)
    assert changed.nonzero().flatten().tolist() == [3], "row 3 of the embedding gives the logit of token 3"


def test_untied_embeddings_are_two():
    m = model(tie_embeddings=False)
    hidden = m.hidden_states(ids(B, T))[-1].detach()
    before = m.vocabulary_logits(hidden)
    m.tokens.weight.data[3] += 1.0
    assert torch.equal(m.vocabulary_logits(hidden), before), "the output matrix must not follow the embedding"
    assert m.vocabulary.output.weight.shape == (V, D)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_the_state_dict_holds_the_parameters_and_nothing_else(positions, kind):
    m = model(kind, positions=positions, pooler=kind != "decoder")
    assert set(m.state_dict()) == {name for name, _ in m.named_parameters()}, (
        "buffers are computed, not saved"
    )
    other, given = model(kind, positions=positions, pooler=kind != "decoder"), inputs(kind)
    assert not torch.equal(other(**given), m(**given))
    other.load_state_dict(m.state_dict(), strict=True)
    assert torch.equal(other(**given), m(**given))


@pytest.mark.parametrize("field", ["dropout", "attention_dropout"])
@pytest.mark.parametrize("kind", KINDS)
def test_dropout_acts_in_training_only(kind, field):
    m, given = model(kind, **{field: 0.5}), inputs(kind)
    assert torch.equal(m(**given), m(**given)), "evaluation must be deterministic"
    plain = build(config(kind)).eval()
    plain.load_state_dict(m.state_dict())
    assert torch.allclose(m(**given), plain(**given), atol=1e-5)
    m.train()
    assert not torch.allclose(m(**given), m(**given), atol=1e-3), f"{field} does nothing in training"


@pytest.mark.parametrize("kind", KINDS)
def test_explicit_attention_shows_its_weights_and_changes_nothing(kind):
    m, given = model(kind), inputs(kind)
    fast = m(**given)
    assert m.use_explicit_attention() is m, "it returns the model, so that calls can be chained"
    assert torch.allclose(m(**given), fast, atol=1e-5)
    shapes = {"encoder": (S, S), "decoder": (T, T)}
    for side in kind.split("-"):
        for block in getattr(m, side).blocks:
            assert block.self_attention.weights.shape == (B, H, *shapes[side])
            if side == "decoder":
                later = torch.ones(T, T, dtype=torch.bool).triu(1)
                assert (block.self_attention.weights[..., later] == 0).all(), (
                    "the weights show the causal mask"
                )
            if block.cross_attention is not None:
                assert block.cross_attention.weights.shape == (B, H, T, S)
    m.use_explicit_attention(False)
    assert torch.equal(m(**given), fast)
    block = (m.decoder or m.encoder).blocks[0]
    assert block.self_attention.weights is None, "old weights must not be taken for those of the last call"


def test_decode_can_give_the_last_positions_alone():
    torch.manual_seed(0)
    model = build(ModelConfig(vocab_size=30, n_decoder_layer=2, d_model=12, n_head=3, d_ff=20, dropout=0.0))
    ids = torch.randint(30, (2, 7))
    whole, part = model.eval().decode(ids)[-1], model.decode(ids, n_last=3)[-1]
    torch.testing.assert_close(part, whole[:, -3:])


def test_encode_can_give_the_first_positions_alone():
    torch.manual_seed(0)
    model = build(ModelConfig(vocab_size=30, n_encoder_layer=2, d_model=12, n_head=3, d_ff=20, dropout=0.0))
    ids, mask = torch.randint(30, (2, 7)), torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    whole, part = model.eval().encode(ids, mask)[-1], model.encode(ids, mask, n_first=1)[-1]
    torch.testing.assert_close(part, whole[:, :1])
    assert model.encode(ids, mask)[-1].shape == (2, 7, 12), "without n_first all positions are wanted"
