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
        ("Ela riu. «Olá!» disse. «Sim.» Saiu.", ["Ela riu.", "«Olá!» disse.", "«Sim.»", "Saiu."]),
        ("Entró. ¿Quién es? 3 gatos. ¡Hola!", ["Entró.", "¿Quién es?", "3 gatos.", "¡Hola!"]),
        ("Er ging. „Ja!“ sagte sie. „Gut.“ Ende.", ["Er ging.", "„Ja!“ sagte sie.", "„Gut.“", "Ende."]),
        ("猫在屋里。狗呢？在外面！好。", ["猫在屋里。", "狗呢？", "在外面！", "好。"]),
        ("他说：“走吧！”她笑了。“好。” “走。”", ["他说：“走吧！”她笑了。", "“好。”", "“走。”"]),
        ("「はい。」と言った。\n本当！？猫だ。", ["「はい。」と言った。", "本当！？", "猫だ。"]),
        ("बिल्ली घर में है। कुत्ता? वह बाहर है॥ ठीक।", ["बिल्ली घर में है।", "कुत्ता?", "वह बाहर है॥", "ठीक।"]),
        ("القطة في البيت. أين الكلب؟ ٣ طيور.", ["القطة في البيت.", "أين الكلب؟", "٣ طيور."]),
        ("بلی گھر میں ہے۔ کتا باہر ہے۔", ["بلی گھر میں ہے۔", "کتا باہر ہے۔"]),
        ("Version 3.14 came. 2 came later", ["Version 3.14 came.", "2 came later"]),
        ("He has one. iOS too. E então. a", ["He has one. iOS too.", "E então. a"]),
        ("  \n ", []),
        ("no end", ["no end"]),
    ],
)  # fmt: skip
def test_sentences_by_rule(text, expected):
    assert sentences(text) == expected


def test_sentences_lose_only_white_space():
    rng = random.Random(0)
    for _ in range(300):
        pieces = ["a", "B", ". ", "!", "\n", " ", '"', "é", "\n\n", "7", "? ", "\t", "。", "」", "猫"]
        text = "".join(rng.choices(pieces, k=40))
        found = sentences(text)
        assert "".join("".join(found).split()) == "".join(text.split()), f"part of {text!r} was lost"
        assert "。" in text or " ".join(found).split() == text.split(), f"words of {text!r} were joined"
        assert all(part == part.strip() and part for part in found)
    assert all(len(sentences(story)) == 4 for story in world.documents(300)), "a story has four"
