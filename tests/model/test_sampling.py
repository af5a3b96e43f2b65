"""Grades model/sampling.py against slow loops over the vocabulary, and the scorer against single texts."""

import itertools
import math

import numpy as np
import pytest
import small
import torch
from mistakes import assert_right, unchanged
from unequal import ids, writer

from minilm.model import sampling
from minilm.model.sampling import SamplingRule, keep_top_p, token_log_probabilities, uniform_numbers
from minilm.plumbing.errors import UserError

V = 11


def support(log_probs: torch.Tensor) -> list[set]:
    return [set(torch.nonzero(row > -math.inf)[:, 0].tolist()) for row in log_probs]


def slow_nucleus(logits: list[float], p: float, reached=lambda together, p: together >= p, best=-1) -> set:
    """The fewest likeliest tokens whose probabilities add up to p or more."""
    weights = [math.exp(x - max(logits)) for x in logits]
    chosen, together = set(), 0.0
    for token in sorted(range(len(logits)), key=lambda i: best * logits[i]):
        chosen.add(token)
        together += weights[token] / sum(weights)
        if reached(together, p):
            break
    return chosen


def nucleus_mistakes(rows: list[list[float]], p: float) -> dict[str, list[list[int]]]:
    """Return the tokens that typical wrong versions of top-p keep of each row."""

    def without_the_last(row):
        kept = sorted(slow_nucleus(row, p), key=lambda i: -row[i])
        return kept[:-1] if sum(math.exp(row[i]) for i in kept) > p * sum(map(math.exp, row)) else kept

    at_least = lambda row, p: [i for i in range(V) if math.exp(row[i]) / sum(map(math.exp, row)) >= p]
    wrong = {
        "the token that crosses p is left out": without_the_last,
        "the token that crosses p is left out, unless it is the likeliest": lambda row: (
            without_the_last(row) or [max(range(V), key=row.__getitem__)]
        ),
        "the tokens are sorted from unlikely to likely": lambda row: slow_nucleus(row, p, best=1),
        "a token is kept if its own probability is p or more": lambda row: at_least(row, p),
        "a token is kept if its own probability is 1 - p or more": lambda row: at_least(row, 1 - p),
        "all tokens are kept": lambda row: range(V),
        "the unlikely tokens are kept, not the nucleus": lambda row: {*range(V)} - slow_nucleus(row, p),
        "p is the share that is left out, not the share that is kept": lambda row: slow_nucleus(row, 1 - p),
    }
    return {name: [sorted(of(row)) for row in rows] for name, of in wrong.items()}


@pytest.mark.parametrize("k", [1, 2, 7, V, V + 5])
def test_top_k_keeps_the_k_likeliest(k):
    logits = torch.randn(6, V)
    kept = support(sampling.keep_top_k(logits, k))
    for row, have in zip(logits.tolist(), kept, strict=True):
        want = set(sorted(range(V), key=lambda i: -row[i])[:k])
        assert have == want, f"top-k {k} must keep the {k} tokens with the greatest logits"
    assert torch.equal(sampling.keep_top_k(logits, V), logits), "the logits that are kept must not change"
    kept = support(sampling.keep_top_k(torch.tensor([[3.0, 1.0, 2.0, 2.0]]), 2))
    assert kept == [{0, 2, 3}], "which of two equal tokens stays must not depend on the device: keep both"


@pytest.mark.parametrize("p", [0.01, 0.3, 0.5, 0.9, 0.999])
def test_top_p_keeps_the_smallest_nucleus(p):
    logits = 2 * torch.randn(2, 5, V)
    found = keep_top_p(logits, p)
    assert found is not None, "the function returns nothing"
    kept = [sorted(have) for have in support(found.flatten(0, 1))]
    rows = logits.double().flatten(0, 1).tolist()
    right = [sorted(slow_nucleus(row, p)) for row in rows]
    assert_right(kept, right, nucleus_mistakes(rows, p), axes=("row",), what=f"top-p {p}, the tokens kept")
    assert_right(found.clamp(min=-99), logits.where(found > -99, -99.0), what="kept logits must not change")
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    assert support(keep_top_p(logits, 0.6)) == [{0, 1}], "the token that crosses p belongs to the nucleus"
    exact = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()  # with sums that binary numbers have exactly
    assert support(keep_top_p(exact, 0.75)) == [{0, 1}], "two tokens reach exactly p: a third one is too many"
    assert support(keep_top_p(exact, 0.5)) == [{0}], "one token reaches exactly p: a second one is too many"
    assert support(keep_top_p(torch.zeros(1, 4), 0.3)) == [{0, 1, 2, 3}], "equal tokens stay together"


@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_temperature_divides_the_logits(temperature):
    logits = torch.randn(3, V)
    got = SamplingRule(temperature=temperature).log_probabilities(logits)
    of = lambda x: x.double().log_softmax(-1)
    mistakes = {
        "the temperature multiplies the logits": of(logits * temperature),
        "there is no temperature": of(logits),
        "log-probabilities are divided, not logits: p does not add up to 1": of(logits) / temperature,
        "log_softmax is missing, and logits are returned": logits / temperature,
        "probabilities are returned, not their logarithms": of(logits / temperature).exp(),
        "the softmax is over the rows, not over the tokens": (logits.double() / temperature).log_softmax(0),
    }
    what = f"temperature {temperature}"
    assert_right(got, of(logits / temperature), mistakes, axes=("row", "token"), what=what)
    got = sampling.PLAIN.log_probabilities(logits)
    assert_right(got, of(logits), {"logits are returned": logits}, what="PLAIN changes no probability")


def test_temperature_zero_is_certain_of_the_likeliest():
    logits = torch.randn(3, V)
    got = SamplingRule(temperature=0.0).log_probabilities(logits)
    assert not got.isnan().any(), "greedy: do not divide by temperature 0; the likeliest token has p = 1"
    assert torch.equal(got.argmax(-1), logits.argmax(-1)), "greedy: the likeliest token has changed"
    assert support(got) == [{i} for i in logits.argmax(-1).tolist()], "greedy: one token has probability 1"
    told = "greedy: the log-probability of the likeliest token must be 0"
    assert torch.equal(got.exp().sum(-1), torch.ones(3)), told
    cold = SamplingRule(temperature=1e-6).log_probabilities(torch.tensor([[1.0, 3.0, 2.0]])).exp()
    assert cold.tolist() == [[0, 1, 0]], "the lowest temperature but 0 is nearly certain, and gives no NaN"


def test_the_rule_applies_its_parts_in_order():
    logits, top_k, top_p = torch.randn(40, V), sampling.keep_top_k, keep_top_p
    never = lambda x: x.index_fill(1, torch.tensor([2, 5]), -math.inf)
    of = lambda x: x.log_softmax(-1).clamp(min=-99)
    by_hand = of(top_p(top_k(never(logits) / 0.6, 6), 0.8))
    mistakes = {
        "top-p comes before the temperature": of(top_k(top_p(never(logits), 0.8), 6) / 0.6),
        "top-p comes before top-k": of(top_k(top_p(never(logits) / 0.6, 0.8), 6)),
        "forbidden tokens go last, after top-k and top-p": of(never(top_p(top_k(logits / 0.6, 6), 0.8))),
        "forbidden tokens are not removed": of(top_p(top_k(logits / 0.6, 6), 0.8)),
        "top-k is left out": of(top_p(never(logits) / 0.6, 0.8)),
        "top-p is left out": of(top_k(never(logits) / 0.6, 6)),
        "the kept tokens do not add up to 1": top_p(top_k(never(logits) / 0.6, 6).log_softmax(-1), 0.8),
    }
    got = unchanged(SamplingRule((2, 5), temperature=0.6, top_k=6, top_p=0.8).log_probabilities, logits)
    mistakes = {name: wrong.clamp(min=-99) for name, wrong in mistakes.items()}
    axes, what = ("row", "token"), "forbidden, temperature, top-k, top-p"
    assert_right(got.clamp(min=-99), by_hand, mistakes, axes=axes, what=what)
    unseen = [name for name, wrong in mistakes.items() if torch.allclose(wrong, by_hand)]
    assert not unseen, f"this test would not see whether {unseen}"


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
def test_further_ends_come_as_the_one_end_and_as_often_as_all_together(temperature):
    logits, end = torch.randn(40, V), 4
    logits[0, [1, end, 7]] = torch.tensor([3.0, 2.9, 2.0])  # the likeliest is another end
    of = lambda never, **ends: SamplingRule(never, temperature, **ends).log_probabilities(logits).exp()
    plain, got = of((2,)), of((2,), eos_id=end, other_ends=(7, end, 1))
    want = plain.clone()
    want[:, end], want[:, [1, 7]] = plain[:, [1, end, 7]].sum(1), 0.0
    if temperature == 0:
        assert got[0, end] == 1, "greedy: if the likeliest token is an end, `eos_id` gets p = 1"
    mistakes = {
        "`other_ends` are forbidden, and their probability is lost": of((1, 2, 7)),
        "`other_ends` are treated like all other tokens": plain,
    }
    assert_right(got, want, mistakes, axes=("row", "token"), what=f"three ends, temperature {temperature}")


@pytest.mark.parametrize("rule", [SamplingRule((2, 5), 0.6, 6, 0.8), SamplingRule((2, 5), 0.0)])
def test_a_rule_is_that_of_each_place_alone(rule):
    logits = torch.randn(2, 3, V)
    together = rule.log_probabilities(logits)
    for b, t in itertools.product(range(2), range(3)):
        alone = rule.log_probabilities(logits[b, t])
        assert torch.allclose(together[b, t].exp(), alone.exp()), "(..., V): any axes may come before V"


BAD = [dict(temperature=-0.1), dict(temperature=math.nan), dict(top_k=0), dict(top_p=0.0), dict(top_p=1.1)]


@pytest.mark.parametrize("fields", BAD)
def test_settings_outside_their_range_are_refused(fields):
    with pytest.raises(UserError) as error:
        SamplingRule(**fields)
    assert str(*fields.values()) in str(error.value), "the message must name the value that was found"


def test_the_least_and_the_most_that_a_rule_takes():
    certain = SamplingRule(top_k=1).log_probabilities(torch.tensor([0.0, 2.0, 1.0]))
    assert certain.exp().tolist() == [0.0, 1.0, 0.0]
    rare = SamplingRule(top_p=1.0).log_probabilities(torch.tensor([0.0, -40.0]))
    assert rare.isfinite().all(), "top-p 1 draws from all tokens, however rare"
    assert uniform_numbers(0, 1, 2).shape == uniform_numbers([0], 1, 2).shape == (1, 2)


def test_draw_inverts_the_running_sum():
    log_probs, uniform = torch.randn(50, V).log_softmax(-1), 1 - torch.rand(50)
    for row, number, token in zip(log_probs, uniform, sampling.draw(log_probs, uniform), strict=True):
        running = itertools.accumulate(row.double().exp().tolist())
        want = next(i for i, together in enumerate(running) if together >= number.item() - 1e-7)
        assert token.item() == want, "the token is the first at which the running sum reaches the number"


def test_a_number_is_a_share_of_the_sum_whatever_rounding_makes_of_it():
    log_probs, uniform = torch.randn(50, V).log_softmax(-1), 1 - torch.rand(50)
    expected = sampling.draw(log_probs, uniform)
    for off in (0.7, -0.7):
        assert torch.equal(sampling.draw(log_probs + off, uniform), expected)
    broken = sampling.draw(torch.full((1, V), math.nan), torch.tensor([0.5]))
    assert broken.tolist() == [V - 1], "NaN must give a valid token too: its embedding is looked up"


def test_a_token_of_probability_zero_is_never_drawn():
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 1.0, -math.inf]]).expand(3, 5)
    for number in (1.0, 2.0**-53, 0.5):
        tokens = sampling.draw(logits.log_softmax(-1), torch.full((3,), number))
        assert set(tokens.tolist()) <= {1, 3}, f"with {number} a token of probability 0 is drawn"


def test_uniform_numbers_do_not_depend_on_the_batch():
    before = torch.get_rng_state()
    three = uniform_numbers(5, 3, 8)
    assert torch.equal(torch.get_rng_state(), before), "leave torch's random state to the training"
    assert three.shape == (3, 8) and three.dtype == torch.float32
    assert len({tuple(row) for row in three.tolist()}) == 3, "equal prompts in a batch must get unequal texts"
    numpy_row = np.random.default_rng(np.random.SeedSequence(5, spawn_key=(2,))).random(8)  # in [0, 1)
    assert not np.allclose(three[2], numpy_row), "0 would draw a token of probability 0: take 1 minus it"
    assert np.allclose(three[2], 1 - numpy_row), "row i is stream i: SeedSequence(seed, spawn_key=(i,))"
    assert torch.equal(uniform_numbers(5, 2, 4), three[:2, :4]), "more numbers must not change the first ones"
    assert torch.equal(uniform_numbers(np.int64(5), 3, 8), three), "a seed may be numpy's integer"
    assert not torch.equal(uniform_numbers(6, 3, 8), three)


def test_a_seed_per_row_gives_each_row_what_it_gets_alone():
    rows = uniform_numbers([9, 5, 9], 3, 6)
    for row, seed in zip(rows, (9, 5, 9), strict=True):
        assert torch.equal(row, uniform_numbers(seed, 1, 6)[0]), "row i of a list of seeds = seed i alone"
    for bad, told in ((-1, "^seed -1: "), ([3, -2], "^seed -2: "), ([1, 2, 3], "^3 seeds for 2 ")):
        with pytest.raises(UserError, match=told):
            uniform_numbers(bad, 2, 4)


RULES = [sampling.PLAIN, SamplingRule(temperature=0.6)]
RULES += [SamplingRule((3,), temperature=1.2, top_k=7, top_p=0.9)]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_scores_are_those_of_one_text_read_token_by_token(kind, rule):
    layers = dict(n_encoder_layer=3) if kind == "encoder-decoder" else {}  # its last states are read
    model, n_prompt = writer(kind, **layers), 3
    texts, mask = ids(2, 8, V), torch.ones(2, 8, dtype=torch.bool)
    mask[0, :2], mask[1, 6:] = False, False  # a short prompt, an early end
    encoder_ids, encoder_mask = ids(2, 5, V), torch.tensor([[1] * 5, [1] * 3 + [0] * 2])
    source = (encoder_ids, encoder_mask) if kind == "encoder-decoder" else (None, None)
    got = token_log_probabilities(model, texts, mask, *source, rule, n_prompt)
    assert got.shape == (2, 5), "one number for each column after the prompt"
    for b, columns in ((0, range(2, 8)), (1, range(6))):
        for t in range(n_prompt, 8):
            if t not in columns:
                assert got[b, t - n_prompt] == 0, "padding must have the score 0"
                continue
            past = texts[b : b + 1, columns[0] : t]
            if kind == "encoder-decoder":
                logits = model(encoder_ids[b : b + 1, : encoder_mask[b].sum()], decoder_input_ids=past)[0, -1]
            else:
                logits = model(past)[0, -1]
            want, have = rule.log_probabilities(logits)[texts[b, t]], got[b, t - n_prompt]
            told = f"row {b}, column {t}: {have:.4f}, alone {want:.4f}"
            told += ": the states of column t - 1 score column t"
            assert torch.allclose(have, want, atol=1e-5), told


def test_scores_have_32_bits_whatever_the_model_has():
    texts, rule, sums = ids(3, 7, V), SamplingRule(temperature=0.7), []
    with torch.autocast("cpu", torch.bfloat16):
        sums.append(sampling.next_token_distributions(writer(), texts, rule=rule).logsumexp(-1))
    sums.append(sampling.next_token_distributions(writer().bfloat16(), texts, rule=rule).logsumexp(-1))
    for total in sums:
        assert total.dtype == torch.float32 and total.abs().max() < 1e-5, "PPO needs more than three digits"


def test_scores_need_no_mask_and_take_known_hidden_states():
    model, texts = writer(), ids(3, 7, V)
    plain = token_log_probabilities(model, texts)
    want = model(texts).log_softmax(-1)[:, :-1].gather(2, texts[:, 1:, None])[..., 0]
    assert torch.allclose(plain, want, atol=1e-5), "column t must be scored by the logits of column t - 1"
    distributions = sampling.next_token_distributions(model, texts)
    assert torch.allclose(distributions.exp().sum(-1), torch.ones(3, 6)) and distributions.shape[2] == V
    for hidden in (model.decode(texts[:, :-1])[-1], model.decode(texts[:, :-1], n_last=5)[-1]):
        got = token_log_probabilities(model, texts, hidden=hidden, n_prompt=2)
        assert torch.allclose(got, plain[:, 1:], atol=1e-5)
    assert token_log_probabilities(model, texts, n_prompt=7).shape == (3, 0), "nothing new, nothing to score"


@pytest.mark.parametrize(("n_prompt", "n_last"), [(1, 6), (5, 2), (7, None)])
def test_the_last_block_computes_the_new_tokens_alone(n_prompt, n_last):
    model, texts, asked = writer(), ids(3, 7, V), []
    decode = model.decode
    model.decode = lambda *given, n_last: asked.append(n_last) or decode(*given, n_last=n_last)
    token_log_probabilities(model, texts, n_prompt=n_prompt)
    assert asked == [n_last], "prompts are long and answers short"


def test_gradients_flow_through_the_scores():
    model, texts = writer(), ids(2, 6, V)
    mask = torch.ones_like(texts)
    mask[0, 4:] = 0
    token_log_probabilities(model, texts, mask, rule=SamplingRule(temperature=0.5)).sum().backward()
    gradient = model.tokens.weight.grad
    assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0


def test_what_is_fixed_stays_fixed():
    small.assert_fixed(SamplingRule())
