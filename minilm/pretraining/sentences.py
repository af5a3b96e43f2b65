"""A text -> its sentences, by rule: what next-sentence pairs and noises on sentences are made of."""

import re

# An end of sentence mark with closing quotes, then white space and an opening quote or a letter of any script
# ([^\W\d_]); or a line's end. `sentences` then looks whether what follows is lower case.
SENTENCE_END = re.compile(r"""[.!?…]["'”’)\]]*\s+(?=["'“‘(\[]|[^\W\d_])|\n\s*""")


def sentences(text: str) -> list[str]:
    """Return the sentences of a text; nothing but white space between them is lost.

    One ends after `.`, `!`, `?` (and closing quotes) before a space and a capital or an opening quote, and at
    each line's end unless the next line goes on in lower case. A blank line always ends one.
    Abbreviations are not known: "Mr. Smith" is two sentences.
    """
    parts, start = [], 0
    for end in SENTENCE_END.finditer(text):
        goes_on = text[end.end() : end.end() + 1].islower() and end.group().count("\n") < 2
        if not goes_on:
            parts.append(text[start : end.end()])
            start = end.end()
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]
