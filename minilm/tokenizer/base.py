"""Special tokens by their names and by aliases.

Our code asks a tokenizer for [CLS], [SEP], [PAD], [MASK] and <|endoftext|>. A published vocabulary may have
other tokens for these parts, such as <s> and </s>; its aliases say which (ROLES in
`huggingface/vocabularies.py`).
"""

from collections.abc import Iterable

from ..plumbing.errors import UserError, suggest


def check_aliases(aliases: dict[str, str] | None, special_tokens: Iterable[str]) -> dict[str, str]:
    """Return a copy of the aliases; UserError where one stands for no special token."""
    for alias, token in (aliases or {}).items():
        if token not in special_tokens:
            raise UserError(f"alias {alias!r} stands for {token!r}, which is no special token")
    return dict(aliases or {})


def special_id(token: str, ids: dict[str, int], aliases: dict[str, str]) -> int:
    """Return the id of a special token or of what its name is an alias of; UserError for another name."""
    name = token if token in ids else aliases.get(token)
    if name is None:
        raise UserError(f"{token!r} is no special token here{suggest(token, [*ids, *aliases])}")
    return ids[name]
