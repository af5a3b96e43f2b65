"""Our tokenizers -> the files that `transformers.AutoTokenizer` opens, with the same ids.

A BPE becomes tokenizer.json, the format of the Rust library `tokenizers`; a WordPiece becomes vocab.txt.
Called as by default, with special tokens, they put [CLS] before and [SEP] behind a text, as the model had it
in training. Our objectives also put a space before each text that they encode with a BPE: give it there too.
"""

from pathlib import Path

from ..plumbing.errors import UserError
from ..plumbing.folders import atomic_write, write_json
from ..tokenizer.bpe import BPE, token_name
from ..tokenizer.wordpiece import WordPiece


def write_tokenizer(
    tokenizer: BPE | WordPiece, folder: Path, frame: tuple[str | None, str | None], longest: int
) -> None:
    """Write the tokenizer's files; `frame`: what stands before and behind a text, by our names.

    UserError for a BPE with a pattern of its own, which the Rust library may read otherwise than Python.
    """
    settings = {"model_max_length": longest} | roles_of(tokenizer)
    if isinstance(tokenizer, WordPiece):
        atomic_write(folder / "vocab.txt", "".join(token + "\n" for token in tokenizer.tokens))
        settings |= {"tokenizer_class": "BertTokenizer", "do_lower_case": tokenizer.lower_case}
        settings |= {"strip_accents": tokenizer.strip_accents}
        settings |= {"tokenize_chinese_chars": tokenizer.chinese_characters}
    else:
        if tokenizer.pattern is not None:
            raise UserError("the tokenizer cuts text by a pattern of its own: only GPT-2's can be exported")
        settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        write_json(folder / "tokenizer.json", rust_tokenizer(tokenizer, frame))
    write_json(folder / "tokenizer_config.json", settings)


def roles_of(tokenizer: BPE | WordPiece) -> dict[str, str]:
    """Return the special token that plays each role of transformers."""
    wanted = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]", "unk": "[UNK]"}
    wanted |= {"bos": "[CLS]", "eos": "[SEP]"} if "[CLS]" in tokenizer.special_tokens else {}
    if "[CLS]" not in tokenizer.special_tokens:
        wanted |= {"bos": "[CLS]", "eos": "<|endoftext|>"}
    roles = {}
    for role, ours in wanted.items():
        token = ours if ours in tokenizer.special_tokens else tokenizer.aliases.get(ours)
        if token is not None:
            roles[f"{role}_token"] = token
    return roles


def rust_tokenizer(bpe: BPE, frame: tuple[str | None, str | None]) -> dict:
    """Return the tokenizer.json of a BPE."""
    specials = {token: bpe.special_id(token) for token in bpe.special_tokens}
    taken = set(specials.values())
    vocab = {token_name(token): i for i, token in bpe.vocab.items() if i not in taken} | specials
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": token, **flags, "special": True}
            for token, i in sorted(specials.items(), key=lambda item: item[1])
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": template(bpe, frame),
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": dict(sorted(vocab.items(), key=lambda item: item[1])),
            "merges": [[token_name(a), token_name(b)] for a, b in bpe.merges],
        },
    }


def template(bpe: BPE, frame: tuple[str | None, str | None]) -> dict | None:
    """Return the rule that puts special tokens around one text or two; None where none stand there."""
    if frame == (None, None):
        return None
    before, behind = ((bpe.aliases.get(name, name) if name else None) for name in frame)

    def special(token: str | None, segment: int) -> list[dict]:
        return [{"SpecialToken": {"id": token, "type_id": segment}}] if token else []

    a, b = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    single = [*special(before, 0), a, *special(behind, 0)]
    tokens = {
        token: {"id": token, "ids": [bpe.special_id(token)], "tokens": [token]}
        for token in (before, behind)
        if token
    }
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, b, *special(behind, 1)],
        "special_tokens": tokens,
    }
