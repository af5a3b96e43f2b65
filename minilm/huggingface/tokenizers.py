"""Vocabulary files of Hugging Face folders -> our tokenizers.

    vocab.txt                   WordPiece (BERT, DistilBERT)
    vocab.json, merges.txt      byte-level BPE (GPT-2, RoBERTa, BART)
    tokenizer.json              either, in one file
    tokenizer_config.json, special_tokens_map.json, added_tokens.json: switches and special tokens

Our code asks for [CLS], [SEP], [PAD], [MASK] and <|endoftext|>. A vocabulary that calls them otherwise gets
aliases, by the table ROLES.
"""

from pathlib import Path

from ..plumbing.errors import UserError
from ..plumbing.folders import read_json
from ..tokenizer.bpe import BPE
from ..tokenizer.wordpiece import WordPiece

# Our name -> the roles, in transformers' words, of which the first that the vocabulary has plays it. GPT-2
# has one special token, which begins, ends and fills; the attention mask alone tells padding from text.
ROLES = {
    "[CLS]": ("cls", "bos", "eos"),
    "[SEP]": ("sep", "eos"),
    "[PAD]": ("pad", "eos"),
    "[MASK]": ("mask",),
    "[UNK]": ("unk",),
    "<|endoftext|>": ("eos", "sep"),
}
# The decoder of an encoder-decoder may start from another token than [CLS]: that is [START] then.
DECODER_START = {"bart": 2, "blenderbot": 1}  # decoder_start_token_id, where config.json does not say it
_BERT = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]", "unk": "[UNK]"}
_GPT2 = dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>")
_ROBERTA = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "mask": "<mask>"}
_ROBERTA |= {"unk": "<unk>"}
# What plays a role where no file of the folder says.
DEFAULTS = {"gpt2": _GPT2, "roberta": _ROBERTA, "bart": _ROBERTA, "blenderbot": _ROBERTA}


def read_tokenizer(folder: Path, values: dict) -> tuple[BPE | WordPiece | None, list[str]]:
    """Return the tokenizer of a folder with this config.json, None where it has none, and notes.

    UserError for a vocabulary that is damaged, or of a kind that we do not have.
    """
    try:
        return known_tokenizer(folder, values)
    except (KeyError, TypeError, AttributeError) as error:  # JSON of another shape than any tokenizer's
        raise UserError(f"{folder}: its vocabulary files are damaged ({error!r})") from None


def known_tokenizer(folder: Path, values: dict) -> tuple[BPE | WordPiece | None, list[str]]:
    """Do what `read_tokenizer` does, for files whose JSON has the right shape."""
    settings = optional_json(folder / "tokenizer_config.json")
    whole = optional_json(folder / "tokenizer.json")
    model = whole.get("model") or {}
    if (folder / "vocab.txt").exists() or model.get("type") == "WordPiece":
        return read_wordpiece(folder, whole, settings), []
    if (folder / "vocab.json").exists() and (folder / "merges.txt").exists() or model.get("type") == "BPE":
        tokenizer, notes = read_bpe(folder, whole, settings, values["model_type"])
        tokenizer.aliases |= start_alias(tokenizer, values)
        return tokenizer, notes
    if model:
        raise UserError(
            f"{folder / 'tokenizer.json'}: a tokenizer of type {model.get('type')!r}; "
            "ours are WordPiece and BPE"
        )
    return None, ["no vocabulary in it, so texts cannot be read"]


def optional_json(path: Path) -> dict:
    """Return the JSON object in a file, an empty one where there is no file."""
    return read_json(path) if path.exists() else {}


def read_wordpiece(folder: Path, whole: dict, settings: dict) -> WordPiece:
    """Return the WordPiece of a folder; tokenizer_config.json, then tokenizer.json, say how it reads text."""
    normalizer = whole.get("normalizer") or {}

    def switch(key: str, other: str, default):
        return settings[key] if key in settings else normalizer.get(other, default)

    options = {
        "lower_case": switch("do_lower_case", "lowercase", True),
        "strip_accents": switch("strip_accents", "strip_accents", None),
        "chinese_characters": switch("tokenize_chinese_chars", "handle_chinese_chars", True),
    }
    roles = _BERT | special_roles(folder, settings)
    path = folder / "vocab.txt"
    if path.exists():
        try:
            tokens = path.read_text("utf-8").removesuffix("\n").split("\n")  # U+2028 may be a token
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read as a WordPiece vocabulary ({error})") from None
    else:
        tokens = token_list(whole["model"].get("vocab"), folder / "tokenizer.json")
    tokens, specials = with_added(tokens, roles, added_tokens(folder, whole), folder)
    return WordPiece(tokens, specials, aliases(roles, specials), **options)


def read_bpe(folder: Path, whole: dict, settings: dict, kind: str) -> tuple[BPE, list[str]]:
    """Return the byte-level BPE of a folder of this model type, and notes."""
    roles = DEFAULTS.get(kind, _ROBERTA) | special_roles(folder, settings)
    path = folder / "vocab.json"
    try:
        if path.exists() and (folder / "merges.txt").exists():
            ids, merges = read_json(path), (folder / "merges.txt").read_text("utf-8").split("\n")
        else:
            path = folder / "tokenizer.json"
            check_byte_level(whole, path)
            ids, merges = whole["model"]["vocab"], whole["model"]["merges"]
        ids = ids | added_tokens(folder, whole)
        names = dict.fromkeys([*roles.values(), *added_tokens(folder, whole)])
        specials = [name for name in names if name in ids and len(name.encode()) > 1]
        tokenizer = BPE.from_names(ids, merges, specials, aliases(roles, specials))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read as a byte-level BPE ({error})") from None
    notes = []
    if settings.get("add_prefix_space"):
        notes.append("its tokenizer reads every text with a space before it: encode(' ' + text)")
    if greedy := [entry["content"] for entry in whole.get("added_tokens") or () if entry.get("lstrip")]:
        notes.append(f"its tokenizer drops the spaces before {', '.join(greedy)}: write none there")
    return tokenizer, notes


def check_byte_level(whole: dict, path: Path) -> None:
    """Raise UserError unless a tokenizer.json cuts text as GPT-2 does, into bytes."""
    cutter = whole.get("pre_tokenizer") or {}
    if cutter.get("type") != "ByteLevel" or cutter.get("use_regex") is False or whole.get("normalizer"):
        found = (whole.get("normalizer") or cutter).get("type")
        raise UserError(f"{path}: it cuts text by {found!r}; of BPE we have GPT-2's, 'ByteLevel' alone")


def special_roles(folder: Path, settings: dict) -> dict[str, str]:
    """Return role -> token, as special_tokens_map.json and tokenizer_config.json have it."""
    said = optional_json(folder / "special_tokens_map.json") | settings
    roles = {}
    for role in ("cls", "sep", "pad", "mask", "unk", "bos", "eos"):
        token = said.get(f"{role}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and token:
            roles[role] = token
    return roles


def added_tokens(folder: Path, whole: dict) -> dict[str, int]:
    """Return token -> id of what was added to a vocabulary after it was made."""
    added = {entry["content"]: entry["id"] for entry in whole.get("added_tokens") or ()}
    return added | optional_json(folder / "added_tokens.json")


def aliases(roles: dict[str, str], specials) -> dict[str, str]:
    """Return our name -> the special token that plays its part, where the two differ."""
    found = {}
    for ours, candidates in ROLES.items():
        token = next((roles[role] for role in candidates if roles.get(role) in specials), None)
        if token is not None and ours not in specials:
            found[ours] = token
    return found


def start_alias(tokenizer: BPE, values: dict) -> dict[str, str]:
    """Return the alias [START] of the token that a decoder starts from, where it is not [CLS]."""
    default = DECODER_START.get(values["model_type"])
    token = tokenizer.vocab.get(values.get("decoder_start_token_id", default), b"").decode("utf-8", "replace")
    if default is None or token not in tokenizer.special_tokens:
        return {}
    return {} if tokenizer.special_id(token) == tokenizer.special_id("[CLS]") else {"[START]": token}


def token_list(vocabulary, path: Path) -> list[str]:
    """Return the tokens of a tokenizer.json in the order of their ids; UserError where an id is left out."""
    if not isinstance(vocabulary, dict) or sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise UserError(f"{path}: the ids of its vocabulary are not 0, 1, 2, ...")
    return sorted(vocabulary, key=vocabulary.get)


def with_added(tokens: list[str], roles: dict, added: dict[str, int], folder: Path) -> tuple[list, list]:
    """Return the tokens with the added ones behind them, and which of all are special."""
    known = set(tokens)
    new = sorted((name for name in added if name not in known), key=added.get)
    if [added[name] for name in new] != list(range(len(tokens), len(tokens) + len(new))):
        raise UserError(f"{folder}: the ids of its added tokens do not follow those of the vocabulary")
    tokens = tokens + new
    names = dict.fromkeys([*roles.values(), *added])
    return tokens, [name for name in names if name in known or name in added]
