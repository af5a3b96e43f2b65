"""Reading files: what a document is, and that each thing wrong with a file is named with its place."""

import gzip
import json

import pytest

from minilm.plumbing.errors import UserError
from minilm.texts.files import (
    kind,
    missing,
    one_line,
    read_bytes,
    read_documents,
    read_jsonl,
    read_text,
    string_field,
    text_files,
)


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def message(call, *arguments, **keywords) -> str:
    with pytest.raises(UserError) as error:
        call(*arguments, **keywords)
    text = str(error.value)
    assert "\n" not in text, "an error for the user is one line"
    return text


def test_one_line_keeps_the_words_and_nothing_else():
    assert one_line("  To\tbe,\n\n or not ") == "To be, or not"


@pytest.mark.parametrize(
    "name, expected",
    [("a.txt", ".txt"), ("A.B.TXT.GZ", ".txt"), ("a.jsonl.gz", ".jsonl"), ("a.gz", ""), ("a", "")],
)
def test_kind_looks_through_gz_and_case(tmp_path, name, expected):
    assert kind(tmp_path / name) == expected


def test_missing_names_the_nearest_name_that_exists(tmp_path):
    write(tmp_path / "letters.txt", "a")
    assert "letters.txt'?" in str(missing(tmp_path / "leters.txt"))
    assert "did you mean 'world'" in str(
        missing(tmp_path.relative_to(tmp_path) / "wrold", ("world", "python-docs"))
    )
    assert "nowhere does not exist either" in str(missing(tmp_path / "nowhere" / "a.txt"))
    assert isinstance(missing(tmp_path / "x"), UserError)


def test_read_bytes_decompresses_gz_and_names_a_broken_one(tmp_path):
    data = bytes(range(256)) * 9
    assert read_bytes(write(tmp_path / "plain", data)) == data
    assert read_bytes(write(tmp_path / "a.txt.gz", gzip.compress(data))) == data
    whole = gzip.compress(data)
    half = write(tmp_path / "half.txt.gz", whole[: len(whole) // 2])
    assert "half.txt.gz" in message(read_bytes, half), (
        "a truncated .gz is the user's to mend, without traceback"
    )
    assert "gzip" in message(read_bytes, write(tmp_path / "no.txt.gz", b"not compressed at all"))
    flipped = whole[:20] + bytes([whole[20] ^ 0xFF]) + whole[21:]
    assert "gzip" in message(read_bytes, write(tmp_path / "flipped.txt.gz", flipped))


def test_read_bytes_of_what_is_no_file(tmp_path):
    assert "no such file" in message(read_bytes, tmp_path / "absent.txt")
    assert "regular file" in message(read_bytes, tmp_path)


def test_read_text_drops_the_byte_order_mark_and_foreign_line_ends(tmp_path):
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntwo\rthree\nfour")
    assert read_text(path) == "one\ntwo\nthree\nfour"


def test_invalid_utf8_is_named_with_its_byte_offset(tmp_path):
    good = "\ufeffnaïve café ".encode()
    path = write(tmp_path / "latin.txt", good + b"\xe9t\xe9")
    text = message(read_text, path)
    assert f"byte {len(good)} (0xe9)" in text, "the offset counts bytes of the file, not characters"
    assert "--errors replace" in text and "latin.txt" in text
    assert read_text(path, errors="replace") == "naïve café \ufffdt\ufffd"
    assert "expected strict or replace" in message(read_text, path, errors="ignore")


def test_binary_files_are_refused_even_with_replace(tmp_path):
    path = write(tmp_path / "picture.txt", b"ab\x00c\x00")
    assert "binary" in message(read_text, path, errors="replace") and "offset 2" in message(read_text, path)
    assert "UTF-16" in message(read_text, write(tmp_path / "notes.txt", "hello".encode("utf-16")))


def test_read_jsonl_numbers_the_lines_of_the_file(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"a": 1}\n\n  \n{"a": "x\\u2028y"}\n')
    assert list(read_jsonl(path)) == [(1, {"a": 1}), (4, {"a": "x\u2028y"})]
    # U+2028 is a line end for str.splitlines, but stands unescaped in valid JSON.
    raw = write(tmp_path / "b.jsonl", '{"a": "x\u2028y"}\n{"b": 2}')
    assert [number for number, _ in read_jsonl(raw)] == [1, 2]


@pytest.mark.parametrize("bad", ["{'a': 1}", '{"a": 1', "[" * 5_000, "7" * 5_000, '["text"]', '"text"'])
def test_read_jsonl_names_the_line_that_is_no_object(tmp_path, bad):
    path = write(tmp_path / "a.jsonl", '{"a": 1}\n\n' + bad)
    assert "a.jsonl, line 3: " in message(lambda: list(read_jsonl(path)))


def test_string_field_says_what_was_found():
    assert string_field({"text": "a", "id": 3}, "text", "here") == "a"
    assert "here: no field 'text' (found: 'txt', 'id') (did you mean 'txt'?)" in message(
        string_field, {"txt": "a", "id": 3}, "text", "here"
    )
    assert "found: none" in message(string_field, {}, "text", "here")
    assert "'text' is 12, expected a string" in message(string_field, {"text": 12}, "text", "here")


def test_half_a_surrogate_pair_never_reaches_the_tokenizer():
    record = json.loads('{"text": "ab\\ud83d."}')
    assert "character 2" in message(string_field, record, "text", "here")
    assert string_field(record, "text", "here", errors="replace").encode() == "ab\ufffd.".encode()


def test_documents_of_txt_end_at_blank_lines(tmp_path):
    text = "\n\n  First line,\n    indented verse.\n \t\nSecond\r\n\r\n\r\n\u00a0\nThird \n"
    assert read_documents(write(tmp_path / "a.txt", text)) == [
        "  First line,\n    indented verse.",
        "Second",
        "Third ",
    ]
    assert read_documents(write(tmp_path / "b.txt.gz", gzip.compress(b"x\n\ny"))) == ["x", "y"]
    assert read_documents(write(tmp_path / "empty.txt", " \n\n \n")) == []


def test_documents_of_jsonl_are_its_texts(tmp_path):
    lines = '{"text": "one\\n\\nstill one", "id": 1}\n{"text": "  "}\n{"text": "two"}\n'
    path = write(tmp_path / "a.jsonl", lines)
    assert read_documents(path) == ["one\n\nstill one", "two"]
    assert "line 2: 'text' is None" in message(
        read_documents, write(tmp_path / "b.jsonl", '{"text": "a"}\n{"text": null}')
    )
    half = write(tmp_path / "c.jsonl", '{"text": "a\\udc00"}')
    assert "c.jsonl, line 1: half a surrogate pair" in message(read_documents, half)
    assert read_documents(half, errors="replace") == ["a\ufffd"]


def test_errors_replace_reaches_txt_documents(tmp_path):
    path = write(tmp_path / "a.txt", b"good\n\nb\xffd")
    assert "byte 7" in message(read_documents, path)
    assert read_documents(path, errors="replace") == ["good", "b\ufffdd"]


def test_an_unknown_suffix_lists_the_known_ones(tmp_path):
    text = message(read_documents, write(tmp_path / "a.pdf", "x"))
    assert "'.pdf'" in text and ".txt" in text and ".jsonl" in text and ".gz" in text
    assert "no suffix" in message(read_documents, write(tmp_path / "README", "x"))


def test_a_folder_stands_for_its_text_files_in_order(tmp_path):
    for name in ("b/2.txt", "b/1.jsonl.gz", "a.TXT", "c.md", ".hidden/x.txt", "b/.y.txt"):
        write(tmp_path / name, "x")
    (tmp_path / "folder.txt").mkdir()
    found = [str(path.relative_to(tmp_path)) for path in text_files(tmp_path)]
    assert found == ["a.TXT", "b/1.jsonl.gz", "b/2.txt"]
    for i in range(40):
        write(tmp_path / "many" / f"{i * 17 % 40:02}.txt", "x")
    assert [int(path.stem) for path in text_files(tmp_path / "many")] == list(range(40)), (
        "runs must be repeatable"
    )
    assert text_files(tmp_path / "c.md") == [tmp_path / "c.md"], "a file that is named is never passed over"
    (tmp_path / "none").mkdir()
    assert "without text files" in message(text_files, tmp_path / "none")


def test_a_hidden_folder_above_does_not_hide_its_files(tmp_path):
    write(tmp_path / ".cache" / "corpus" / "a.txt", "x")
    assert len(text_files(tmp_path / ".cache" / "corpus")) == 1
