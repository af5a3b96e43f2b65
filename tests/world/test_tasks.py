"""Tasks made from the stories: right answers, balanced labels, no held-out word in training."""

import random
import re
from collections import Counter

import pytest

from minilm import world
from minilm.plumbing.errors import UserError
from minilm.world import PLACES, Story, tasks
from minilm.world.stories import GRAMMAR, noun

FORMS = {form for things in world.HELD_OUT_THINGS.values() for t in things for form in (t, noun(t, True))}
HELD_OUT = FORMS | {verb for verbs in world.HELD_OUT_VERBS.values() for verb in verbs}
TOPIC = set(world.SINGULAR_OF) | {verb for verbs in world.VERBS.values() for verb in verbs}


def topic_words(text):
    return set(re.findall(r"\w+", text)) & TOPIC


@pytest.mark.parametrize(
    "make, texts",
    [
        (world.labelled, lambda e: [e[0]]),
        (world.text_pairs, lambda e: e[:2]),
        (world.similarity, lambda e: e[:2]),
        (world.tagging, lambda e: [" ".join(e[0])]),
        (world.questions, lambda e: [e[0]]),
        (world.instructions, lambda e: [e[0]]),
    ],
)
def test_held_out_words_never_meet_a_label_in_training(make, texts):
    train, test, mixed = (make(60, 0, held_out=held_out) for held_out in (False, True, None))
    assert make(60, 0) == train == make(70, 0)[:60], "not a pure function of its arguments"
    assert make(60, 1) != train
    assert not any(topic_words(text) & HELD_OUT for example in train for text in texts(example))
    assert all(topic_words(text) <= HELD_OUT for example in test for text in texts(example))
    both = [topic_words(text) for example in mixed for text in texts(example)]
    assert any(words & HELD_OUT for words in both) and any(words - HELD_OUT for words in both)


def test_labelled_texts_tell_the_place_without_its_word():
    examples = world.labelled(60, 4)
    assert Counter(label for _, label in examples) == dict.fromkeys(PLACES, 10), "places must be balanced"
    for text, label in examples:
        assert {world.place_of(w) for w in re.findall(r"\w+", text)} - {None} == {label}
        assert not any(place in text for place in PLACES)
    moods = world.labelled(60, 4, "mood")
    assert [text for text, _ in moods] == [text for text, _ in examples]
    for text, label in moods:
        assert (label == "happy") == bool(re.search("happy|proud|cheerful", text))
    assert {label for _, label in moods} == {"happy", "unhappy"}
    with pytest.raises(UserError, match="did you mean 'place'"):
        world.labelled(1, 0, "plase")


def test_text_pairs_and_similarity_score_what_is_shared():
    def place(text):
        return next(world.place_of(w) for w in re.findall(r"\w+", text) if world.place_of(w))

    pairs = world.text_pairs(300, 1)
    for a, b, label in pairs:
        assert label == ("same" if place(a) == place(b) else "different")
        assert a != b
    assert 110 < sum(label == "same" for *_, label in pairs) < 190
    scores = Counter()
    for a, b, score in world.similarity(300, 1):
        persons = [re.search("|".join(world.NAMES), text)[0] for text in (a, b)]
        expected = (
            3 * (place(a) == place(b)) + (persons[0] == persons[1]) + (world.judge(a) == world.judge(b))
        )
        assert score == expected and isinstance(score, float)
        scores[score] += 1
    assert set(scores) == {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}


def test_a_pair_may_share_its_person():
    rng = random.Random(0)
    for index in range(10):
        a, b = tasks._pair(rng, 0, index, None, same_person=True)
        assert a.person == b.person and a.text != b.text


def test_tags_mark_every_entity_and_adjectives_belong_to_their_thing():
    inside = 0
    for words, tags in world.tagging(100, 2, held_out=None):
        assert len(words) == len(tags)
        for i, (word, tag) in enumerate(zip(words, tags, strict=True)):
            if tag == "I-thing":
                inside += 1
                assert tags[i - 1] == "B-thing" and words[i - 1] in (
                    "big",
                    "small",
                    "old",
                    "yellow",
                    "pretty",
                    "special",
                )
            assert (word in world.SINGULAR_OF) <= tag.endswith("-thing")
            assert (word in world.NAMES) == (tag == "B-person")
            assert (word in PLACES) == (tag == "B-place")
    assert inside > 20


def test_questions_have_their_answer_at_the_offset():
    kinds = Counter()
    for context, question, answer, start in world.questions(200, 3):
        assert context[start : start + len(answer)] == answer
        assert world.parses(context)
        kinds[question.split()[0]] += 1
    assert kinds == dict.fromkeys(("Where", "When", "What", "Who", "How"), 40), "kinds in equal shares"
    held_out = Counter(q.split()[0] for _, q, *_ in world.questions(400, 3, held_out=True))
    assert set(held_out) == {"Where", "When", "What", "How"} and min(held_out.values()) >= 95, (
        "with one verb a place nobody is the only one who did it; of the other kinds equal shares"
    )


def test_instructions_have_the_right_response():
    kinds = Counter()
    for prompt, response in world.instructions(200, 3):
        first, last = prompt.split("\n")
        if first == "Translate into Portuguese:":
            kinds["translation"] += 1
            assert last != response and response.endswith(".")
            continue
        assert world.parses(first)
        things = [w for w in re.findall(r"\w+", first) if w in world.SINGULAR_OF]
        if last.startswith("List"):
            assert response.split(", ") == list(dict.fromkeys(world.SINGULAR_OF[w] for w in things))
        elif last.startswith("How does the story"):
            assert re.fullmatch(r"\w+ is \w+\.", response) and response[:-1].split()[2] in first
        elif last.startswith("Summarize"):
            assert re.fullmatch(r"\w+ \w+ .* (at|in|on) the \w+ and was \w+\.", response)
        else:
            assert response in first
        kinds[last if last in tasks.INSTRUCTIONS.values() else "question"] += 1
    assert len(kinds) == 5 and min(kinds.values()) > 20


def test_lists_and_endings():
    story = Story(0, 0)
    assert tasks.listed_things(story) == "jasmine, orchid, carnation"
    assert tasks.ending(story) == "Caio is upset."


def test_preferences_share_a_prompt_and_differ_in_the_ending():
    for prompt, chosen, rejected in world.preferences(150, 5):
        assert chosen != rejected
        assert world.judge(f"{prompt} {chosen}"), "the chosen story must parse and end happily"
        assert world.parses(f"{prompt} {rejected}") and not world.judge(f"{prompt} {rejected}")
    assert world.preferences(5, 5) == world.preferences(9, 5)[:5]


def test_continuations_vary_and_keep_the_story():
    story = Story(1, 2)
    prompt = " ".join(story.sentences[:2])
    rng = random.Random(0)
    ways = {tasks.continuation(story, rng, happy) for happy in (True, False) for _ in range(20)}
    assert len(ways) > 30
    assert all(world.parses(f"{prompt} {way}") for way in ways)


def test_preference_prompts_are_different_beginnings():
    prompts = world.preference_prompts(100, 6)
    assert len(set(prompts)) == 100 and prompts[:10] == world.preference_prompts(10, 6)
    assert all(GRAMMAR.derivations(prompt, 2) for prompt in prompts)


@pytest.mark.parametrize("domain", ["stories", "reports", "both"])
def test_translation_pairs_are_aligned_and_never_repeat_an_english_side(domain):
    pairs = world.translation_pairs(200, 7, domain)
    assert len(pairs) == len({english for english, _ in pairs}) == 200
    assert pairs[:20] == world.translation_pairs(20, 7, domain)
    lengths = Counter(english.count(".") for english, _ in pairs)
    assert set(lengths) == {1, 2, 3}
    assert all(english.count(".") == portuguese.count(".") for english, portuguese in pairs)
    reports = sum(bool(re.search(r"\bRelatório\b|\bfo(i|ram) \w+[ao]s? por\b", p)) for _, p in pairs)
    assert (reports > 0) == (domain != "stories")


def test_translation_pairs_want_a_known_domain():
    with pytest.raises(UserError, match="unknown domain"):
        world.translation_pairs(1, 0, "poems")


def test_distinct_keeps_the_first_of_each():
    assert tasks._distinct(3, lambda i: [("ab" if i < 3 else str(i), i)]) == [
        ("ab", 0),
        ("3", 3),
        ("4", 4),
    ]


def test_short_pairs_are_two_sentences_of_the_same_stories():
    short, long = world.text_pairs(20, 3, short=True), world.text_pairs(20, 3)
    for (a, b, label), (whole_a, whole_b, same) in zip(short, long, strict=True):
        assert label == same and whole_a.startswith(a) and whole_b.startswith(b)
        assert {a.count("."), b.count(".")} == {2}, "sentences 2 and 3, without the ending"
