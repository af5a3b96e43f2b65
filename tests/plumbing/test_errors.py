"""Grades plumbing/errors.py: the error of the user's, and the nearest name for a typing slip."""

import pytest

from minilm.plumbing.errors import UserError, as_line, suggest


def test_user_error_is_a_value_error_with_its_message():
    with pytest.raises(ValueError, match="line 3"):
        raise UserError("data.txt, line 3: no label")


def test_suggest_names_the_nearest_choice_only(tmp_path):
    assert suggest("zzz", ["masked", "causal"]) == suggest("masked", []) == "", "nothing is near"
    assert suggest("--stesp", ["--seed", "--steps", "--stop"]) == " (did you mean '--steps'?)"
    assert suggest("127", iter([128, 9])) == " (did you mean '128'?)", "choices need not be strings"
    assert str(tmp_path / "masked") in suggest(str(tmp_path / "maskd"), [tmp_path / "masked"])


def test_words_of_the_slides_are_found():
    ours = dict(mlm="masked", BERT="masked", gpt="causal", bart="denoising", ner="tagging", qa="span")
    ours |= dict(nli="pair", sts="similarity", seq2seq="text-to-text", autorregressivo="causal")
    for word, name in ours.items():
        assert suggest(word, ours.values()) == f" (did you mean {name!r}?)"
    assert suggest("bert", ["causal", "bert-tiny"]) == " (did you mean 'bert-tiny'?)", "only where we have it"


def test_what_a_terminal_would_obey_is_written_out():
    assert as_line("a\tb\nc\x1b\x7f\x9f \x1f\xa0") == r"a\tb c\x1b\x7f\x9f \x1f" + "\xa0"
    turned = as_line("\u202a\u202e\u202f\u2065\u2066\u2069\u206a")
    told = "marks that turn the writing, no others"
    assert turned == "\\u202a\\u202e\u202f\u2065\\u2066\\u2069\u206a", told
    assert len(as_line("word " * 999)) == 1000
    for slash in "/\\":
        path, cut = (slash.join(["a" * 60, "b" * 60, name, "c"]) for name in ("d" * 200, "d" * 100 + "..."))
        assert as_line(path) == cut, "a path is not cut, but any of its names"
