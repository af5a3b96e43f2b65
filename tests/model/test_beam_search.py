"""Grades model/beam_search.py against greedy decoding, a search in plain Python, and all texts there are."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from unequal import writer

from minilm.model.beam_search import Beam, length_normaliser
from minilm.model.draft import Draft
from minilm.model.generate import generate
from minilm.model.sampling import PLAIN, SamplingRule, token_log_probabilities

PROMPTS = [[1, 2, 3], [4], [5, 6]]


def model_of(V: int = 11):
    return writer(vocab_size=V, max_positions=24, init_std=0.5)


def search(model, prompts, n_new, n_beam, rule=PLAIN, length_penalty=0.6):
    limits = torch.full((len(prompts),), n_new) if isinstance(n_new, int) else torch.tensor(n_new)
    with torch.inference_mode():
        draft = Draft(model, prompts, int(limits.max()))
        return Beam(draft, rule, limits, n_beam, length_penalty, 0).search()


@torch.no_grad()
def log_probs_after(model, text: list[int], rule) -> list[float]:
    return rule.log_probabilities(model(torch.tensor([text]))[0, -1]).tolist()


def slow_search(model, prompt: list[int], n_new: int, n_beam: int, eos: int, length_penalty: float):
    """Beam search over Python lists; the greedy text takes part at the end."""

    def score(text):
        return text[1] / ((5 + len(text[0])) / 6) ** length_penalty

    def ended(text):
        return text[0][-1:] == [eos] or len(text[0]) == n_new

    def continued(text, width):
        after = enumerate(log_probs_after(model, prompt + text[0], PLAIN))
        grown = [(text[0] + [token], text[1] + p) for token, p in after]
        return sorted(grown, key=score, reverse=True)[:width]

    finished = []
    for width in (1, n_beam):  # greedy first
        beam = [([], 0.0)]
        while not all(ended(text) for text in beam):
            grown = [new for text in beam for new in ([text] if ended(text) else continued(text, width))]
            beam = sorted(grown, key=score, reverse=True)[:width]
            finished += [text for text in beam if ended(text)]
    return max(finished, key=score)


def test_length_normaliser_is_the_formula():
    got = length_normaliser(torch.tensor([1, 7]), 0.6)
    assert torch.allclose(got, torch.tensor([1.0, (12 / 6) ** 0.6])), "((5 + n) / (5 + 1)) ** length_penalty"
    assert torch.equal(length_normaliser(torch.tensor([1, 7]), 0.0), torch.ones(2)), "length_penalty 0 is off"


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.5])
@pytest.mark.parametrize("eos", [None, 2])
def test_a_wide_beam_finds_the_best_of_all_texts(eos, length_penalty):
    V, n_new, prompt = 4, 4, [1, 3]
    for seed in range(4):
        torch.manual_seed(seed)
        model, best = model_of(V), (-math.inf, None)
        for text in itertools.product(range(V), repeat=n_new):
            length = text.index(eos) + 1 if eos in text else n_new
            if any(text[length:]):
                continue  # the same text with another filling
            with torch.no_grad():
                logits = model(torch.tensor([prompt + list(text[:length])]))[0].log_softmax(-1)
            total = sum(logits[1 + i, token].item() for i, token in enumerate(text[:length]))
            best = max(best, (total / ((5 + length) / 6) ** length_penalty, text[:length]))
        rule = SamplingRule(eos_id=eos)
        ids, lengths = search(model, [prompt], n_new, V**n_new, rule, length_penalty)
        assert tuple(ids[0, : lengths[0]].tolist()) == best[1], "a beam that drops nothing must find the best"


@pytest.mark.parametrize("n_beam", [1, 2, 3, 5])
@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 2.0])
def test_the_search_is_that_of_plain_python(n_beam, length_penalty):
    model = model_of(V=7)
    ids, n_new = search(model, PROMPTS, 7, n_beam, SamplingRule(eos_id=2), length_penalty)
    for prompt, row, n in zip(PROMPTS, ids, n_new, strict=True):
        want, _ = slow_search(model, prompt, 7, n_beam, 2, length_penalty)
        assert row[:n].tolist() == want, f"prompt {prompt}: another text than the slow search"
        assert (row[n:] == 0).all(), "after its end a text is padding"


def test_a_beam_is_never_below_greedy():
    prompts = torch.randint(11, (24, 3))
    for seed in range(4):
        torch.manual_seed(seed)
        model = model_of()
        texts = generate(model, prompts, 8, n_beam=4), generate(model, prompts, 8, temperature=0.0)
        beam, greedy = (token_log_probabilities(model, text, n_prompt=3).sum(1) for text in texts)
        assert (beam >= greedy - 1e-4).all(), "texts of equal length: the beam's is at least as likely"
        assert (beam > greedy + 1e-4).any(), "and sometimes likelier, or nothing was searched"


def test_the_temperature_of_greedy_decoding_changes_no_search():
    model = model_of()
    found = generate(model, PROMPTS, 8, n_beam=3, eos_id=4)
    assert generate(model, PROMPTS, 8, n_beam=3, eos_id=4, temperature=0.0) == found


def test_limits_hold_for_each_row():
    ids, n_new = search(model_of(), [*PROMPTS, [7]], [2, 5, 0, 1], 3)
    assert n_new.tolist() == [2, 5, 0, 1], "without an end token each row gets as many tokens as it may have"
    assert ids[0, 2:].eq(0).all() and ids[2].eq(0).all()


def test_a_new_beam_counts_the_prompt_once():
    beam = Beam(Draft(model_of(), [[1, 2], [3]], 4), PLAIN, torch.tensor([4, 0]), 3, 0.6, 0)
    never, told = -math.inf, "equal copies, equal texts; nothing is written yet, and log 1 is 0"
    assert beam.total.tolist() == [[0.0, never, never, 0.0]] * 2, told
    assert beam.ended.tolist() == [[False] * 4, [True] * 4] and beam.copies.tolist() == [0] * 4 + [1] * 4


P = [0.1, 0.2, 0.5, 0.15, 0.05]  # of the five tokens, after every text
# (probability, length, ended) of the two texts and the greedy one, before and after; last: their new tokens
ADVANCES = {
    "the two likeliest, and the greedy row": (
        [(1.0, 0, False), (1e-9, 0, False), (1.0, 0, False)],
        [(0.5, 1, False), (0.2, 1, False), (0.5, 1, False)],
        [2, 1, 2],
    ),
    # 0.3 * 0.2 of four tokens has the score log(0.06) / 1.5 = -1.88, and 0.14 of one token log(0.14) = -1.97
    "the score ranks, not the log-probability alone": (
        [(0.3, 3, False), (0.14, 1, True), (0.3, 3, False)],
        [(0.15, 4, True), (0.06, 4, True), (0.15, 4, True)],
        [2, 1, 2],
    ),
    "an ended text comes first by its score, stays ended, and its padding costs nothing": (
        [(0.05, 2, False), (0.6, 1, True), (0.05, 2, False)],
        [(0.6, 1, True), (0.025, 3, False), (0.025, 3, False)],
        [0, 2, 2],
    ),
}


@pytest.mark.parametrize("what", ADVANCES)
def test_advance_keeps_the_best_continuations(what):
    before, after, tokens = ADVANCES[what]
    beam = Beam(Draft(model_of(5), [[1, 2]], 4), PLAIN, torch.tensor([4]), 2, 1.0, 0)
    beam.draft.reorder(beam.copies)
    total, length, ended = (torch.tensor([column]) for column in zip(*before, strict=True))
    beam.total, beam.length, beam.ended = total.log(), length, ended
    beam.advance(torch.tensor(P).log().expand(3, 5))
    total, length, ended = (list(column) for column in zip(*after, strict=True))
    assert beam.draft.ids[:, 2].tolist() == tokens, what
    assert torch.allclose(beam.total.exp(), torch.tensor([total])), what
    assert beam.length.tolist() == [length] and beam.ended.tolist() == [ended], what


def test_each_prompt_remembers_the_first_best_of_its_own_ended_texts():
    beam = Beam(Draft(model_of(), [[1], [2]], 2), PLAIN, torch.tensor([2, 2]), 3, 0.0, 0)
    beam.draft = SimpleNamespace(length=1, ids=torch.arange(24).view(8, 3))
    beam.ended, beam.length = torch.ones(2, 4, dtype=torch.bool), torch.tensor([[2, 1, 2, 2], [2, 2, 1, 2]])
    beam.ended[0, 0] = False
    beam.remember(torch.tensor([[-0.5, -1.0, -3.0, -4.0], [-5.0, -6.0, -1.5, -7.0]]))
    told = "row 1 of the first prompt, as an unfinished text is not a result yet; row 2 of the second"
    assert beam.best_ids.tolist() == [[4, 5], [19, 20]], told
    assert beam.best_length.tolist() == [1, 1] and beam.best_score.tolist() == [-1.0, -1.5]
    beam.ended[0, 0] = True
    beam.remember(torch.tensor([[-1.0, -2.0, -3.0, -4.0], [-5.0, -1.6, -2.5, -7.0]]))
    assert beam.best_ids.tolist() == [[4, 5], [19, 20]], "a tie or a worse text must not replace the first"
    assert beam.best_score.tolist() == [-1.0, -1.5]


def test_a_search_is_settled_when_no_text_can_win_any_more():
    beam = Beam(Draft(model_of(), [[1]], 4), PLAIN, torch.tensor([4]), 1, 0.0, 0)
    beam.total, beam.length = torch.tensor([[-1.0, -2.0]]), torch.tensor([[2, 2]])
    beam.ended = torch.tensor([[False, True]])  # the greedy text has ended
    assert not beam.is_settled(), "nothing has been remembered"
    beam.best_score = torch.tensor([-0.8])
    assert beam.is_settled(), "more tokens never make -1.0 likelier"
    beam.best_score = torch.tensor([-1.0])
    assert beam.is_settled(), "a tie would not replace the best text"
    beam.best_score = torch.tensor([-0.8])
    beam.length_penalty = 1.0  # at most -1.0 / ((5 + 4) / 6) = -0.67; of its own two tokens -0.86
    assert not beam.is_settled(), "a longer text is divided by more"
    beam.ended = torch.tensor([[True, True]])
    assert beam.is_settled(), "no text is alive"
