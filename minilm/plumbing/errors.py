"""What a user can put right: one exception for it, and the nearest name for a typing slip."""

import difflib


class UserError(ValueError):
    """A mistake of the user's: one line that names the file, the value and the way out; no traceback."""


def suggest(word: str, choices) -> str:
    """Return ` (did you mean 'x'?)` for the choice nearest to `word`, or an empty string if none is near."""
    near = difflib.get_close_matches(word, [str(choice) for choice in choices], n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""
