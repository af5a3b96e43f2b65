"""Reading files: what a document is, and that each thing wrong with a file is named with its place."""

import gzip
import json
import os

import pytest

from minilm.texts import files
from minilm.texts.files import read_documents, read_jsonl, read_text, string_field, text_files


def test_kind_looks_through_gz_and_case():
    kinds = {"x/a.txt": ".txt", "A.B.TXT.GZ": ".txt", "a.jsonl.gz": ".jsonl", "a.gz": "", "a": ""}
    assert {name: files.kind(name) for name in kinds} == kinds


def test_missing_names_the_nearest_name_that_exists(tmp_path, write):
    write("letters.txt")
    assert "letters.txt'?" in str(files.missing(tmp_path / "leters.txt"))
    names = ("world", "python-docs")
    assert "did you mean 'world'" in str(files.missing(tmp_path.relative_to(tmp_path) / "wrold", names))
    assert str(files.missing(tmp_path / "nowhere" / "a.txt")).endswith("a.txt: no such file or folder")


def test_what_cannot_be_read_is_named(tmp_path, write, message):
    whole = gzip.compress(b"text and more text" * 9)
    flipped = whole[:20] + bytes([whole[20] ^ 0xFF]) + whole[21:]
    assert read_text(write("a.txt.gz", whole)) == "text and more text" * 9
    for name, data in dict(half=whole[: len(whole) // 2], no=b"not compressed", flipped=flipped).items():
        assert f"{name}.txt.gz: not a complete gzip" in message(read_text, write(f"{name}.txt.gz", data))
    assert "no such file" in message(read_text, tmp_path / "absent.txt")
    assert "regular file" in message(read_text, tmp_path)


def test_read_text_drops_the_byte_order_mark_and_foreign_line_ends(write):
    path = write("a.txt", b"\xef\xbb\xbfone\r\ntwo\rthree\nfour\n")
    assert read_text(path) == "one\ntwo three\nfour\n", "one stray \\r shifts all lines after it"
    assert list(files.read_lines(path))[1:] == [(f"{path}, line 2", "two three"), (f"{path}, line 3", "four")]
    assert read_text(write("old.txt", b"one\rtwo\r")) == "one\ntwo\n", "a file without any \\n has \\r for it"


def test_invalid_utf8_is_named_with_its_byte_offset(write, message):
    good = "\ufeffnaïve café ".encode()
    path = write("latin.txt", good + b"\xe9t\xe9")
    text = message(read_text, path)
    assert f"byte {len(good)} (0xe9)" in text, "the offset counts bytes of the file, not characters"
    assert "--errors replace" in text and "latin.txt" in text
    assert read_text(path, errors="replace") == "naïve café \ufffdt\ufffd"


def test_binary_files_are_refused_even_with_replace(write, message):
    text = message(read_text, write("picture.txt", b"ab\x00c\x00"), errors="replace")
    assert "binary" in text and "offset 2" in text
    for text in ("hello", "\u6f22\u5b57"):  # the second without a byte 0
        assert "UTF-16" in message(read_text, write("notes.txt", text.encode("utf-16")))


def test_read_jsonl_numbers_the_lines_of_the_file(write):
    path = write("a.jsonl", '{"a": 1}\n\n  \n{"a": "x\\u2028y"}\n')
    assert list(read_jsonl(path)) == [(f"{path}, line 1", {"a": 1}), (f"{path}, line 4", {"a": "x\u2028y"})]
    # U+2028 is a line end for str.splitlines, but stands unescaped in valid JSON.
    raw = write("b.jsonl", '{"a": "x\u2028y"}\n{"b": 2}')
    assert [record for _, record in read_jsonl(raw)] == [{"a": "x\u2028y"}, {"b": 2}]


@pytest.mark.parametrize("bad", ["{'a': 1}", '{"a": 1', "[" * 5_000, "7" * 5_000, '["text"]', '"text"'])
def test_read_jsonl_names_the_line_that_is_no_object(write, message, bad):
    path = write("a.jsonl", '{"a": 1}\n\n' + bad)
    assert "a.jsonl, line 3: " in message(lambda: list(read_jsonl(path)))


def test_string_field_says_what_was_found(message):
    assert string_field({"text": "a", "id": 3}, "text", "here") == "a"
    expected = "here: no field 'text' in ['txt', 'id'] (did you mean 'txt'?)"
    assert message(string_field, {"txt": "a", "id": 3}, "text", "here") == expected
    assert "'text' is 12, expected a string" in message(string_field, {"text": 12}, "text", "here")
    half = json.loads('{"text": "ab\\ud83d."}')  # of a surrogate pair, which no tokenizer makes bytes of
    assert "character 2" in message(string_field, half, "text", "here")
    assert string_field(half, "text", "here", errors="replace").encode() == "ab\ufffd.".encode()


def documents_of(*arguments, **options) -> list[str]:
    return list(read_documents(*arguments, **options))


def test_documents_of_txt_end_at_blank_lines(write):
    text = "\n\n  First line,\n    indented verse.\n \t\nSecond\r\n\r\n\r\n\u00a0\nThird \n"
    verses = ["  First line,\n    indented verse.", "Second", "Third "]
    assert documents_of(write("a.txt", text)) == verses
    assert documents_of(write("b.txt.gz", gzip.compress(b"x\n\ny"))) == ["x", "y"]
    assert documents_of(write("empty.txt", " \n\n \n")) == []


def test_documents_of_jsonl_are_its_texts(write):
    lines = '{"text": "one\\n\\nstill one", "id": 1}\n{"text": "  "}\n{"text": "two"}\n'
    assert documents_of(write("a.jsonl", lines)) == ["one\n\nstill one", "two"]


@pytest.mark.parametrize(
    "name, data, place",
    [("a.txt", b"a\n\nb\xffd", "byte 4"), ("a.jsonl", b'{"text": "b\\udc00d"}', "line 1: a lone surrogate")],
)
def test_errors_replace_reaches_documents(write, message, name, data, place):
    assert place in message(documents_of, write(name, data))
    assert documents_of(write(name, data), errors="replace")[-1] == "b\ufffdd"


def test_an_unknown_suffix_lists_the_known_ones(write, message):
    for name in ("a.pdf", "README"):
        told = message(documents_of, write(name, "x"))
        assert f"{name}: expected .txt, .jsonl, .gz of these, or a folder" in told


def test_a_folder_stands_for_its_text_files_in_order(tmp_path, write, message):
    folder = tmp_path / ".cache"  # a hidden folder above does not hide the files
    for name in ("b/2.txt", "b/1.jsonl.gz", "a.TXT", "c.md", ".hidden/x.txt", "b/.y.txt"):
        write(f".cache/{name}")
    (folder / "folder.txt").mkdir()
    assert text_files(folder) == [folder / name for name in ("a.TXT", "b/1.jsonl.gz", "b/2.txt")]
    many = [write(f"many/{i * 17 % 40:02}.txt") for i in range(40)]
    assert text_files(tmp_path / "many") == sorted(many), "runs must be repeatable"
    assert text_files(folder / "c.md") == [folder / "c.md"], "a file that is named is never passed over"
    assert "no text files" in message(text_files, folder / "folder.txt")


def test_no_link_in_a_folder_is_passed_over(write, message):
    folder, other = write("all/1.txt").parent, write("other/2.txt").parent
    (folder / "3.txt").symlink_to("gone.txt")
    assert text_files(folder) == [folder / "1.txt", folder / "3.txt"]
    assert "3.txt: no such file" in message(read_text, folder / "3.txt")
    (folder / "linked").symlink_to(other, target_is_directory=True)
    assert "linked: a link to a folder, not followed; remove it" in message(text_files, folder)


def test_a_folder_that_may_not_be_read_is_no_empty_one(write, message, monkeypatch):
    folder, listdir = write("all/closed/1.txt").parent, os.listdir
    write("all/.hidden/1.txt")

    def refused(path):
        if str(path).endswith(("closed", ".hidden")):
            raise PermissionError(13, "Permission denied", str(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refused)
    with pytest.raises(PermissionError, match="closed"):
        text_files(folder.parent)


def test_a_text_may_be_packed_to_a_hundredth_and_ten_million_bytes_less(write, message):
    short, bomb = (gzip.compress(b"line\n" * n) for n in (2_100_000, 2_400_000))  # to a thousandth
    assert 10_500_000 < 100 * len(short) + 10**7 and 100 * len(bomb) + 10**7 < 12_000_000, "the limit"
    assert len(read_text(write("short.txt.gz", short))) == 10_500_000
    told = "bomb.txt.gz: unpacks to over a hundred times its size"
    assert told in message(read_text, write("bomb.txt.gz", bomb))


def test_a_file_is_read_in_blocks_of_whole_lines(write, message, monkeypatch):
    """A file of any size is read with little memory, and means what it means as a whole."""
    monkeypatch.setattr(files, "BLOCK", 9)
    text = "é1\r\nzwei\n\n \ndrei, und noch mehr\n\n\nvier\nfünf"
    path, packed = write("a.txt", text.encode()), write("a.txt.gz", gzip.compress(text.encode()))
    blocks = [*files.read_blocks(path)]
    assert len(blocks) == 3 and all(block.endswith("\n") for block in blocks[:-1]), "a line is cut"
    assert read_text(path) == read_text(packed) == text.replace("\r\n", "\n")
    assert [*read_documents(packed)] == ["é1\nzwei", "drei, und noch mehr", "vier\nfünf"]
    lines = "".join(json.dumps({"text": f"line {i}"}) + "\n" for i in range(9))
    assert [*read_documents(write("b.jsonl", lines))] == [f"line {i}" for i in range(9)]
    n = len(text.encode()) + 1  # the offset in the file, not in the block
    assert f"byte {n} (0xff)" in message(read_text, write("c.txt", text.encode() + b"\n\xff"))
    assert f"byte 0 at offset {n}" in message(read_text, write("d.txt", text.encode() + b"\n\x00"))
    assert "UTF-16 (its first bytes); save it" in message(read_text, write("e.txt", "日本".encode("utf-16")))
    monkeypatch.setattr(files, "LARGE", 20), monkeypatch.setattr(files, "BLOCK", 20)
    found = [*read_documents(write("long.txt", "a line of text\n" * 9))]
    assert "\n".join(found) + "\n" == "a line of text\n" * 9
    assert len(found) > 2, "one must not fill the memory"


def test_at_most_forty_letters_of_a_bad_line_are_shown(write, message):
    for bad in ("{" + "a" * 99, '"' + "a" * 99 + '"'):
        told = message(lambda bad=bad: list(read_jsonl(write("a.jsonl", bad))))
        assert "a" * 39 in told and "a" * 41 not in told
