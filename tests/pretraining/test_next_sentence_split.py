"""Grades pretraining/next_sentence.py: where a sentence ends, and that no word is lost."""

import random

import pytest

from minilm import world
from minilm.pretraining.next_sentence import sentences


@pytest.mark.parametrize(
    "text, expected",
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ('"Go!" she said. "No," he said.', ['"Go!" she said.', '"No," he said.']),
        ("It (at 3.15 p.m.). “Why?” asked Zoë… Élan.", ["It (at 3.15 p.m.).", "“Why?” asked Zoë…", "Élan."]),
        ("It runs\nover a line. And\non.\n\nnew part", ["It runs\nover a line.", "And\non.", "new part"]),
        ("Citizen:\nSpeak, speak.\n- item\n2 items", ["Citizen:", "Speak, speak.", "- item", "2 items"]),
        ("Он ушёл. Она осталась. и всё", ["Он ушёл.", "Она осталась. и всё"]),
        ("  \n ", []),
        ("no end", ["no end"]),
    ],
)  # fmt: skip
def test_sentences_by_rule(text, expected):
    assert sentences(text) == expected


def test_sentences_lose_only_white_space():
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choices(["a", "B", ". ", "!", "\n", " ", '"', "é", "\n\n", "7", "? ", "\t"], k=40))
        found = sentences(text)
        assert " ".join(found).split() == text.split(), f"words of {text!r} were joined or lost"
        assert all(part == part.strip() and part for part in found)
    assert all(len(sentences(story)) == 4 for story in world.documents(300)), "a story has four"
