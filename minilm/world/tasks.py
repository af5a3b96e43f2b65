"""What the later regimes learn from the stories: labels, pairs, tags, questions, preferences.

Each function returns `n` examples that depend on its arguments alone. `held_out` False: no held-out things or
verbs, True: no others, None: both. So no topic word of a test has been in a labelled text.
"""

import random
from collections import Counter

from .story import Story, check, domain_class, draw, picker
from .words import ADJECTIVES, PLACES

SOURCES = {"world": "stories", "world:portuguese": "portuguese"}  # with labels: value of --data -> domain
PORTUGUESE_ADJECTIVES = {form for forms in ADJECTIVES.values() for form in forms}


def labelled(n: int, seed: int, held_out=False, domain="stories") -> list[tuple[str, str]]:
    """Return (text, place): the places take turns, and no text names its place."""
    story = domain_class(domain)
    stories = [story(seed, index, held_out, place=PLACES[index % len(PLACES)]) for index in range(n)]
    return [(" ".join(one.sentences[1:]), one.place) for one in stories]  # only sentence 1 names it


def pairs(name: str, n: int, seed: int, held_out: bool | None, domain: str, same_person: bool = False):
    """Yield two stories, half of them of the same place; with `same_person`, half of the same person too."""
    rng, story = random.Random(f"{name} {seed}"), domain_class(domain)
    for index in range(n):
        first = story(seed, 2 * index, held_out)
        fixed = {"person": first.person} if same_person and rng.random() < 0.5 else {}
        others = [place for place in PLACES if place != first.place]
        fixed["place"] = first.place if rng.random() < 0.5 else rng.choice(others)
        yield first, story(seed, 2 * index + 1, held_out, **fixed)


def text_pairs(n: int, seed: int, held_out=False, domain="stories") -> list[tuple[str, str, str]]:
    """Return (text, text, "same" or "different" place), half each; a text is sentences 2 and 3."""
    examples, some = [], slice(1, 3)  # so that a pair fits a row of 64 tokens
    for a, b in pairs("pairs", n, seed, held_out, domain):
        label = "same" if a.place == b.place else "different"
        examples.append((" ".join(a.sentences[some]), " ".join(b.sentences[some]), label))
    return examples


def similarity(n: int, seed: int, held_out=False, domain="stories") -> list[tuple[str, str, float]]:
    """Return (story, story, score 0-5): same place 3, same person 1, same ending (happy or not) 1."""
    return [
        (a.text, b.text, 3.0 * (a.place == b.place) + (a.person == b.person) + (a.happy == b.happy))
        for a, b in pairs("similarity", n, seed, held_out, domain, same_person=True)
    ]


def tagging(n: int, seed: int, held_out=False, domain="stories") -> list[tuple[list[str], list[str]]]:
    """Return (words, BIO tags) for persons, places and things; an adjective belongs to its thing (B- I-)."""
    examples = []
    for story in draw(n, seed, domain, held_out=held_out):
        labels = {start: f"B-{label}" for start, _, label in story.entities}
        words = [word for word, _, _ in story.tokens]
        tags = [labels.get(start, "O") for _, start, _ in story.tokens]
        for i in range(1, len(words)):
            if words[i - 1] in ADJECTIVES and tags[i] == "B-thing":
                tags[i - 1], tags[i] = "B-thing", "I-thing"
            elif words[i] in PORTUGUESE_ADJECTIVES and tags[i - 1] == "B-thing":  # after its noun
                tags[i] = "I-thing"
        examples.append((words, tags))
    return examples


def questions(n: int, seed: int, held_out=False, domain="stories") -> list[tuple[str, str, str, int]]:
    """Return (context, question, answer, start) with context[start : start + len(answer)] == answer."""
    # of the kinds of question that a story allows, ask the one that was asked least so far:
    # fewer stories allow what and who, and the pattern of a story alone answers where, when and how
    rng, asked, examples = random.Random(f"questions {seed}"), Counter(), []
    for story in draw(n, seed, domain, held_out=held_out):
        kind = min(sorted({question.split()[0] for question, *_ in story.facts}), key=asked.__getitem__)
        asked[kind] += 1
        question, answer, start, _ = rng.choice([fact for fact in story.facts if fact[0].split()[0] == kind])
        examples.append((story.text, question, answer, start))
    return examples


def continuation(story: Story, rng: random.Random, happy: bool) -> str:
    """Return new sentences 3-4 for the first two of a story, drawn from the grammar; the end is as asked."""
    other = picker(rng, happy=happy)

    def pick(position, name, choice):
        return story.derivation[position][name] if position < 2 else other(position, name, choice)

    return " ".join(Story.grammar.sentences(Story.grammar.expand(pick)[0])[2:])


def preferences(n: int, seed: int) -> list[tuple[str, str, str]]:
    """Return (sentences 1-2, chosen, rejected): both endings parse; `world.judge` accepts only the chosen."""
    rng = random.Random(f"preferences {seed}")
    return [
        (" ".join(story.sentences[:2]), continuation(story, rng, True), continuation(story, rng, False))
        for story in draw(n, seed)
    ]


def preference_prompts(n: int, seed: int) -> list[str]:
    """Return n different prompts (sentences 1-2); use another seed than for `preferences`."""
    prompts, index = {}, 0  # a dict: no prompt twice, in the order of the stories
    while len(prompts) < n:
        prompts[" ".join(Story(seed, index).sentences[:2])] = True
        index += 1
    return list(prompts)


def translation_pairs(n: int, seed: int, domain: str = "stories") -> list[tuple[str, str]]:
    """Return (English, Portuguese), 1-3 sentences, no English twice; from "stories", "reports" or "both"."""
    check("domain", domain, ("stories", "reports", "both"))
    pairs, index = {}, 0
    while len(pairs) < n:
        rng = random.Random(f"translation {seed} {index}")
        story = rng.random() < 0.5 if domain == "both" else domain == "stories"
        text = domain_class("stories" if story else "reports")(seed, index)
        first = rng.randrange(4)
        some = slice(first, first + rng.choice((1, 2, 3)))  # fewer at the end of the text
        pairs.setdefault(" ".join(text.sentences[some]), " ".join(text.portuguese_sentences[some]))
        index += 1
    return list(pairs.items())
