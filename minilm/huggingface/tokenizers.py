"""Vocabulary files of Hugging Face folders -> our tokenizers.

WordPiece (BERT, DistilBERT) is in vocab.txt, byte-level BPE (GPT-2, RoBERTa, BART) in vocab.json and
merges.txt, or either in tokenizer.json; the other files have switches and special tokens. A vocabulary with
other names for [CLS], [SEP], [PAD], [MASK], [UNK] and <|endoftext|> gets aliases by `ROLES`.
"""

from pathlib import Path

from ..plumbing.errors import UserError
from ..plumbing.folders import read_json
from ..tokenizer.bpe import BPE
from ..tokenizer.wordpiece import WordPiece

# Our name -> roles, in transformers' words: our name means the first of them that the vocabulary has. GPT-2
# has one special token, for begin, end and padding; the attention mask alone tells padding from text.
ROLES = {"[CLS]": ("cls", "bos", "eos"), "[SEP]": ("sep", "eos"), "[PAD]": ("pad", "eos")}
ROLES |= {"[MASK]": ("mask",), "[UNK]": ("unk",), "<|endoftext|>": ("eos", "sep")}
# The decoder of an encoder-decoder may start from a token other than [CLS]: that token is our [START].
DECODER_START = {"bart": 2, "blenderbot": 1}  # decoder_start_token_id, where config.json does not say it
# How the pre_tokenizer of tokenizer.json cuts text -> the name of our pattern (none: GPT-2's).
_BYTES, _DIGITS = ("ByteLevel", True), ("Digits", True)
_GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
_GPT4 += r"|\s*[\r\n]+|\s+(?!\S)|\s+"
CUTS = {(_BYTES,): None, (_DIGITS, _BYTES): "gpt2, digits apart"}
CUTS[("Split", _GPT4), ("ByteLevel", False)] = "gpt4"
CUTS[("Split", _GPT4.replace("{1,3}", "")), ("ByteLevel", False)] = "gpt4, digits apart"
# The token of each role if no file of the folder names one; BERT's names are ours.
BERT_ROLES = dict(cls="[CLS]", sep="[SEP]", pad="[PAD]", mask="[MASK]", unk="[UNK]")
_GPT2 = dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>")
_ROBERTA = dict(bos="<s>", cls="<s>", eos="</s>", sep="</s>", pad="<pad>", mask="<mask>", unk="<unk>")
# WordPiece's switches: our name, that in tokenizer_config.json, in tokenizer.json's normalizer, the default.
SWITCHES = (
    ("lower_case", "do_lower_case", "lowercase", True),
    ("strip_accents", "strip_accents", "strip_accents", None),
    ("chinese_characters", "tokenize_chinese_chars", "handle_chinese_chars", True),
)


def read_tokenizer(folder: Path, values: dict) -> tuple[BPE | WordPiece | None, list[str]]:
    """Return a folder's tokenizer, if any, and notes (config.json: `values`); UserError if unreadable."""
    whole = read_json(folder / "tokenizer.json", optional=True)
    settings = read_json(folder / "tokenizer_config.json", optional=True)
    try:
        kind = (whole.get("model") or {}).get("type")
        if (folder / "vocab.txt").exists() or kind == "WordPiece":
            return read_wordpiece(folder, whole, settings), differing(whole, "single_word")
        if (folder / "vocab.json").exists() and (folder / "merges.txt").exists() or kind == "BPE":
            return read_bpe(folder, whole, settings, values)
        if whole.get("model"):
            raise UserError(f"a tokenizer of type {kind!r}; only WordPiece and BPE are supported")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # JSON of another shape, say
        said = str(error) if isinstance(error, UserError) else f"damaged ({error!r})"
        raise UserError(f"{folder}: vocab.txt, vocab.json or tokenizer.json cannot be read: {said}") from None
    return None, ["no vocabulary in it, so texts cannot be read"]


def read_wordpiece(folder: Path, whole: dict, settings: dict) -> WordPiece:
    """Return the WordPiece of a folder; tokenizer_config.json, then tokenizer.json, say how it reads text."""
    none = {"type": None} if whole.get("model") else {}  # a step that tokenizer.json lacks is not done
    parts = [whole.get(part) or none for part in ("normalizer", "pre_tokenizer", "model")]
    as_bert = dict(type="BertNormalizer", clean_text=True), dict(type="BertPreTokenizer")
    as_bert += (dict(continuing_subword_prefix="##", max_input_chars_per_word=100),)
    for part, expected in zip(parts, as_bert, strict=True):
        if other := {key: part[key] for key, value in expected.items() if part.get(key, value) != value}:
            raise UserError(f"it prepares text by {other}; only BERT's {expected} is supported")
    switches = {name: settings.get(a, parts[0].get(b, default)) for name, a, b, default in SWITCHES}
    roles, added, words = roles_and_added(folder, whole, settings, BERT_ROLES)
    if (path := folder / "vocab.txt").exists():  # split at line feeds alone: U+2028 may be a token
        tokens, ids = path.read_text("utf-8").removesuffix("\n").split("\n"), added
    else:
        tokens, ids = [], added | whole["model"]["vocab"]
    more = sorted(ids.keys() - {*tokens}, key=ids.get)
    if [ids[token] for token in more] != list(range(len(tokens), len(tokens) + len(more))):
        raise UserError("the ids of its vocabulary and its added tokens are not 0, 1, 2, ...")
    specials = specials_and_aliases(roles, added, {*tokens, *more} - {*words})
    return WordPiece(tokens + more, *specials, added_tokens=words, **switches)


def read_bpe(folder: Path, whole: dict, settings: dict, values: dict) -> tuple[BPE, list[str]]:
    """Return the byte-level BPE of a folder (config.json: `values`), and notes."""
    kind = values["model_type"]
    is_old = kind in ("roberta", "bart", "blenderbot")
    roles, added, words = roles_and_added(folder, whole, settings, _ROBERTA if is_old else _GPT2)
    pattern, notes = cut_by(whole) if whole.get("model") else (None, [])
    if whole.get("model"):
        ids, merges = whole["model"]["vocab"], whole["model"]["merges"]
    else:
        ids, merges = read_json(folder / "vocab.json"), (folder / "merges.txt").read_text("utf-8").split("\n")
    ids = ids | added
    known = {name for name in ids if len(name.encode()) > 1} - {*words}  # a byte is no special token
    specials, aliases = specials_and_aliases(roles, added, known)
    if "<|endoftext|>" in specials and roles.get("eos") in specials:
        aliases["[EOS]"] = roles["eos"]  # in a chat model, the end of a turn
    tokenizer = BPE.from_names(ids, merges, specials, aliases, words, pattern)
    start_id = values.get("decoder_start_token_id", DECODER_START.get(kind))
    start = tokenizer.vocab.get(start_id, b"").decode("utf-8", "replace")
    if kind in DECODER_START and start in specials and start_id != tokenizer.special_id("[CLS]"):
        tokenizer.aliases["[START]"] = start
    prefix = "its tokenizer puts a space before every text; ours does not: encode(' ' + text)"
    said = [settings, cutter := whole.get("pre_tokenizer") or {}, *cutter.get("pretokenizers", ())]
    notes += [prefix] if any(part.get("add_prefix_space") for part in said) else []
    return tokenizer, notes + differing(whole, "lstrip", "rstrip", "single_word")


def cut_by(whole: dict) -> tuple[str | None, list[str]]:
    """Return which of our patterns a tokenizer.json cuts text by, and notes; UserError if none."""
    cutter, normalizer = whole.get("pre_tokenizer") or {}, whole.get("normalizer") or {}
    steps = cutter["pretokenizers"] if cutter.get("type") == "Sequence" else [cutter]
    said = dict(ByteLevel="use_regex", Digits="individual_digits", Split="pattern")
    cuts = ((step.get("type"), step.get(said.get(step.get("type")), True)) for step in steps)
    cuts = tuple((kind, how["Regex"] if isinstance(how, dict) else how) for kind, how in cuts)
    if len(steps) > 1 and any(step.get("add_prefix_space") for step in steps):
        cuts += ("a space before each piece",)
    wrong = [k for k in ("ignore_merges", "end_of_word_suffix", "dropout") if whole["model"].get(k)]
    wrong += [normalizer] if normalizer.get("type") not in (None, "NFC") else [] if cuts in CUTS else [cuts]
    if wrong:
        raise UserError(f"it cuts text by {wrong[0]!r:.200}; supported: GPT-2's, GPT-4's, SmolLM2's ways")
    note = "its tokenizer composes letters and accents (NFC); ours does not: give it NFC text"
    return CUTS[cuts], [note] if normalizer else []


def differing(whole: dict, *switches: str) -> list[str]:
    """Return notes on added tokens that have `switches` which our tokenizers lack."""
    said = dict.fromkeys(("lstrip", "rstrip"), "drops the spaces beside {}: write none there")
    said |= dict(single_word="finds {} only as a whole word; ours finds it inside a word too")
    found = {s: [e["content"] for e in whole.get("added_tokens") or () if e.get(s)] for s in switches}
    return ["its tokenizer " + said[s].format(", ".join(tokens)) for s, tokens in found.items() if tokens]


def roles_and_added(folder: Path, whole: dict, settings: dict, roles: dict) -> tuple[dict, dict, list[str]]:
    """Return role -> token (default: `roles`), added token -> id, and added tokens that are plain text."""
    said = read_json(folder / "special_tokens_map.json", optional=True) | settings
    for role in ("cls", "sep", "pad", "mask", "unk", "bos", "eos"):
        token = said.get(f"{role}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and token:
            roles = roles | {role: token}
    listed = [*(whole.get("added_tokens") or ()), *(settings.get("added_tokens_decoder") or {}).values()]
    special = {entry["content"] for entry in listed if entry.get("special", True)} | {*roles.values()}
    for token in said.get("additional_special_tokens") or ():
        special.add(token if isinstance(token, str) else token["content"])
    added = {entry["content"]: entry["id"] for entry in whole.get("added_tokens") or ()}
    added |= read_json(folder / "added_tokens.json", optional=True)
    return roles, added, [token for token in added if token not in special]


def specials_and_aliases(roles: dict[str, str], added: dict[str, int], known) -> tuple[list, dict[str, str]]:
    """Return the known tokens with a role, then added ones; and our name -> the token that it stands for."""
    specials = [name for name in dict.fromkeys([*roles.values(), *added]) if name in known]
    fit = {ours: [roles[r] for r in those if roles.get(r) in specials] for ours, those in ROLES.items()}
    return specials, {ours: tokens[0] for ours, tokens in fit.items() if tokens and ours not in specials}
