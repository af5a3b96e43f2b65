"""Grades continued/new_tokens.py: what was learnt about the old tokens is kept."""

import dataclasses

import pytest
import small
import torch
from mistakes import assert_right

from minilm.continued.new_tokens import extend_vocabulary, new_row


def test_new_rows():
    old = torch.randn(400, 30) * 0.3 + 1
    assert torch.allclose(new_row(old, "mean"), old.mean(0)), "a mean of each column: a row of D numbers"
    assert torch.equal(new_row(old, "zeros"), torch.zeros(30))
    drawn = torch.stack([new_row(old, "random") for _ in range(300)])
    assert abs(drawn.std() / old.std() - 1) < 0.05, "random rows have the deviation of the old ones"
    assert not torch.equal(drawn[0], drawn[1]), "each row is drawn"


@pytest.mark.parametrize("kind", ["masked", "causal"])
@pytest.mark.parametrize("tied", [True, False])
def test_old_tokens_keep_their_logits_when_the_vocabulary_grows(kind, tied):
    model = small.model(kind)
    config = dataclasses.replace(model.config, tie_embeddings=tied, head_bias=True)
    model = type(model)(config).eval()
    torch.nn.init.normal_(model.vocabulary.bias)
    longer = small.tokenizer().extend(["Order 7: zinc, tungsten boxes."] * 9, 9)
    V = config.vocab_size
    larger = extend_vocabulary(model, longer, V, "mean").eval()
    assert larger.config.vocab_size == V + 9 and larger.n_parameters() > model.n_parameters(), "9 new rows"
    zeros = extend_vocabulary(model, longer, V, "zeros")
    for what, of in (("embeddings", lambda m: m.tokens.weight), ("bias", lambda m: m.vocabulary.bias)):
        old, found = of(model), of(larger)
        assert len(found) == V + 9, f"{what}: {len(found)} rows for {V + 9} tokens"
        mean = old.mean(0).expand(9, *old.shape[1:])
        mistakes = {"the new rows stand before the old ones": torch.cat([mean, old])[:V]}
        assert_right(found[:V], old, mistakes, what=f"{what} of the old tokens, which must not change")
        mistakes = {
            "they are zeros: `how` is ignored": torch.zeros_like(mean),
            "they are one mean of all numbers, not a mean per column": old.mean().expand(mean.shape),
            "they are copies of the last old row": old[-1].expand(mean.shape),
        }
        assert_right(found[V:], mean, mistakes, what=f"{what} of the new tokens, the mean of the old ones")
        mistakes = {"they are the mean: `how` is ignored": mean}
        assert_right(of(zeros)[V:], 0 * mean, mistakes, what=f"{what} of the new tokens, how=zeros")
    drawn = extend_vocabulary(model, longer, V, "random").tokens.weight[V:]
    assert len(drawn.unique(dim=0)) == 9, "all new tokens have the same random row: call new_row for each"
    ids = torch.tensor([[7, 200, 33, 5]])
    assert torch.equal(larger(ids)[..., :V], model(ids)), "the logits of the old tokens must not change"
    assert model.config.vocab_size == V == len(model.tokens.weight), "the given model must not change"


@pytest.mark.parametrize("n_spare", [3, 12])
@pytest.mark.parametrize("tied", [True, False])
def test_rows_that_have_no_token_are_taken_first(n_spare, tied):
    known, model = small.tokenizer(), small.model("causal")
    V = known.vocab_size + n_spare
    model = type(model)(dataclasses.replace(model.config, vocab_size=V, tie_embeddings=tied))
    longer = known.extend(["Order 7: zinc, tungsten boxes."] * 9, 9)
    larger = extend_vocabulary(model, longer, known.vocab_size, "mean")
    n_row, wanted = len(larger.tokens.weight), max(V, longer.vocab_size)
    assert n_row == larger.config.vocab_size == wanted, f"{n_row} rows, not {wanted}: keep spare ones"
    for of in (lambda m: m.tokens.weight, lambda m: m.vocabulary.factors(None, m.tokens.weight)[1]):
        old, found = of(model), of(larger)
        n = known.vocab_size
        assert_right(found[:n], old[:n], {}, what="the rows of the old tokens, which must not change")
        spare = torch.cat([old[n:], found[V:]])[:9]
        mistakes = {
            "the spare rows keep their values: the new tokens use them": spare,
            "the mean includes the spare rows, which have no token": old.mean(0).expand(9, -1),
        }
        mean = old[:n].mean(0).expand(9, -1)
        assert_right(found[n : n + 9], mean, mistakes, what="the rows of the new tokens, the mean of the old")
        assert_right(found[n + 9 :], old[n + 9 :], {}, what="rows without a token, which must stay")


def test_a_text_that_teaches_no_new_token_leaves_the_model_as_it_was():
    known, model = small.tokenizer(), small.model("masked")
    larger = extend_vocabulary(model, known, known.vocab_size, "mean")
    for name, old in model.state_dict().items():
        assert torch.equal(larger.state_dict()[name], old), name
