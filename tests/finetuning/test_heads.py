"""Grades finetuning/heads.py: the vector that a head reads, and what moves under it."""

import pytest
import small
import torch
import tuned

from minilm.extraction.features import embed
from minilm.finetuning.heads import Head, WithHead, put_head_on
from minilm.finetuning.moving import let_move
from minilm.tokenizer.rows import text_rows

TEXTS = ["Rui sells bread.", "Ana found a lamp on Monday. The old baker likes it.", "Ana."]
SECONDS = ["A lamp.", "Rui.", "The old baker sells two red pens."]


def batch(model, texts=TEXTS) -> dict:
    rows = range(len(texts))
    if model.head.on == "apart":
        texts = [text for pair in zip(texts, SECONDS, strict=False) for text in pair]
        rows = [(2 * i, 2 * i + 1) for i in rows]
    return text_rows(small.tokenizer(), model.config, texts).batch(rows)


def made(kind: str, on: str = "text", n_output: int = 5, **changes) -> WithHead:
    body = tuned.body(kind, **changes)
    return put_head_on(body, Head(body.config, n_output, on)).eval()


@pytest.mark.parametrize("kind", tuned.KINDS)
def test_a_text_gives_the_same_output_alone_and_in_a_padded_batch(kind):
    model = made(kind)
    together = model.output(batch(model))
    assert together.shape == (3, 5)
    for i, text in enumerate(TEXTS):
        alone = model.output(batch(model, [text]))[0]
        torch.testing.assert_close(together[i], alone, msg=f"{kind}: padding has changed text {i}")


def test_an_encoder_gives_its_first_token_through_the_pooler():
    model = made("encoder")
    inputs = batch(model)
    hidden = model.hidden_states(**inputs)[-1]
    expected = model.head.linear(torch.tanh(model.pooler(hidden[:, 0])))
    told = "the state of [CLS], through the model's pooler if it has one"
    torch.testing.assert_close(model.output(inputs), expected, msg=told)
    with_b = inputs | dict(token_type_ids=1 - inputs["token_type_ids"])
    assert not torch.allclose(model.output(with_b), expected), "token_type_ids are not passed on"
    model = made("encoder", pooler=False, next_sentence=False)
    hidden = model.hidden_states(**batch(model))[-1]
    torch.testing.assert_close(model.output(batch(model)), model.head.linear(hidden[:, 0]))


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_a_decoder_gives_its_last_real_token(kind):
    model = made(kind)
    inputs = batch(model)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    if kind == "decoder":
        hidden = model.hidden_states(ids, mask)[-1]
    else:
        hidden = model.decode(ids, mask, model.encode(ids, mask)[-1], mask)[-1]
    last = torch.stack([hidden[i, n] for i, n in enumerate((mask.sum(1) - 1).tolist())])
    told = "a decoder's last real token has seen the whole text; after an encoder it reads the text again"
    torch.testing.assert_close(model.output(inputs), model.head.linear(last), msg=told)


def test_a_head_on_positions_reads_the_state_of_each():
    model = made("encoder", on="position", n_output=4)
    inputs = batch(model)
    expected = model.head.linear(model.hidden_states(**inputs)[-1])  # (B, T, 4)
    torch.testing.assert_close(model.output(inputs), expected)


def test_equal_vectors_have_no_difference():
    head = Head(tuned.config(d_model=3), 12, "apart")
    with torch.no_grad():
        head.linear.weight.copy_(torch.eye(12))
    u, v = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([3.0, -2.0, -1.0])
    told = "u, v, then |u - v|, then u * v"
    assert head(torch.stack([u, v])[None]).tolist() == [[*u, *v, 2.0, 0.0, 1.5, 3.0, 4.0, -0.5]], told


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_a_head_on_pairs_compares_the_vectors_that_extraction_gives(kind):
    model = made(kind, on="apart")
    u, v = (torch.tensor(embed(model, small.tokenizer(), texts)) for texts in (TEXTS, SECONDS))
    expected = model.head.linear(torch.cat([u, v, (u - v).abs(), u * v], dim=1))
    inputs = batch(model)
    assert inputs["input_ids"].shape[:2] == (3, 2)
    told = "the mean over the real tokens of each text; rows 2 i and 2 i + 1 are the texts of pair i"
    torch.testing.assert_close(model.output(inputs), expected, msg=told)


@pytest.mark.parametrize("on", ["text", "position", "apart"])
@pytest.mark.parametrize("kind", tuned.KINDS)
def test_exactly_the_weights_in_use_get_a_gradient(kind, on):
    model = made(kind, on)
    model.train().output(batch(model)).pow(2).sum().backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    named = {name for name, _ in model.named_parameters() if model.in_use(name)}
    assert named == with_gradient, f"{sorted(named ^ with_gradient)}: in use, but without a gradient, or not"
    assert with_gradient == {name for name, p in model.named_parameters() if p.requires_grad}
    through = kind == "encoder" and on == "text"
    assert ("pooler.weight" in with_gradient) == through, "an encoder's [CLS] goes through the pooler"
    part_of = lambda name: name.split(".")[0]
    resting = {*map(part_of, dict(model.named_parameters()))} - {*map(part_of, with_gradient)}
    assert resting <= {"pooler", "next_sentence"}, "the output depends on a frozen part"


def test_without_a_head_the_vocabulary_is_in_use_and_the_pooler_is_not():
    model = WithHead(tuned.config(tie_embeddings=False), None)
    resting = {name.split(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert resting == {"pooler", "next_sentence"}


def test_a_head_leaves_the_body_as_it_was():
    body = tuned.body()
    model = put_head_on(body, Head(body.config, 2, "text"))
    copied = {n: model.state_dict()[n] for n in body.state_dict()}
    small.assert_equal(copied, dict(body.state_dict()), "copy the body's weights: state")
    with torch.no_grad():
        model.tokens.weight.zero_()
    assert body.tokens.weight.any(), "fine-tuning must not change the model that it began with"


def test_a_part_that_rests_has_no_dropout():
    body = tuned.body(dropout=0.5)
    model = put_head_on(body, Head(body.config, 3, "text")).train()
    assert all(part.training for part in (*model.encoder.blocks, model.encoder.embeddings, model.head))
    let_move(model, "last:1")
    first, last = model.encoder.blocks
    training = (model.encoder.embeddings.training, first.training, last.training)
    assert training == (False, False, True), "embeddings, first and last block: frozen ones have no dropout"
    model.train()
    assert not first.training, "train() must leave frozen parts in eval mode"
    let_move(model, "head")
    model.head.dropout.p = 0.0
    assert torch.equal(model.output(batch(model)), model.output(batch(model))), "dropout in a frozen body"
    assert not any(part.training for part in (model.encoder.embeddings, first, last))


def test_a_head_starts_small_and_without_a_bias():
    for on, width, init_std in (("text", 300, 0.02), ("text", 300, None), ("apart", 1200, None)):
        head = Head(tuned.config(d_model=300, init_std=init_std, dropout=0.3), 200, on)
        assert head.linear.weight.shape == (200, width), "apart: two vectors, their distance, their product"
        assert head.linear.weight.std().item() == pytest.approx(init_std or 0.55 * width**-0.5, rel=0.05)
        assert not head.linear.bias.any() and head.dropout.p == 0.3
        head.dropout.p = 1.0
        dropped = head(torch.ones(1, 2, 300) if on == "apart" else torch.ones(1, 300))
        assert not dropped.any(), "dropout falls on the input of the linear layer, with training on"
