"""Grades huggingface/gpt2_vocabulary.py: bytes in printable characters, and back."""

import pytest

from minilm.huggingface.gpt2_vocabulary import byte_characters, read_files, token_bytes, token_name


def test_every_byte_has_a_character_of_its_own_that_shows():
    characters = byte_characters()
    assert len(characters) == len(set(characters)) == 256
    assert all(character.isprintable() and not character.isspace() for character in characters)
    assert characters[ord("a")] == "a" and characters[0xE9] == "é"
    assert characters[ord(" ")] == "Ġ" and characters[ord("\n")] == "Ċ", "as in every published vocabulary"


def test_names_and_bytes_are_each_others_inverse():
    characters, token = byte_characters(), bytes(range(256))
    name = token_name(token, characters)
    assert token_bytes({name: 0}, ()) == {name: token}
    assert token_name(" é".encode(), characters) == "ĠÃ©"


def test_special_tokens_are_plain_text():
    assert token_bytes({"<é>": 3, "é": 4}, ["<é>"]) == {"<é>": "<é>".encode(), "é": b"\xe9"}
    with pytest.raises(TypeError):
        token_bytes({"漢": 0}, ())


def test_files(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0, "Ġb": 1}', encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\nĠ b\n# a\n\n", encoding="utf-8")
    ids, merges = read_files(tmp_path / "vocab.json", tmp_path / "merges.txt")
    assert ids == {"a": 0, "Ġb": 1}
    assert merges == [["Ġ", "b"], ["#", "a"]], "a merge may begin with the sign of the first line"
