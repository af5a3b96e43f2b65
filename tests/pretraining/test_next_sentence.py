"""The rows of BERT and of RoBERTa against plain loops, and nothing that gives a false B away."""

import copy
import math
import re
from collections import Counter

import numpy as np
import pytest
from mistakes import NOTHING, assert_right
from small import fingerprint

from minilm.plumbing.errors import UserError
from minilm.pretraining import next_sentence
from minilm.pretraining.next_sentence import DOES_NOT_FOLLOW, FOLLOWS, SentencePairs, SentenceRuns, sentences

CONTEXT = 61


@pytest.fixture(scope="module")
def texts(documents):
    return documents(90, seed=2)


@pytest.fixture(scope="module")
def pairs(texts, bpe):
    return SentencePairs(texts, bpe, CONTEXT)


@pytest.fixture(scope="module")
def many_pairs(documents, bpe):
    return SentencePairs(documents(3000, seed=5), bpe, CONTEXT)


def parse(rows: dict, b: int, bpe) -> tuple[list[int], list[int]]:
    """Read row b back, (ids of A, ids of B), and check its layout, plainly."""
    assert rows, NOTHING
    cls, sep, pad = (bpe.special_id(f"[{name}]") for name in ("CLS", "SEP", "PAD"))
    ids, told = rows["input_ids"][b].tolist(), f"row {b}: "
    assert ids[0] == cls, f"{told}it begins with {bpe.decode(ids[:1])!r}, not with [CLS]"
    n = len(ids) - next((i for i, token in enumerate(reversed(ids)) if token != pad), 0)
    assert ids.count(sep) == 2, f"{told}{ids.count(sep)} times [SEP], not 2: one after A, one after B"
    first = ids.index(sep)
    a, second = ids[1:first], ids[first + 1 : n - 1]
    assert ids[n - 1] == sep, f"{told}{bpe.decode(ids[n - 1 : n])!r} after the last [SEP], not padding"
    assert a and second, f"{told}A or B is empty"
    assert not {cls, pad} & {*a, *second}, f"{told}[CLS] or [PAD] is inside a text"
    real, length = [1] * n + [0] * (len(ids) - n), len(ids)
    mistakes = {"padding is 1": [1] * length, "it is 1 on padding, 0 on tokens": [1 - x for x in real]}
    mistakes["the last [SEP] is 0"] = [*real[: n - 1], *[0] * (length - n + 1)]
    axes = ("token",)
    assert_right(rows["attention_mask"][b], real, mistakes, axes=axes, what=f"{told}attention_mask")
    segments = lambda start, end: [int(start <= place < end) for place in range(length)]
    mistakes = {
        "the first [SEP] belongs to B": segments(first, n),
        "B's first token belongs to A": segments(first + 2, n),
        "padding belongs to B": segments(first + 1, length),
        "the last [SEP] belongs to A": segments(first + 1, n - 1),
        "all tokens belong to A": [0] * length,
        "A is 1, B and padding are 0": segments(0, first + 1),
        "A and padding are 1, B is 0": [1 - x for x in segments(first + 1, n)],
    }
    types = rows["token_type_ids"][b]
    assert_right(types, segments(first + 1, n), mistakes, axes=axes, what=f"{told}token_type_ids")
    return a, second


def tags(ids: list[int], bpe) -> list[tuple[int, int]]:
    """(document, sentence) of each sentence of a text, from the names that the texts hold."""
    return [(int(d), int(s)) for d, s in re.findall(r"D(\d+) s(\d+)", bpe.decode(ids))]


def test_sentences_are_encoded_with_a_space_before(texts, bpe):
    encoded = SentenceRuns(texts, bpe, context=16)  # 14 tokens and two special ones
    flat = [bpe.encode(" " + s) for text in texts for s in sentences(text)]
    pieces = [ids[i : i + 14] for ids in flat for i in range(0, len(ids), 14)]
    found = [ids.tolist() for ids in np.split(encoded.ids, encoded.edges[1:-1])]
    assert found == pieces, "with a space before; what is too long for a row stands as several, none is lost"
    assert encoded.n_cut == sum(len(ids) > 14 for ids in flat) > 0


def test_special_tokens_in_a_document_are_plain_text(bpe):
    encoded = SentenceRuns(["A [MASK] here. [SEP] <|endoftext|>"], bpe, 50)
    assert encoded.ids.min() >= len(bpe.special_tokens), "a document can hide its own words"
    assert bpe.decode(encoded.ids) == " A [MASK] here. [SEP] <|endoftext|>"


@pytest.mark.parametrize("n_text, across", [(1, False), (1, True), (2, False)])
def test_runs_hold_as_many_whole_sentences_as_fit(texts, bpe, n_text, across):
    runs = SentenceRuns(texts, bpe, 42, n_text, across)
    room = 42 - 1 - n_text  # beside [CLS] and a [SEP] after each text
    expected, documents, n_token, previous = [], [], 0, None
    for s, document in enumerate(d for d, text in enumerate(texts) for _ in sentences(text)):
        n = int(runs.edges[s + 1] - runs.edges[s])
        assert n <= room // n_text, "a sentence is longer than its share"
        if expected and n_token + n <= room and (across or document == previous):
            expected[-1][1], n_token = s + 1, n_token + n
        else:
            expected.append([s, s + 1])
            documents.append(document)
            n_token = n
        previous = document
    told = "as many sentences as fit" + (", into the next document too" if across else " of one document")
    assert runs.runs.tolist() == expected and len(runs) == len(expected), told
    assert runs.document_of.tolist() == documents
    assert SentenceRuns([], bpe, 9).runs.shape == (0, 2)


def test_a_sentence_takes_no_more_than_its_texts_share_of_the_row(byte_bpe):
    for n_text, lengths in ((1, [18, 2]), (2, [9, 9, 2])):  # 18 places beside [CLS] and [SEP]
        runs = SentenceRuns(["x" * 19], byte_bpe, 19 + n_text, n_text)  # with the space before it 20 tokens
        assert np.diff(runs.edges).tolist() == lengths, f"{n_text} texts a row share its 18 places"


def test_true_b_follows_a_in_the_document(pairs, texts, bpe):
    rows, halves = pairs.rows(np.arange(len(pairs))), sides(pairs)
    seen = []
    for b in range(len(pairs)):
        a, second = parse(rows, b, bpe)
        for name, found, right in zip("AB", (a, second), (side[b] for side in halves), strict=True):
            assert_text(found, right, {}, f"row {b}, without rng: {name}")
        names = tags(a, bpe) + tags(second, bpe)
        document, start = names[0]
        assert names == [(document, start + i) for i in range(len(names))], "B must begin where A ends"
        assert bpe.decode(a + second) in " " + texts[document], "A and B must be text of the document"
        assert 0 <= len(tags(second, bpe)) - len(tags(a, bpe)) <= 1, "cut a run at its middle sentence"
        seen += names
    assert len(seen) == len(set(seen)), "a sentence is in two runs"
    n_sentence = {d: len(sentences(text)) for d, text in enumerate(texts)}
    lost = [n - sum(d == document for d, _ in seen) for document, n in n_sentence.items()]
    assert max(lost) <= 1, "more than one sentence at a document's end is left out"


def test_false_b_is_from_another_document_where_there_are_few(documents, bpe):
    texts = [text for seed in range(40) for text in documents(3, seed, most=60) if text.count("s") > 30]
    texts = [re.sub(r"D\d+", f"D{d}", text) for d, text in enumerate(texts[:3])]
    pairs, n_false = SentencePairs(texts, bpe, CONTEXT), 0
    for seed in range(3):
        rows = pairs.rows(np.arange(len(pairs)), np.random.default_rng(seed))
        for b in np.flatnonzero(rows["next_sentence_labels"] == DOES_NOT_FOLLOW):
            a, second = (tags(side, bpe) for side in parse(rows, b, bpe))
            assert second[0][0] != a[0][0], "a false B is from A's own document"
            n_false += 1
    assert n_false > len(pairs), "the test needs false pairs"


def test_false_b_is_never_the_true_text(byte_bpe):
    texts = [f"D{d} says it. {'Ab ab.' if d % 3 else 'Xy xy.'}" for d in range(60)]
    pairs, chosen, n_false = SentencePairs(texts, byte_bpe, CONTEXT), np.arange(60), 0
    _, b = sides(pairs)
    for seed in range(5):
        second = pairs.second_runs(chosen, np.random.default_rng(seed))
        false = np.flatnonzero(second != chosen)
        assert all(b[i] != b[second[i]] for i in false), "the false B has the words of the true one"
        n_false += len(false)
    assert n_false > 100, "the test needs false pairs"


def test_a_long_document_among_short_ones_has_false_b_too(byte_bpe):
    long = " ".join(f"He {word} it. She {word} him." for word in ("saw", "met", "ate", "cut", "hid") * 40)
    pairs = SentencePairs([long] + [f"D{d} is here. It is far." for d in range(60)], byte_bpe, 40)
    later = np.flatnonzero(pairs.document_of == pairs.document_of[0])[1:]
    assert len(later) > 80, "the test needs a document of many runs"
    found = [pairs.second_runs(later, np.random.default_rng(seed)) != later for seed in range(5)]
    assert 0.3 < np.mean(found) <= 0.6, "its runs have only each other near them: all pairs of it are true"


def test_without_a_false_partner_the_label_says_that_b_follows(bpe):
    pairs = SentencePairs([f"D{d} says it. Yes, it is." for d in range(20)], bpe, CONTEXT)
    chosen = np.arange(20)
    assert (pairs.second_runs(chosen, np.random.default_rng(0)) == chosen).all()
    rows = pairs.rows(chosen, np.random.default_rng(0))
    assert (rows["next_sentence_labels"] == FOLLOWS).all(), "labelled false, but B follows A"


def sides(pairs) -> tuple[list, list]:
    """The tokens of A and of B of each run."""
    ids, cuts = pairs.ids.tolist(), list(zip(pairs.start, pairs.border, pairs.end, strict=True))
    return [ids[i:j] for i, j, _ in cuts], [ids[i:j] for _, i, j in cuts]


def test_a_and_b_are_those_of_the_chosen_runs(many_pairs, bpe):
    chosen = np.array([5, 3, 3, 20, 0, 9, 8, 33])
    second = many_pairs.second_runs(chosen, np.random.default_rng(0))
    rows = many_pairs.rows(chosen, np.random.default_rng(0))
    a, b = sides(many_pairs)
    false = second != chosen
    assert 0 < false.sum() < 8, "the test needs both classes"
    for row, (i, j) in enumerate(zip(chosen, second, strict=True)):
        found_a, found_b = parse(rows, row, bpe)
        assert_text(found_a, a[i], {"A of the run that B is from": a[j]}, f"row {row}: A")
        assert_text(found_b, b[j], {"B of the chosen run, not of the drawn one": b[i]}, f"row {row}: B")
    mistakes = {"0 and 1 are swapped: 0 means that B follows A": ~false, "all labels are 0": 0 * false}
    labels = rows["next_sentence_labels"]
    assert_right(labels, false, mistakes, axes=("row",), what="next_sentence_labels")


def assert_text(found: list, right: list, others: dict, what: str) -> None:
    """Compare the tokens of a text; name what else it may be."""
    mistakes = {f"it is {words}": ids for words, ids in others.items()} | {
        "its first token is left out": right[1:],
        "its last token is left out": right[:-1],
        "it begins and ends one token too late": found if found[:-1] == right[1:] else None,
        "it begins one token too early": found if found[1:] in (right, right[:-1]) else None,
    }
    assert_right(found, right, mistakes, axes=("token",), what=what)


def test_half_of_the_b_are_false_but_alike_and_fit(many_pairs, bpe):
    n, chosen = len(many_pairs), np.arange(len(many_pairs))
    second = many_pairs.second_runs(chosen, np.random.default_rng(0))
    pairs = [(i, j) for i, j in enumerate(second) if i != j]
    assert abs(len(pairs) - n / 2) < 5 * math.sqrt(n) / 2 + 0.01 * n, f"{len(pairs)} of {n} are false"
    a, b = sides(many_pairs)
    assert all(len(a[i]) + len(b[j]) <= CONTEXT - 3 for i, j in pairs), "a cut B is false"
    document_of = many_pairs.document_of
    assert all(document_of[i] != document_of[j] for i, j in pairs), "a false B is of A's own document"
    assert np.mean([abs(len(b[i]) - len(b[j])) for i, j in pairs]) < 2, "not as long as the true ones"
    alike = np.mean([len(tags(b[i], bpe)) == len(tags(b[j], bpe)) for i, j in pairs])
    assert alike > 0.93, "as many sentences as the true B"
    first = [tags(ids, bpe)[0][1] == 0 for ids in a]
    assert np.mean([first[i] == first[j] for i, j in pairs]) > 0.97, "from the same place"
    other = many_pairs.second_runs(chosen, np.random.default_rng(1))
    assert np.mean([other[i] != j for i, j in pairs]) > 0.8, "drawn anew each time"
    most = max(Counter(j for _, j in pairs).values())
    assert most < 9, "some B are always false: a model could learn them by heart"


def features(pairs, rows: dict, bpe) -> dict[str, list]:
    """What a rule could go by without reading: lengths, numbers of sentences, places, the last token."""
    out = {name: [] for name in ("tokens of B", "tokens", "sentences", "place", "end")}
    for b in range(len(rows["input_ids"])):
        a, second = parse(rows, b, bpe)
        a_tags, b_tags = tags(a, bpe), tags(second, bpe)
        out["tokens of B"].append(len(second) // 3)
        out["tokens"].append((len(a) + len(second)) // 3)
        out["sentences"].append((len(a_tags), len(b_tags)))
        out["place"].append((a_tags[0][1] == 0, min(2, b_tags[0][1])))
        out["end"].append(second[-1])
    return out


def test_no_rule_on_length_or_position_tells_false_from_true(many_pairs, bpe):
    """For each feature the best rule is found on one half of the rows and tried on the other."""
    chosen = np.tile(np.arange(len(many_pairs)), 2)
    rows = many_pairs.rows(chosen, np.random.default_rng(0))
    labels = rows["next_sentence_labels"]
    learn = np.random.default_rng(1).random(len(labels)) < 0.5
    for name, values in features(many_pairs, rows, bpe).items():
        balance = Counter()
        for value, label, use in zip(values, labels, learn, strict=True):
            balance[value] += (1 if label == FOLLOWS else -1) if use else 0
        guess = np.array([FOLLOWS if balance[value] > 0 else DOES_NOT_FOLLOW for value in values])
        accuracy = (guess == labels)[~learn].mean()
        assert accuracy < 0.54, f"{name} alone tells true from false in {accuracy:.0%} of the rows"


@pytest.mark.parametrize("longest, T", [(1, 8), (8, 8), (9, 16), (57, 61), (61, 61)])
def test_rows_are_padded_to_a_multiple_of_8_or_the_context(longest, T):
    rows = next_sentence.padded([[5], [7] * longest, []], -1, 61)
    assert rows.tolist() == [[5] + [-1] * (T - 1), [7] * longest + [-1] * (T - longest), [-1] * T]


def test_documents_of_one_sentence_give_no_pair(bpe):
    texts = ["Alone 1.", "D0 a. D0 b.", "Alone 2.", "D1 a. D1 b. D1 c.", "Alone 3."]
    pairs = SentencePairs(texts, bpe, CONTEXT)
    assert len(pairs) == 2
    rows = pairs.rows(np.arange(2))
    assert [bpe.decode(parse(rows, b, bpe)[0]) for b in range(2)] == [" D0 a.", " D1 a."]


@pytest.mark.parametrize("texts", [["D0 a. D0 b. D0 c. D0 d."], ["D0 a. D0 b.", "Alone."], []])
def test_one_document_is_too_few(bpe, texts):
    with pytest.raises(UserError, match=rf"plays\.txt.*--context {CONTEXT}: raise it, .*--no-next-sentence"):
        SentencePairs(texts, bpe, CONTEXT, name="plays.txt")


@pytest.fixture(scope="module")
def packed(texts, bpe):
    return SentenceRuns(texts, bpe, CONTEXT, across_documents=True)


def test_packed_rows_are_the_chosen_runs_across_documents(packed, bpe):
    cls, sep, pad = (bpe.special_id(f"[{name}]") for name in ("CLS", "SEP", "PAD"))
    assert len(packed) > 5
    chosen = np.array([4, 0, 4, *range(len(packed))])
    rows = packed.rows(chosen, np.random.default_rng(0))
    assert rows.keys() == {"input_ids", "attention_mask"}
    columns = rows["input_ids"].tolist(), rows["attention_mask"].tolist()
    for run, ids, mask in zip(chosen, *columns, strict=True):
        first, last = packed.edges[packed.runs[run]]
        expected = [cls, *packed.ids[first:last].tolist(), sep]
        n_pad = len(ids) - len(expected)
        assert ids == expected + [pad] * n_pad, "[CLS] sentences [SEP]"
        assert mask == [1] * len(expected) + [0] * n_pad, "1 on every token, 0 on padding"


def test_false_pairs_are_those_of_the_figures_in_the_readmes(world_corpus, world_bpe, as_in_readmes):
    pairs = SentencePairs(world_corpus.train, world_bpe, 64)
    found = [pairs.second_runs(np.arange(len(pairs)), np.random.default_rng(i)).tolist() for i in range(3)]
    as_in_readmes(fingerprint(found), "3f02951e")


@pytest.mark.parametrize("fixture, reach", [("pairs", 8), ("many_pairs", None)])
def test_false_b_stand_within_reach_of_the_true_one(fixture, reach, request):
    """Eight tries among the nearest hundredth of all, and at least the eight nearest."""
    pairs = request.getfixturevalue(fixture)
    n, chosen, steps = len(pairs), np.arange(len(pairs)), []
    for seed in range(5):
        second = pairs.second_runs(chosen, np.random.default_rng(seed))
        far = (pairs.rank[second] - pairs.rank[chosen])[second != chosen] % n
        steps += np.minimum(far, n - far).tolist()
    assert n // 100 < 8 if reach else n // 100 > 20, "the test needs few runs, and many"
    assert (min(steps), max(steps)) == (1, reach or n // 100), "how far a false B is from the true one"


def test_a_false_b_may_fill_the_row_and_no_more(many_pairs):
    """[CLS] A [SEP] B [SEP]: what three special tokens leave."""
    n_fit = 0
    for i in range(300):
        for n_too_many, possible in ((0, True), (1, False)):
            (others,) = np.nonzero(many_pairs.b_lengths == CONTEXT - 3 - many_pairs.a_lengths[i] + n_too_many)
            others = [j for j in others if many_pairs.document_of[j] != many_pairs.document_of[i]]
            n_fit += possible and len(others) > 0
            for j in others[:3]:
                near = copy.copy(many_pairs)
                near.order = np.full_like(near.order, j)  # the only B that is tried
                second = near.second_runs(np.full(12, i), np.random.default_rng(0))
                assert (second == j).any() == possible, "a false B that fits is taken, another is not"
    assert n_fit, "the test needs a row that is just full"


@pytest.mark.parametrize("before, behind", [([7], []), ([], [8]), ([7, 9], [8, 6]), ([], [])])
def test_a_run_is_framed_by_what_stands_before_and_behind_and_by_nothing_else(packed, before, behind):
    chosen = np.argsort([packed.edges[last] - packed.edges[first] for first, last in packed.runs])[[0, -1]]
    found = packed.framed(chosen, before, behind, -5)
    for row, run in zip(found.tolist(), packed.runs[chosen], strict=True):
        first, last = packed.edges[run]
        expected = [*before, *packed.ids[first:last].tolist(), *behind]
        assert row == (expected + [-5] * len(row))[: len(row)], "one place too early or too late"
        assert len(row) >= min(CONTEXT, len(expected))
