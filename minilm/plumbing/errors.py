"""Mistakes that a user can fix: one exception for them, and the nearest name for a mistyped one."""

import difflib
import re

# A name in slides and papers -> its name here.
SLIDES = dict(bert="masked", mlm="masked", gpt="causal", clm="causal", bart="denoising", mt="translation")
SLIDES |= dict(distilbert="distillation", ner="tagging", pos="tagging", qa="span", squad="span", nli="pair")
SLIDES |= dict(sts="similarity", sentiment="classification", seq2seq="text-to-text", rlhf="ppo")
SLIDES |= dict(autorregressivo="causal", supervisionado="translation", tradução="translation")
# Characters that a terminal would obey: control characters, and those that change the writing direction.
CONTROLS = {i: f"\\x{i:02x}" for i in (*range(32), *range(127, 160)) if chr(i) not in "\t\n"}
CONTROLS |= {i: f"\\u{i:04x}" for i in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
LONG_VALUE = re.compile(r"""(?<!\w)(['"])((?:(?!\1).){100})(?:(?!\1).)+\1""")


class UserError(ValueError):
    """A mistake of the user: one line that names the file, the value and the way out; no traceback."""


def as_line(error: object) -> str:
    """Return an error as one line for a terminal: values are cut at 100 characters, the line at 1,000."""
    text = LONG_VALUE.sub(r"\1\2...\1", " ".join(str(error).splitlines()))
    text = re.sub(r"([^\s/\\]{100})[^\s/\\]+", r"\1...", text)  # cuts each name in a path, not the path
    return text.translate(CONTROLS | {ord("\t"): "\\t"})[:1000]


def suggest(word: str, choices) -> str:
    """Return ` (did you mean 'x'?)` for the choice nearest to `word`, or an empty string if none is near."""
    choices, meant = [str(choice) for choice in choices], SLIDES.get(word.lower())
    near = [meant] if meant in choices else difflib.get_close_matches(word, choices, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""
