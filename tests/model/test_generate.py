"""Grades model/generate.py: one text alone, in a batch, with a cache and without, and scored as drawn."""

import inspect
import math

import pytest
import torch
from unequal import PROMPTS, writer

from minilm.model import generate as module
from minilm.model import sampling
from minilm.model.draft import pad
from minilm.model.generate import evaluation_mode, generate, listed, sample
from minilm.model.sampling import PLAIN, SamplingRule, draw, uniform_numbers
from minilm.plumbing.errors import UserError

V = 11
KINDS = ["decoder", "encoder-decoder"]
every_kind = pytest.mark.parametrize("kind", KINDS)
both_searches = pytest.mark.parametrize("n_beam", [1, 3])
RULES = [PLAIN, SamplingRule(temperature=0.7, top_k=6)]
RULES += [SamplingRule((0, 7), temperature=1.3, top_p=0.9, eos_id=4)]
SETTINGS = [dict(), dict(temperature=0.7, top_k=6), dict(n_beam=3, eos_id=4)]
SETTINGS += [dict(forbidden_ids=[0, 7], eos_id=4, top_p=0.9)]


def start(kind: str) -> dict:
    return dict(decoder_start_id=8) if kind == "encoder-decoder" else {}


def slow_texts(model, prompts, n_new: int, rule=PLAIN, seeds=(0,)) -> list[list[int]]:
    """The plain loop of a decoder: one text after the other, read as a whole for each token."""
    texts = []
    for prompt, seed in zip(prompts, seeds, strict=True):
        text = list(prompt)
        for number in uniform_numbers(seed, 1, n_new)[0]:
            with torch.no_grad():
                logits = model(torch.tensor([text]))[:, -1]
            token = draw(rule.log_probabilities(logits), number[None]).item()
            text.append(token)
            if token == rule.eos_id:
                break
        texts.append(text)
    return texts


@pytest.mark.parametrize("rule", [*RULES, SamplingRule(temperature=0.0)])
def test_texts_are_those_of_the_plain_loop(rule):
    model = writer()
    got = sample(model, PROMPTS, 9, rule, seed=[5, 6, 7])
    have = [ids[mask].tolist() for ids, mask in zip(got.ids, got.mask, strict=True)]
    wanted = slow_texts(model, PROMPTS, 9, rule, (5, 6, 7))
    for row, (text, want) in enumerate(zip(have, wanted, strict=True)):
        assert text != want[:-1], f"row {row}: its last token, or its end token, is left out"
        assert text != want[: len(text)] or text == want, f"row {row} stops before its own end"
        assert text[: len(want)] != want or text == want, f"row {row} goes on after its own end"
        assert text == want, f"row {row}: {text}, not {want}, as the plain loop writes it"


@pytest.mark.parametrize("slides", [False, True], ids=["texts fit", "texts slide"])
@pytest.mark.parametrize("settings", SETTINGS)
@every_kind
def test_a_batch_of_unequal_prompts_is_its_prompts_one_by_one(kind, settings, slides):
    """Also where texts outgrow the positions, and go on with their newest part."""
    model, n_new = (writer(kind, max_positions=8), 20) if slides else (writer(kind), 9)
    options = settings | start(kind) | (dict(eos_id=None) if slides else {})
    together = generate(model, PROMPTS, n_new, seed=[5, 6, 7], **options)
    alone = [generate(model, p, n_new, seed=s, **options) for p, s in zip(PROMPTS, (5, 6, 7), strict=True)]
    assert all(isinstance(text, list) for text in (*together, *alone)), "for lists of ids it gives lists"
    assert together == alone, "padding or a neighbour changes a text"
    assert not slides or all(len(text) > 20 for text in together), "the end of the positions ends no text"


@pytest.mark.parametrize("rule", RULES)
@every_kind
def test_each_token_is_drawn_from_the_distribution_that_scores_it(kind, rule):
    layers = dict(n_encoder_layer=3) if kind == "encoder-decoder" else {}  # its last states are read
    model = writer(kind, **layers)
    got = sample(model, PROMPTS, 9, rule, seed=3, **start(kind))
    assert isinstance(got, module.Sample)
    source = pad(PROMPTS, 0, "right") if kind == "encoder-decoder" else (None, None)
    scorer = model, got.ids, got.mask, *source, rule, got.n_prompt
    new, real, uniform = got.ids[:, got.n_prompt :], got.mask[:, got.n_prompt :], uniform_numbers(3, 3, 9)
    distributions = sampling.next_token_distributions(*scorer).unbind(1)
    drawn = [draw(p, uniform[:, t]) for t, p in enumerate(distributions)]
    assert torch.equal(torch.stack(drawn, 1)[real], new[real]), "sampling and scoring: one distribution"
    scores = sampling.token_log_probabilities(*scorer)
    assert (scores[real] <= 0).all() and (scores[~real] == 0).all(), "tokens after the end must count as 0"
    scores.sum().backward()  # a sample can take part in a loss
    assert model.tokens.weight.grad.abs().sum() > 0


def test_from_two_beams_on_nothing_is_drawn():
    model = writer()
    for n_beam in (2, 3):
        texts = [generate(model, PROMPTS, 8, n_beam=n_beam, seed=seed) for seed in (1, 2)]
        assert texts[0] == texts[1], f"{n_beam} beams search, and draw nothing"
    assert generate(model, PROMPTS, 8, n_beam=1, seed=1) != generate(model, PROMPTS, 8, n_beam=1, seed=2)


def test_a_seed_gives_the_same_text_whatever_the_batch():
    model = writer()
    texts = generate(model, [[3, 1]] * 4, 8, seed=2)
    assert generate(model, [[3, 1]] * 4, 8, seed=2) == texts
    assert generate(model, [[3, 1]] * 2 + [[4, 4, 4, 4]], 8, seed=2)[:2] == texts[:2], "the neighbours matter"
    assert generate(model, [[3, 1]] * 4, 5, seed=2) == [text[:7] for text in texts], "the length matters"
    assert len({tuple(text) for text in texts}) > 1, "one prompt four times must not give one text four times"
    assert generate(model, [[3, 1]] * 2, 8, seed=[6, 6])[0] == generate(model, [3, 1], 8, seed=6)


def test_what_comes_back_has_the_shape_of_what_went_in():
    model = writer()
    lists = generate(model, PROMPTS, 4, seed=2)
    assert [text[: len(p)] for text, p in zip(lists, PROMPTS, strict=True)] == PROMPTS, "they come first"
    assert [len(text) for text in lists] == [9, 6, 8] and isinstance(lists[0][0], int)
    assert generate(model, [torch.tensor(p) for p in PROMPTS], 4, seed=2) == lists
    row = generate(model, torch.tensor(PROMPTS[0]), 4, seed=2)
    assert row.tolist() == lists[0] and row.dtype == torch.long
    batch = generate(model, torch.tensor([PROMPTS[0]] * 2), 4, seed=2)
    assert batch.shape == (2, 9) and batch[0].tolist() == lists[0]
    assert generate(model, PROMPTS[0], 0) == PROMPTS[0], "no new token: the prompt"


def test_an_encoder_decoder_gives_the_decoders_text():
    model = writer("encoder-decoder")
    texts = generate(model, PROMPTS, 4, decoder_start_id=[8, 3])
    assert [text[:2] for text in texts] == [[8, 3]] * 3 and [len(text) for text in texts] == [6] * 3
    batch = generate(model, torch.tensor([PROMPTS[0]] * 2), 4, decoder_start_id=8)
    assert batch.shape == (2, 5) and batch[:, 0].tolist() == [8, 8]


def test_a_text_stops_at_the_end_token_and_the_rest_goes_on():
    model = writer()
    free = generate(model, PROMPTS, 9, seed=2)
    end = free[0][len(PROMPTS[0]) + 1]  # ends some of the texts early and some not
    ended = generate(model, PROMPTS, 9, seed=2, eos_id=end)
    for prompt, long, short in zip(PROMPTS, free, ended, strict=True):
        new = long[len(prompt) :]
        new = new[: new.index(end) + 1] if end in new else new
        assert short == prompt + new, "a text ends with the first end token, which is kept"
    batch = torch.tensor([PROMPTS[0]] * 6)
    ids = generate(model, batch, 30, seed=2, eos_id=end, pad_id=7)
    for row in ids[:, 5:].tolist():
        assert set(row[row.index(end) + 1 :] if end in row else []) <= {7}, "after the end comes pad_id"
    assert generate(model, batch, 9, seed=2, eos_id=end)[0, -1] == end, "pad_id none: fill with the end"


def test_what_is_done_where_nothing_is_said():
    own = {generate: dict(temperature=1.0), sample: dict(length_penalty=0.6, overflow="slide")}
    for function, expected in own.items():
        given = inspect.signature(function).parameters.values()
        found = {p.name: p.default for p in given if isinstance(p.default, (int, float, str))}
        assert found == expected | dict(max_new_tokens=50, n_beam=1, seed=0)
    assert sample(writer(), PROMPTS, 2).ids[1, :3].tolist() == [0] * 3, "filled up with 0"
    assert len(generate(writer(), [3])) == len(sample(writer(), [3]).ids[0]) == 51, "50 new tokens"


def test_the_loop_stops_when_all_have_ended():
    model, steps = writer(), []
    decode = model.decode
    model.decode = lambda *args: steps.append(1) or decode(*args)
    end = generate(model, [3, 1], 1, temperature=0.0)[-1]
    steps.clear()
    assert generate(model, torch.tensor([[3, 1]] * 2), 9, temperature=0.0, eos_id=end).shape == (2, 3)
    assert len(steps) == 1, "nothing is left to write after the first token"
    steps.clear()
    full = next([k] * 15 for k in range(V) if generate(model, [k] * 15, 1, temperature=0.0)[-1] != end)
    steps.clear()
    sample(model, [[3, 1], full], 9, SamplingRule(temperature=0.0, eos_id=end), overflow="stop")
    assert len(steps) == 1, "one text has ended, the other has no position left"


@both_searches
def test_forbidden_tokens_never_come(n_beam):
    text = generate(writer(), [3], 60, forbidden_ids=[3, 5, 6], n_beam=n_beam)
    assert not {3, 5, 6} & set(text[1:])


@both_searches
def test_overflow_stops_at_the_last_position(n_beam):
    model = writer(max_positions=8)
    texts = generate(model, PROMPTS, 20, overflow="stop", n_beam=n_beam)
    assert [len(text) for text in texts] == [8, 8, 8], "a row stops when it is as long as the positions"
    assert generate(model, PROMPTS[:1], 20, overflow="stop", n_beam=n_beam) == texts[:1]
    assert generate(model, [1] * 8, 5, overflow="stop", n_beam=n_beam) == [1] * 8
    free = generate(model, PROMPTS[0], 3, overflow="slide", n_beam=n_beam)
    assert free == texts[0], "before the end of the positions both do the same"


def test_the_model_is_left_as_it_was():
    model = writer(dropout=0.5, attention_dropout=0.5).train()
    state = torch.get_rng_state()
    texts = generate(model, PROMPTS, 6)
    assert texts == generate(model, PROMPTS, 6), "dropout must be off"
    assert torch.equal(torch.get_rng_state(), state), "torch's random numbers belong to the training run"
    assert all(p.grad is None for p in model.parameters())


def test_evaluation_mode_restores_each_module_even_after_an_error():
    model = writer().train()
    model.tokens.eval()
    with pytest.raises(ZeroDivisionError), evaluation_mode(model):
        assert not any(m.training for m in model.modules())
        raise ZeroDivisionError
    assert [m.training for m in model.modules()] == [m is not model.tokens for m in model.modules()]


@pytest.mark.parametrize("settings", [dict(), dict(temperature=0.0), dict(n_beam=2)])
def test_a_broken_model_is_named(settings):
    model = writer()
    model.tokens.weight.data[3] = math.nan
    with pytest.raises(UserError, match="NaN"):
        generate(model, [3, 1], 4, **settings)


def test_prompts_are_one_or_many():
    tensor = torch.tensor([1, 2])
    for one in ([1, 2], (1, 2), tensor, tensor.numpy(), list(tensor)):
        assert listed(one) == ([[1, 2]], False)
    for many in ([[1, 2], [3]], [torch.tensor([1, 2]), (3,)], ([1, 2], [3])):
        assert listed(many) == ([[1, 2], [3]], True)


def test_the_first_and_the_last_id_and_the_longest_prompt_are_read():
    for prompt in ([0], [V - 1], [0, V - 1] * 8):
        module.check_prompt(prompt, "prompt 3", writer().config)


@pytest.mark.parametrize(
    "prompt, found",
    [([], "empty"), ([1] * 17, "17 tokens"), ([1, V], str(V)), ([-1], "-1"), ([1.5], "1.5"), ("text", "t")],
)
def test_prompts_that_the_model_cannot_read_are_refused(prompt, found):
    with pytest.raises(UserError, match=found):
        module.check_prompt(prompt, "prompt 3", writer().config)
    with pytest.raises(UserError, match=found):
        generate(writer(), [[1, 2], prompt], 4)
    for empty in ([], [[]], torch.zeros(0, dtype=torch.long), torch.zeros(0, 3), torch.zeros(2, 0)):
        with pytest.raises(UserError, match="empty"):
            generate(writer(), empty)


BAD_SETTINGS = [
    (dict(max_new_tokens=-1), "max-new-tokens -1: must be 0 or more"),
    (dict(temperature=-1.0), "temperature -1.0"),
    (dict(top_k=0), "top-k 0"),
    (dict(top_p=1.5), "top-p 1.5"),
    (dict(n_beam=0), "n-beam 0: must be 1"),
    (dict(n_beam=2, top_k=3), "n-beam 2 does not sample: leave out temperature"),
    (dict(n_beam=2, top_p=0.5), "n-beam 2 does not sample: leave out temperature"),
    (dict(n_beam=2, temperature=0.5), "n-beam 2 does not sample: leave out temperature"),
    (dict(length_penalty=-1.0), "length penalty -1.0: must be 0"),
    (dict(overflow="slidd"), "overflow slidd: must be slide or stop"),
    (dict(pad_id=V), r"pad_id, ends or forbidden_ids \[11\]: the vocabulary has the ids 0 to 10"),
    (dict(forbidden_ids=[-1, 3], eos_id=V, pad_id=0), r"\[-1, 11\]: the vocabulary has the ids 0 to 10"),
    (dict(forbidden_ids=range(V), eos_id=4), "no token of the vocabulary is left"),
    (dict(seed=-1), "seed -1"),
    (dict(seed=[1, 2]), "2 seeds for 1 prompts"),
]


@pytest.mark.parametrize(("options", "message"), BAD_SETTINGS)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        generate(writer(), [1, 2], **options)


def test_an_encoder_and_ends_without_the_one_they_become_are_refused():
    with pytest.raises(UserError, match=r"\(embeddings: extract.py\)"):  # what an encoder can do instead
        generate(writer("encoder"), [1, 2])
    with pytest.raises(UserError, match=r"\[None, 11\]: the"):
        sample(writer(), [1, 2], rule=SamplingRule(other_ends=(3, V)))
    module.check_settings(writer(), 4, SamplingRule(temperature=0.0), 2, 0.0, 0, "stop")  # the least of each


def test_where_only_the_end_may_come_it_comes():
    others = [i for i in range(V) if i != 4]
    assert generate(writer(), [1, 2], 5, forbidden_ids=others, eos_id=4) == [1, 2, 4]


@pytest.mark.parametrize("bad", [None, V, []])
def test_an_encoder_decoder_needs_a_start(bad):
    with pytest.raises(UserError, match="decoder_start_id"):
        generate(writer("encoder-decoder"), [1, 2], 4, decoder_start_id=bad)


def test_each_token_is_shown_as_soon_as_it_is_drawn():
    seen = []
    written = sample(writer(), [[1, 2, 3], [4]], 5, SamplingRule(), seed=2, watch=seen.append)
    assert torch.equal(torch.stack(seen, dim=1), written.ids[:, written.n_prompt :])

    def stop(token):
        raise KeyboardInterrupt

    model = writer().train()
    with pytest.raises(KeyboardInterrupt):
        sample(model, [[1, 2, 3]], 5, watch=stop)
    assert model.training, "Ctrl-C in the middle of a text leaves the model as it was"
