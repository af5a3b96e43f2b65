"""What a user can put right: one exception for it, and the nearest name for a typing slip."""

import difflib


class UserError(ValueError):
    """A mistake of the user's. The message is one line that names the file, the value and the way out.

    The scripts print it without a traceback and end with exit code 2 (`plumbing/script.py`).
    """


def suggest(word: str, choices) -> str:
    """Return ` (did you mean 'x'?)` for the choice nearest to `word`, or an empty string where none is near.

    The search is the standard library's `difflib` (Ratcliff and Obershelp 1988), cutoff 0.5.
    """
    near = difflib.get_close_matches(word, [str(choice) for choice in choices], n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""
