"""What the later regimes learn from the stories: labelled texts, pairs, tags, questions, instructions,
preferences.

Each function returns a list of `n` examples, a pure function of its arguments. Where a function takes
`held_out`, False gives examples without any held-out thing or verb, True examples whose things and verbs are
all held out: train on the one, test on the other, and no topic word of the test has ever been labelled (None
mixes).
"""

import random
from collections import Counter

from ..plumbing.errors import UserError, suggest
from .grammar import Derived
from .reports import Report
from .story import GRAMMAR, SINGULAR_OF, Story, picker
from .words import ADJECTIVES, PLACES

LABELS = ("place", "mood")
INSTRUCTIONS = {
    "summary": "Summarize the story.",
    "translation": "Translate into Portuguese:",
    "list": "List the things of the story.",
    "mood": "How does the story end?",
}


def labelled(n: int, seed: int, label: str = "place", held_out: bool | None = False) -> list[tuple[str, str]]:
    """Return (text, label): the place, or "happy"/"unhappy"; the place word itself is never in the text.

    Places take turns, so that the first 6 k examples have k of each.
    """
    if label not in LABELS:
        raise UserError(f"unknown label {label!r}{suggest(label, LABELS)}; there are {', '.join(LABELS)}")
    examples = []
    for index in range(n):
        story = Story(seed, index, held_out, place=PLACES[index % len(PLACES)])
        mood = "happy" if story.happy else "unhappy"
        examples.append((story.text_without_place, story.place if label == "place" else mood))
    return examples


def _pair(rng: random.Random, seed: int, index: int, held_out: bool | None, same_person: bool = False):
    """Return two stories that happen at the same place half of the time."""
    first = Story(seed, 2 * index, held_out)
    others = [place for place in PLACES if place != first.place]
    place = first.place if rng.random() < 0.5 else rng.choice(others)
    person = {"person": first.person} if same_person else {}
    return first, Story(seed, 2 * index + 1, held_out, place=place, **person)


def text_pairs(
    n: int, seed: int, held_out: bool | None = False, short: bool = False
) -> list[tuple[str, str, str]]:
    """Return (text, text, "same" or "different"): whether both happen at the same place; half do.

    The texts are sentences 2 to 4, with `short` 2 and 3: a pair of these fits a row of 64 tokens.
    """
    rng = random.Random(f"pairs {seed}")
    examples = []
    for index in range(n):
        a, b = _pair(rng, seed, index, held_out)
        same = "same" if a.place == b.place else "different"
        texts = [" ".join(story.sentences[1 : 3 if short else 4]) for story in (a, b)]
        examples.append((*texts, same))
    return examples


def similarity(n: int, seed: int, held_out: bool | None = False) -> list[tuple[str, str, float]]:
    """Return (story, story, score 0-5): 3 for the same place, 1 for the same person, 1 for the same ending.

    Each of the three is shared by about half of the pairs; an ending is happy or unhappy.
    """
    rng = random.Random(f"similarity {seed}")
    examples = []
    for index in range(n):
        a, b = _pair(rng, seed, index, held_out, same_person=rng.random() < 0.5)
        score = 3.0 * (a.place == b.place) + (a.person == b.person) + (a.happy == b.happy)
        examples.append((a.text, b.text, score))
    return examples


def tagging(n: int, seed: int, held_out: bool | None = False) -> list[tuple[list[str], list[str]]]:
    """Return (words, BIO tags) for persons, places and things; an adjective belongs to its thing (B- I-)."""
    examples = []
    for index in range(n):
        story = Story(seed, index, held_out)
        labels = {start: label for start, _, label in story.entities}
        tags = [f"B-{labels[start]}" if start in labels else "O" for _, start, _ in story.tokens]
        words = [word for word, _, _ in story.tokens]
        for i in range(1, len(words)):
            if words[i - 1] in ADJECTIVES and tags[i] == "B-thing":
                tags[i - 1], tags[i] = "B-thing", "I-thing"
        examples.append((words, tags))
    return examples


def questions(n: int, seed: int, held_out: bool | None = False) -> list[tuple[str, str, str, int]]:
    """Return (context, question, answer, start) with context[start : start + len(answer)] == answer.

    Of the kinds of question that a story allows (where, when, what, who, how) the one is asked that is the
    rarest so far: most stories do not allow what and who, and answer the others by the pattern alone.
    """
    rng, asked, examples = random.Random(f"questions {seed}"), Counter(), []
    for index in range(n):
        story = Story(seed, index, held_out)
        kinds = sorted({question.split()[0] for question, *_ in story.facts})
        kind = min(kinds, key=asked.__getitem__)
        asked[kind] += 1
        question, answer, start, _ = rng.choice([f for f in story.facts if f[0].startswith(kind)])
        examples.append((story.text, question, answer, start))
    return examples


def instructions(n: int, seed: int, held_out: bool | None = False) -> list[tuple[str, str]]:
    """Return (prompt, response). The prompt is a story, a line break, and what to do.

    Five kinds with equal shares: a question, a summary, a list of the things, the ending, and a translation
    (there the prompt is the instruction, a line break, one sentence).
    """
    rng = random.Random(f"instructions {seed}")
    examples = []
    for index in range(n):
        story = Story(seed, index, held_out)
        kind = rng.choice(["question", *INSTRUCTIONS])
        if kind == "question":
            question, answer, *_ = rng.choice(story.facts)
            examples.append((f"{story.text}\n{question}", answer))
        elif kind == "translation":
            i = rng.randrange(len(story.sentences))
            prompt = f"{INSTRUCTIONS[kind]}\n{story.sentences[i]}"
            examples.append((prompt, story.portuguese_sentences[i]))
        else:
            responses = {"summary": story.summary, "list": listed_things(story), "mood": ending(story)}
            examples.append((f"{story.text}\n{INSTRUCTIONS[kind]}", responses[kind]))
    return examples


def listed_things(story: Story) -> str:
    """Return the things of a story, singular, each once, in the order of the text: "apple, lemon"."""
    words = [SINGULAR_OF[word] for word, _, _ in story.tokens if word in SINGULAR_OF]
    return ", ".join(dict.fromkeys(words))


def ending(story: Story) -> str:
    """Return how a story ends, in a sentence: "Ana is happy."."""
    return f"{story.person} is {story.mood}."


def continuation(story: Story, rng: random.Random, happy: bool) -> str:
    """Return other sentences 3-4 for the first two of a story, drawn from the grammar, ending as asked."""
    draw = picker(rng, happy=happy)

    def pick(position, name, choice):
        return story.derivation[position][name] if position < 2 else draw(position, name, choice)

    return " ".join(GRAMMAR.english(GRAMMAR.expand(pick)[0])[2:])


def preferences(n: int, seed: int) -> list[tuple[str, str, str]]:
    """Return (prompt, chosen, rejected): sentences 1-2, and two ways to go on, one with a happy ending.

    prompt + " " + either is a story that parses; `world.judge` accepts the chosen one only.
    """
    rng = random.Random(f"preferences {seed}")
    examples = []
    for index in range(n):
        story = Story(seed, index)
        prompt = " ".join(story.sentences[:2])
        examples.append((prompt, continuation(story, rng, True), continuation(story, rng, False)))
    return examples


def preference_prompts(n: int, seed: int) -> list[str]:
    """Return n different prompts (sentences 1-2); use a seed that `preferences` did not have."""
    return _distinct(n, lambda index: [" ".join(Story(seed, index).sentences[:2])])


def translation_pairs(n: int, seed: int, domain: str = "stories") -> list[tuple[str, str]]:
    """Return n (English, Portuguese) pairs, no English side twice: one to three sentences in a row.

    Every sentence can be translated by itself: "it" and "them" have their noun in the same sentence. For a
    test set, take pairs of another seed and leave out those whose English side is in the training pairs.
    `domain` is "stories", "reports" or "both".
    """
    if domain not in ("stories", "reports", "both"):
        raise UserError(f"unknown domain {domain!r}; there are stories, reports, both")

    def units(index: int):
        """Return a list of one pair, drawn from text number `index`."""
        rng = random.Random(f"translation {seed} {index}")
        stories = rng.random() < 0.5 if domain == "both" else domain == "stories"
        text: Derived = (Story if stories else Report)(seed, index)
        first = rng.randrange(4)
        last = min(first + rng.choice((1, 2, 3)), 4)
        return [(" ".join(text.sentences[first:last]), " ".join(text.portuguese_sentences[first:last]))]

    return _distinct(n, units)


def _distinct(n: int, make) -> list:
    """Return the first n different items of make(0), make(1), ..., each a list."""
    found, index = {}, 0
    while len(found) < n:
        for item in make(index):
            found.setdefault(item if isinstance(item, str) else item[0], item)
        index += 1
    return list(found.values())[:n]
