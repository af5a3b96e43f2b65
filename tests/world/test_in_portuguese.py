"""Grades the world in Portuguese: agreement, the labels and tags of the English texts, questions."""

import math
from collections import Counter

import pytest

from minilm import world
from minilm.world import tasks
from minilm.world.portuguese import GENDER
from minilm.world.words import ADJECTIVES, PLACE_WORDS


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("à praia", "ao praia"), ("no mercado", "em o mercado"), ("uma maçã", "um maçã"), ("velhas", "velhos")],
)
def test_what_does_not_agree_is_no_text_of_the_world(right, wrong):
    texts = [text for text in world.documents(300, 5, "portuguese") if right in text]
    assert texts
    for text in texts[:5]:
        assert world.parses(text, "portuguese")
        assert world.log_probability(text.replace(right, wrong), "portuguese") == -math.inf, wrong


def test_labels_pairs_and_tags_are_those_of_the_english_examples():
    for task in (tasks.labelled, tasks.text_pairs, tasks.similarity):
        english, portuguese = task(30, 3), task(30, 3, domain="portuguese")
        assert [example[-1] for example in portuguese] == [example[-1] for example in english]
        assert not {example[0] for example in portuguese} & {example[0] for example in english}
    adjectives = {form for forms in ADJECTIVES.values() for form in forms}
    count = Counter()
    english, portuguese = tasks.tagging(200, 3), tasks.tagging(200, 3, domain="portuguese")
    for (_, ours), (words, tags) in zip(english, portuguese, strict=True):
        for tag in ("B-person", "B-place", "B-thing", "I-thing"):
            assert tags.count(tag) == ours.count(tag), words
        for i, (word, tag) in enumerate(zip(words, tags, strict=True)):
            count[tag] += 1
            assert (tag == "I-thing") == (word in adjectives and tags[i - 1] == "B-thing"), words
            assert (tag == "B-place") == (word in {place.portuguese for place in PLACE_WORDS.values()})
    assert count["I-thing"] > 50


def test_a_story_is_asked_about_in_its_own_words():
    story = next(s for s in world.draw(50, 3, "portuguese") if "Quem" in str(s.facts))
    told = {question.split()[0]: (question, answer) for question, answer, *_ in story.facts}
    place, ending = PLACE_WORDS[story.place], "a" if GENDER[story.place] == "f" else "o"
    assert told["Onde"] == (f"Onde estava {story.person}?", place.portuguese)
    assert told["Quando"][0] == f"Quando {story.person} esteve n{ending} {place.portuguese}?"
    assert told["Como"][0] == f"Como {story.person} se sentiu?"
    assert told["Quem"][0].removesuffix("?").split(maxsplit=2)[2] == told["O"][1], "Quem comprou uma maçã?"
