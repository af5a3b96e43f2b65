"""Grades continued/new_tokens.py: what was learnt about the old tokens is kept."""

import dataclasses

import pytest
import small
import torch

from minilm.continued.new_tokens import extend_vocabulary, new_row


def test_new_rows():
    torch.manual_seed(0)
    old = torch.randn(400, 30) * 0.3 + 1
    assert torch.allclose(new_row(old, "mean"), old.mean(0))
    assert torch.equal(new_row(old, "zeros"), torch.zeros(30))
    drawn = torch.stack([new_row(old, "random") for _ in range(300)])
    assert abs(drawn.std() / old.std() - 1) < 0.05 and not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("kind", ["masked", "causal"])
@pytest.mark.parametrize("tied", [True, False])
def test_old_tokens_keep_their_logits_when_the_vocabulary_grows(kind, tied):
    model = small.model(kind)
    config = dataclasses.replace(model.config, tie_embeddings=tied, head_bias=True)
    model = type(model)(config).eval()
    torch.nn.init.normal_(model.vocabulary.bias)
    longer = small.tokenizer().extend(["Order 7: zinc, tungsten boxes."] * 9, 9)
    larger = extend_vocabulary(model, longer, "mean").eval()
    V = config.vocab_size
    assert larger.config.vocab_size == V + 9 and larger.n_parameters() > model.n_parameters()
    ids = torch.tensor([[7, 200, 33, 5]])
    assert torch.equal(larger(ids)[..., :V], model(ids)), "what was learnt about the old tokens is kept"
    assert torch.allclose(larger.tokens.weight[V:], model.tokens.weight.mean(0).expand(9, -1))
    assert torch.allclose(larger.vocabulary.bias[V:], model.vocabulary.bias.mean().expand(9))
    assert torch.equal(extend_vocabulary(model, longer, "zeros").tokens.weight[V:], torch.zeros(9, 8))
