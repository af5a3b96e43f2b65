"""Tasks made from the stories: right answers, balanced labels, no held-out word in training."""

import random
import re
from collections import Counter

import pytest
from small import fingerprint

from minilm import world
from minilm.plumbing.errors import UserError
from minilm.world import PLACES, Story, tasks
from minilm.world.words import ADJECTIVES, MOODS

TOPIC = set(world.SINGULAR_OF) | {verb for verbs in world.VERBS.values() for verb in verbs}


def topic_words(examples):
    """Things (singular) and verbs that stand anywhere in the examples."""
    return {world.SINGULAR_OF.get(word, word) for word in re.findall(r"\w+", str(examples)) if word in TOPIC}


@pytest.mark.parametrize("task", ["labelled", "text_pairs", "similarity", "tagging", "questions"])
def test_held_out_words_never_meet_a_label_in_training(task):
    make = getattr(tasks, task)
    train, test, mixed = (make(60, 0, held_out=held_out) for held_out in (False, True, None))
    assert make(60, 0) == train == make(70, 0)[:60], "not a pure function of its arguments"
    assert make(60, 1) != train
    assert not topic_words(train) & world.HELD_OUT and topic_words(test) <= world.HELD_OUT
    assert topic_words(mixed) & world.HELD_OUT and topic_words(mixed) - world.HELD_OUT


def test_labelled_texts_tell_the_place_without_its_word():
    examples = tasks.labelled(60, 4)
    assert Counter(label for _, label in examples) == dict.fromkeys(PLACES, 10), "places must be balanced"
    for text, place in examples:
        assert {world.place_of(w) for w in re.findall(r"\w+", text)} - {None} == {place}
        assert not any(place in text for place in PLACES)


def test_pairs_share_the_place_and_if_wanted_the_person_half_of_the_time():
    for same_person, share in ((False, 1 / 16), (True, 0.5)):
        found = list(tasks.pairs("name", 400, 1, None, "stories", same_person))
        assert abs(sum(a.place == b.place for a, b in found) - 200) < 50
        assert abs(sum(a.person == b.person for a, b in found) - 400 * share) < 50
        assert all(a.text != b.text for a, b in found)


def test_text_pairs_and_similarity_score_what_is_shared():
    def place(text):
        return next(world.place_of(w) for w in re.findall(r"\w+", text) if world.place_of(w))

    for a, b, label in tasks.text_pairs(300, 1):
        assert label == ("same" if place(a) == place(b) else "different")
        assert a.count(".") == b.count(".") == 2 and not re.search("|".join(MOODS), a + b), "not 2 and 3"
    scores = set()
    for a, b, score in tasks.similarity(300, 1):
        person_a, person_b = (re.search("|".join(world.NAMES), text)[0] for text in (a, b))
        shared = (person_a == person_b) + (world.judge(a) == world.judge(b))
        assert score == 3 * (place(a) == place(b)) + shared and isinstance(score, float)
        scores.add(score)
    assert scores == {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}


def test_tags_mark_every_entity_and_adjectives_belong_to_their_thing():
    inside = 0
    for words, tags in tasks.tagging(100, 2, held_out=None):
        for i, (word, tag) in enumerate(zip(words, tags, strict=True)):
            if tag == "I-thing":
                inside += 1
                assert tags[i - 1] == "B-thing" and words[i - 1] in ADJECTIVES
            assert (word in world.SINGULAR_OF) <= tag.endswith("-thing")
            assert (word in world.NAMES) == (tag == "B-person")
            assert (word in PLACES) == (tag == "B-place")
    assert inside > 20


QUESTIONS = dict(stories="Where When What Who How", portuguese="Onde Quando O Quem Como")


@pytest.mark.parametrize("domain", QUESTIONS)
def test_questions_have_their_answer_at_the_offset(domain):
    kinds = Counter()
    for context, question, answer, start in tasks.questions(200, 3, domain=domain):
        assert context[start : start + len(answer)] == answer
        assert world.parses(context, domain)
        kinds[question.split()[0]] += 1
    assert kinds == dict.fromkeys(QUESTIONS[domain].split(), 40), "kinds in equal shares"


def test_questions_about_held_out_words_have_no_who():
    kinds = Counter(question.split()[0] for _, question, *_ in tasks.questions(400, 3, held_out=True))
    assert set(kinds) == {"Where", "When", "What", "How"}, "with one verb a place nobody did it alone"
    assert min(kinds.values()) >= 95, "of the other kinds equal shares"


def test_preferences_share_a_prompt_and_differ_in_the_ending():
    for prompt, chosen, rejected in tasks.preferences(150, 5):
        assert chosen != rejected
        assert world.judge(f"{prompt} {chosen}"), "the chosen story must parse and end happily"
        assert world.parses(f"{prompt} {rejected}") and not world.judge(f"{prompt} {rejected}")
    assert tasks.preferences(5, 5) == tasks.preferences(9, 5)[:5]
    story, rng = Story(1, 2), random.Random(0)
    assert len({tasks.continuation(story, rng, happy) for happy in (True, False) for _ in range(20)}) > 30


def test_preference_prompts_are_different_beginnings():
    prompts = tasks.preference_prompts(100, 6)
    assert len(set(prompts)) == 100 and prompts[:10] == tasks.preference_prompts(10, 6)
    assert all(Story.grammar.derivations(prompt, 2) for prompt in prompts)


@pytest.mark.parametrize("domain", ["stories", "reports", "both"])
def test_translation_pairs_are_aligned_and_never_repeat_an_english_side(domain):
    pairs = tasks.translation_pairs(200, 7, domain)
    assert len(pairs) == len({english for english, _ in pairs}) == 200
    assert pairs[:20] == tasks.translation_pairs(20, 7, domain)
    assert {english.count(".") for english, _ in pairs} == {1, 2, 3}
    assert all(english.count(".") == portuguese.count(".") for english, portuguese in pairs)
    reports = sum(bool(re.search(r"\bRelatório\b|\bfo(i|ram) \w+[ao]s? por\b", p)) for _, p in pairs)
    assert (reports > 0) == (domain != "stories")
    with pytest.raises(UserError, match="unknown domain"):
        tasks.translation_pairs(1, 0, "poems")


@pytest.mark.parametrize(("made", "expected"), [
    (lambda: tasks.labelled(12, 3), "b5275884"), (lambda: tasks.text_pairs(9, 3), "7381c1aa"),
    (lambda: tasks.similarity(9, 3), "1046b438"), (lambda: tasks.tagging(9, 3), "9074ebee"),
    (lambda: tasks.questions(12, 3), "3c3aaf70"),
    (lambda: tasks.preferences(9, 3), "b21af347"), (lambda: tasks.preference_prompts(9, 3), "02943fae"),
    (lambda: tasks.translation_pairs(20, 3, "both"), "65db96c8"),
])  # fmt: skip
def test_the_examples_are_those_of_the_figures_in_the_readmes(made, expected):
    assert fingerprint(made()) == expected, "other examples than those that were measured"
