"""Which tokens are hidden, and what replaces them: counts within 5 sigma, words against plain loops."""

import numpy as np
import pytest
import small
from mistakes import NOTHING, assert_right
from small import within_5_sigma

from minilm.pretraining.masked import Masked, begins_word, choose_positions, whole_words
from minilm.texts.corpus import Corpus
from minilm.tokenizer.bpe import BPE
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


@pytest.mark.parametrize(
    "draws, n, expected",
    [
        ([0.1, 0.1, 0.2, 0.2, 0.2, 0.3, 2], 4, "xx   x "),  # each mistake gives something else here
        ([0.1, 0.1, 0.2, 0.3, 0.3, 2], 3, "xxx   "),
        ([0.1, 0.1, 0.2, 0.3, 0.3, 2], 4, "xxx   "),  # the third word does not fit
        ([0.1, 0.1, 0.2, 0.3, 0.3, 2], 1, "  x   "),  # the first one does not, the second does
        ([0.1, 0.2, 0.2, 0.2, 0.3, 0.4], 3, "x   xx"),
        ([0.1, 0.1, 0.1, 0.1, 0.2, 0.2], 1, "xxxx  "),  # none fits: the first stays whole
        ([2, 2, 2, 2, 2, 2], 1, "      "),  # nothing to hide
    ],
)
def test_words_that_do_not_fit_are_passed_over_and_the_next_are_tried(draws, n, expected):
    given = np.array([draws, draws]), np.array([n, 6])
    before = [array.copy() for array in given]
    out = whole_words(*given)
    right = [[letter == "x" for letter in expected], [draw < 1 for draw in draws]]
    wrong = lambda **how: [hidden_words(draws, n, **how), hidden_words(draws, 6, **how)]
    mistakes = {
        "a word that does not fit ends the row: the next words may fit": wrong(ends=True),
        "a word that does not fit is hidden in part": wrong(cuts=True),
        "a word that does not fit is hidden anyway": wrong(overflows=True),
        "nothing is hidden if no word fits: hide all of the first": wrong(nothing=True),
        "only a part of the first word is hidden if no word fits": wrong(part=True),
        "a word must be shorter than what is left: it may be equal": wrong(spare=1),
        "tokens with draws of 1 or more, not to hide, count as a word": wrong(special=True),
        "the number left to hide does not shrink with each word": wrong(shrinks=False),
        "each token counts as a word: equal draws are one word": wrong(single=True),
        "every row uses the number of the first row": [hidden_words(draws, n), hidden_words(draws, n)],
        "hidden and visible tokens are swapped": [[not x for x in row] for row in right],
    }
    assert_right(out, right, mistakes, axes=("row", "token"), what=f"draws {draws}, {n} and 6 to hide")
    assert all(map(np.array_equal, given, before)), "an argument is changed in place: copy it"


def hidden_words(draws, n, ends=False, cuts=False, overflows=False, nothing=False, part=False, spare=0,
                 special=False, shrinks=True, single=False) -> list[bool]:  # fmt: skip
    """Whole words in plain loops; each option makes a typical mistake."""
    words = []
    for t, draw in enumerate(draws):
        if words and not single and draws[t - 1] == draw:
            words[-1].append(t)
        else:
            words.append([t])
    words = [word for word in words if special or draws[word[0]] < 1]
    hidden, left = [], n
    for word in words:
        if len(word) + spare <= left or overflows and left > 0:
            hidden += word
            left -= len(word) if shrinks else 0
        elif ends:
            break
        elif cuts:
            hidden += word[:left]
            left = 0
    if not hidden and not nothing and words:
        hidden = words[0][:n] if part else words[0]
    return [t in hidden for t in range(len(draws))]


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
            assert chosen or not words, "a row with words hides none of them"


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
        for b, ids in enumerate(rows["input_ids"]):
            hidden = batch["masked_positions"][b][batch["masked_labels"][b] != IGNORED]
            word_of = np.cumsum([objective.tokenizer.vocab[i][:1] in (b" ", b",", b".", b"[") for i in ids])
            n_token = np.isin(word_of, word_of[hidden]).sum()  # of the words that are hidden
            assert n_token == len(hidden), "a word is hidden in part"


def test_a_batch_hides_the_share_of_each_row_and_its_labels_are_what_stood_there(objective):
    bpe = objective.tokenizer
    special_ids = [bpe.special_id(token) for token in bpe.special_tokens]
    for step in range(5):
        rows, batch = original_rows(objective, step), objective.batch(step, "train")
        original, shown = rows["input_ids"], batch["input_ids"].numpy()
        chosen, n_byte = np.zeros(original.shape, dtype=bool), 0
        for b, ids in enumerate(original.tolist()):
            places = batch["masked_positions"][b].tolist(), batch["masked_labels"][b].tolist()
            for t, label in zip(*places, strict=True):
                if label != IGNORED:
                    assert label == ids[t], "a label is the token that stood there before"
                    assert label not in special_ids, "a special token or padding is hidden"
                    chosen[b, t] = True
                    n_byte += len(bpe.vocab[label])
            n_may = sum(i not in special_ids for i in ids)
            assert chosen[b].sum() == max(1, round(0.15 * n_may)), "the rounded share, at least one"
        assert (shown == original)[~chosen].all(), "a token that is not to be predicted is changed"
        assert not (shown == original)[chosen].all(), "nothing is hidden"
        assert batch["n_masked"] == chosen.sum() and batch["n_row"] == 9
        assert batch["n_byte"] == n_byte
        for name in set(rows) - {"input_ids"}:
            assert batch[name].tolist() == rows[name].tolist()


def test_80_10_10(objective):
    rng, B = np.random.default_rng(0), 4000
    bpe, V = objective.tokenizer, len(objective.tokenizer.vocab)
    mask, n_special = bpe.special_id("[MASK]"), len(bpe.special_tokens)
    ids = rng.integers(n_special, V, (B, 60))
    positions = np.tile(np.arange(1, 58, 2), (B, 1))
    counted = np.arange(29) < rng.integers(20, 30, (B, 1))
    before = ids.copy()
    hidden = objective.hide(ids, positions, counted, rng)
    assert hidden is not None, NOTHING
    assert (ids == before).all(), "`hide` changes `ids`, but the labels are read from it: copy it"
    assert hidden.shape == ids.shape, f"shape {hidden.shape} instead of {ids.shape}: return whole rows"
    at = np.zeros(ids.shape, dtype=bool)
    for b in range(B):
        at[b, positions[b][counted[b]]] = True
    for row, place in np.argwhere((hidden != ids) & ~at)[:1]:
        told = "`counted` is False there" if place in positions[row] else "it is not in `positions`"
        raise AssertionError(f"row {row}: place {place} must not change: {told}")
    new, old = hidden[at], ids[at]
    n_all = sum((row[hit] == mask).all() for row, hit in zip(hidden, at, strict=True))
    assert n_all < B / 2 or (new == mask).all(), "one draw decides for a whole row: draw for each place"
    drawn = new[(new != mask) & (new != old)]
    assert (drawn >= n_special).all(), f"a random token is a special token, id {min(drawn, default=0)}"
    n, same = len(new), 1 / (V - n_special)  # a random token can be the same one
    shares = lambda masked, random, kept: [masked, random * (1 - same), kept + random * same]
    mistakes = {
        "all become [MASK]": [1, 0, 0],
        "nothing is replaced": [0, 0, 1],
        "no token stays as it is: 10 % must": shares(0.8, 0.2, 0),
        "no token becomes a random one": shares(0.8, 0, 0.2),
        "90 % become [MASK], and no token a random one": shares(0.9, 0, 0.1),
        "90 % become [MASK], 10 % a random token": shares(0.9, 0.1, 0),
        "the shares of [MASK] and of unchanged tokens are swapped": shares(0.1, 0.1, 0.8),
        "the shares of [MASK] and of random tokens are swapped": shares(0.1, 0.8, 0.1),
        "only 10 % of the tokens that are not [MASK] become random": shares(0.8, 0.02, 0.18),
        "90 % become [MASK], and half of the rest random": shares(0.9, 0.05, 0.05),
        "a second draw makes [MASK] tokens random": shares(0.72, 0.1, 0.18),
    }
    found = [(new == mask).mean(), ((new != mask) & (new != old)).mean(), (new == old).mean()]
    right = shares(0.8, 0.1, 0.1)
    told = "shares of [MASK], random and unchanged tokens: " + ", ".join(f"{share:.3f}" for share in found)
    assert_right(found, right, mistakes, 0, 5 * (0.8 * 0.2 / n) ** 0.5, what=told)
    assert len({*drawn.tolist()}) > 0.9 * (V - n_special), "random tokens must come from all ordinary tokens"


def test_masks_are_drawn_anew_each_time(byte_bpe):
    corpus = Corpus("one", ["A tree in the rain."], ["The sun."])
    objective = Masked(corpus, byte_bpe, 40, 1, next_sentence=False)
    one, other = (original_rows(objective, step)["input_ids"].tolist() for step in (0, 1))
    assert one == other, "the test needs the same text twice"
    one, other = (set(objective.batch(step, "train")["masked_positions"][0].tolist()) for step in (0, 1))
    assert one != other, "masking is static: each epoch hides the same tokens"


def test_an_id_without_a_token_shifts_no_other():
    plain, texts = small.tokenizer(), Corpus("few", *[[f"Cat {i} sat. It ran." for i in range(4)]] * 2)
    gap = BPE({i + (i > 280): token for i, token in plain.vocab.items()}, plain.merges, plain.special_tokens)
    one, other = (Masked(texts, tokenizer, 40, 2) for tokenizer in (plain, gap))
    assert gap.vocab_size == plain.vocab_size + 1 and 281 not in gap.vocab
    for name in ("begins_word", "token_bytes"):
        found = getattr(other, name)
        assert len(found) == gap.vocab_size and not found[281]
        assert (np.delete(found, 281) == getattr(one, name)).all(), name
