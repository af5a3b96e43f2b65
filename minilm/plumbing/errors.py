"""What a user can put right: one exception for it, and the nearest name for a typing slip."""

import difflib

# What slides and papers say, and what it is called here.
SLIDES = dict(bert="masked", mlm="masked", gpt="causal", clm="causal", bart="denoising", mt="translation")
SLIDES |= dict(distilbert="distillation", ner="tagging", pos="tagging", qa="span", squad="span", nli="pair")
SLIDES |= dict(sts="similarity", sentiment="classification", seq2seq="text-to-text", rlhf="ppo")


class UserError(ValueError):
    """A mistake of the user's: one line that names the file, the value and the way out; no traceback."""


def suggest(word: str, choices) -> str:
    """Return ` (did you mean 'x'?)` for the choice nearest to `word`, or an empty string if none is near."""
    choices, meant = [str(choice) for choice in choices], SLIDES.get(word.lower())
    near = [meant] if meant in choices else difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""
