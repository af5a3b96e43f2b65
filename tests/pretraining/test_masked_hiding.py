"""Which tokens are hidden, and by what: counts within 5 sigma, words against plain loops."""

import numpy as np
import pytest
from small import within_5_sigma

from minilm.pretraining.masked import Masked, begins_word, choose_positions, whole_words
from minilm.texts.corpus import Corpus
from minilm.training.objective import IGNORED


def original_rows(objective, step=0, split="train"):
    """The rows of a batch before anything was hidden."""
    return objective.rows(split, objective.generator(step, split), objective.batch_size)


def random_layout(B=50, T=23, seed=1):
    """may_hide and starts_word (B, T): texts of different lengths with [CLS], [SEP] and padding."""
    rng = np.random.default_rng(seed)
    may_hide = np.zeros((B, T), dtype=bool)
    for row in may_hide:
        row[1 : rng.integers(2, T)] = True
        row[rng.integers(1, T)] = False  # a [SEP] somewhere
    return may_hide, rng.random((B, T)) < 0.5


@pytest.fixture(params=[True, False], ids=["next sentence", "packed"])
def objective(request, tagged_corpus, bpe):
    return Masked(tagged_corpus, bpe, 61, 9, seed=3, next_sentence=request.param)


@pytest.mark.parametrize("share", [0.0, 0.15, 0.5, 1.0])
def test_as_many_tokens_are_hidden_as_the_share_says(share):
    may_hide, _ = random_layout()
    positions, counted = choose_positions(may_hide, share, np.random.default_rng(0))
    assert positions.shape == counted.shape and positions.shape[1] == counted.sum(1).max()
    for b in range(len(may_hide)):
        chosen = positions[b][counted[b]].tolist()
        n_may = int(may_hide[b].sum())
        assert len(chosen) == min(n_may, max(1, round(share * n_may))), "the rounded share, at least one"
        assert len(set(chosen)) == len(chosen), "a token is hidden twice"
        assert all(may_hide[b, t] for t in chosen), "a special token or padding is hidden"


def test_a_row_without_tokens_hides_none():
    may_hide = np.array([[False] * 4, [False, True, True, False]])
    starts = np.ones_like(may_hide)
    for starts_word in (None, starts):
        _, counted = choose_positions(may_hide, 0.5, np.random.default_rng(0), starts_word)
        assert counted.sum(1).tolist() == [0, 1]


def test_every_position_is_hidden_equally_often():
    n, T = 4000, 12
    may_hide = np.ones((n, T), dtype=bool)
    positions, counted = choose_positions(may_hide, 0.25, np.random.default_rng(0))
    for t in range(T):
        assert within_5_sigma((positions[counted] == t).sum(), n, 3 / T), f"position {t} has its own share"


def test_whole_words_are_hidden_whole_or_not_at_all():
    for share in (0.0, 0.1, 0.3, 0.7, 1.0):
        may_hide, starts_word = random_layout(seed=int(10 * share))
        positions, counted = choose_positions(may_hide, share, np.random.default_rng(0), starts_word)
        for b in range(len(may_hide)):
            words, inside = [], False  # plainly: a word goes on until the next one starts
            for t in range(may_hide.shape[1]):
                if may_hide[b, t] and inside and not starts_word[b, t]:
                    words[-1].append(t)
                elif may_hide[b, t]:
                    words.append([t])
                inside = may_hide[b, t]
            chosen = set(positions[b][counted[b]].tolist())
            hidden = [word for word in words if chosen & set(word)]
            assert chosen == {t for word in hidden for t in word}, "a word is hidden in part"
            n_may = int(may_hide[b].sum())
            wanted = min(n_may, max(1, round(share * n_may)))
            assert len(chosen) <= wanted or len(hidden) == 1, "more is hidden than the share"
            left = [len(word) for word in words if word not in hidden]
            assert min(left, default=99) > wanted - len(chosen), "another word would have fitted"
            assert chosen or not words


@pytest.mark.parametrize(
    "draws, n, expected",
    [
        ([0.1, 0.1, 0.2, 0.3, 0.3, 2], 3, "xxx   "),
        ([0.1, 0.1, 0.2, 0.3, 0.3, 2], 4, "xxx   "),  # the third word does not fit
        ([0.1, 0.1, 0.2, 0.3, 0.3, 2], 1, "  x   "),  # the first one does not, the second does
        ([0.1, 0.2, 0.2, 0.2, 0.3, 0.4], 3, "x   xx"),
        ([0.1, 0.1, 0.1, 0.1, 0.2, 0.2], 1, "xxxx  "),  # none fits: the first stays whole
        ([2, 2, 2, 2, 2, 2], 1, "      "),  # nothing to hide
    ],
)
def test_words_that_do_not_fit_are_passed_over_and_the_next_are_tried(draws, n, expected):
    out = whole_words(np.array([draws, draws]), np.array([n, 6]))
    assert out[0].tolist() == [letter == "x" for letter in expected]
    assert out[1].tolist() == [draw < 1 for draw in draws]


def test_begins_word():
    for token in (" cat", ",", "'s", " ", "”"):
        assert begins_word(token.encode()), token
    for token in ("s", "9", "é"):
        assert not begins_word(token.encode()), token
    assert not any(begins_word(bytes([byte])) for byte in "é".encode()), "part of a letter begins no word"


def test_whole_word_masking_hides_whole_words_of_the_text(bpe):
    texts = ["Été yesterday windowsills. Déjà, the sun sets.", "A tree été. Rainbows été, of, window."] * 3
    objective = Masked(Corpus("words", texts, texts), bpe, 64, 8, next_sentence=False, whole_word=True)
    assert max(map(len, map(bpe.encode, texts[0].split()))) > 2, "words of several tokens are the point here"
    for step in range(10):
        rows, batch = original_rows(objective, step), objective.batch(step, "train")
        for b in range(8):
            ids = rows["input_ids"][b]
            chosen = set(batch["masked_positions"][b][batch["masked_labels"][b] != IGNORED].tolist())
            word_of = np.cumsum([objective.tokenizer.vocab[i][:1] in (b" ", b",", b".", b"[") for i in ids])
            for word in {word_of[t] for t in chosen}:
                assert set(np.flatnonzero(word_of == word).tolist()) <= chosen, "a word is hidden in part"


def test_batch_hides_the_share_of_every_row_and_nothing_special(objective):
    bpe = objective.tokenizer
    special_ids = [bpe.special_id(token) for token in bpe.special_tokens]
    for step in range(5):
        rows, batch = original_rows(objective, step), objective.batch(step, "train")
        n_total = 0
        for b, ids in enumerate(rows["input_ids"].tolist()):
            n_may = sum(i not in special_ids for i in ids)
            counted = batch["masked_labels"][b] != IGNORED
            assert counted.sum() == max(1, round(0.15 * n_may))
            chosen = batch["masked_positions"][b][counted].tolist()
            assert all(ids[t] not in special_ids for t in chosen), "a special token or padding is hidden"
            n_total += len(chosen)
        assert batch["n_masked"] == n_total and batch["n_row"] == 9


def test_labels_are_the_original_tokens_and_the_rest_is_unchanged(objective):
    for step in range(5):
        rows, batch = original_rows(objective, step), objective.batch(step, "train")
        original, shown = rows["input_ids"], batch["input_ids"].numpy()
        chosen = np.zeros(original.shape, dtype=bool)
        n_byte = 0
        for b in range(len(original)):
            for t, label in zip(
                batch["masked_positions"][b], batch["masked_labels"][b].tolist(), strict=True
            ):
                if label != IGNORED:
                    assert label == original[b, t], "a label is the token that stood there before"
                    chosen[b, t] = True
                    n_byte += len(objective.tokenizer.vocab[label])
        assert (shown == original)[~chosen].all(), "a token is changed that is not to be predicted"
        assert not (shown == original)[chosen].all(), "nothing is hidden"
        assert batch["n_byte"] == n_byte
        for name in set(rows) - {"input_ids"}:
            assert batch[name].tolist() == rows[name].tolist()


def test_80_10_10(objective):
    rng = np.random.default_rng(0)
    bpe, V = objective.tokenizer, len(objective.tokenizer.vocab)
    mask, n_special = bpe.special_id("[MASK]"), len(bpe.special_tokens)
    ids = rng.integers(n_special, V, (400, 60))
    positions = np.tile(np.arange(1, 58, 2), (400, 1))
    counted = np.arange(29) < rng.integers(20, 30, (400, 1))
    before = ids.copy()
    hidden = objective.hide(ids, positions, counted, rng)
    assert (ids == before).all(), "hide changes its argument: the labels are read from it"
    at = np.zeros(ids.shape, dtype=bool)
    for b in range(400):
        at[b, positions[b][counted[b]]] = True
    assert (hidden == ids)[~at].all(), "a place that does not count is changed"
    n, new, old = int(counted.sum()), hidden[at], ids[at]
    accident = 0.1 / (V - n_special)  # a random token can be the same one
    assert within_5_sigma((new == mask).sum(), n, 0.8), "80 % become [MASK]"
    assert within_5_sigma((new == old).sum(), n, 0.1 + accident), "10 % stay as they are"
    drawn = new[(new != mask) & (new != old)]
    assert within_5_sigma(len(drawn), n, 0.1 - accident), "10 % become a random token"
    assert (drawn >= n_special).all(), "a random token is a special one"
    assert len(set(drawn.tolist())) > 0.9 * (V - n_special), "random tokens come from the whole vocabulary"


def test_masks_are_drawn_anew_each_time(byte_bpe):
    corpus = Corpus("one", ["A tree in the rain."], ["The sun."])
    objective = Masked(corpus, byte_bpe, 40, 1, next_sentence=False)
    one, other = objective.batch(0, "train"), objective.batch(1, "train")
    hidden = [set(batch["masked_positions"][0].tolist()) for batch in (one, other)]
    assert (
        original_rows(objective, 0)["input_ids"].tolist() == original_rows(objective, 1)["input_ids"].tolist()
    )
    assert hidden[0] != hidden[1], "masking is static: each epoch hides the same tokens"
