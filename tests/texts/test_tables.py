"""Labelled files: what each format gives; each bad row is named with its line, or skipped and counted."""

import gzip
import json

import pytest

from minilm.plumbing.errors import UserError
from minilm.texts.tables import read_aligned, read_conll, read_squad, read_table

FIELDS = ("text", "label")


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def message(call, *arguments, **keywords) -> str:
    with pytest.raises(UserError) as error:
        call(*arguments, **keywords)
    text = str(error.value)
    assert "\n" not in text, "an error for the user is one line"
    return text


def test_tsv_without_a_header_takes_quotes_as_they_stand(tmp_path):
    path = write(tmp_path / "a.tsv", 'He said "no\tbad\n\n  It\'s 5" wide \t good\r\n')
    assert read_table(path, FIELDS) == ([('He said "no', "bad"), ("It's 5\" wide", "good")], 0)


def test_a_header_orders_the_columns_and_further_ones_are_passed_over(tmp_path):
    path = write(tmp_path / "a.tsv", "id\tLabel\tText\n7\tbad\train again\n8\tgood\tsun\n")
    assert read_table(path, FIELDS) == ([("rain again", "bad"), ("sun", "good")], 0)
    path = write(tmp_path / "b.csv", "rejected,prompt,chosen\nr,p,c\n")
    assert read_table(path, ("prompt", "chosen", "rejected"))[0] == [("p", "c", "r")]


def test_without_a_header_the_first_row_is_a_row(tmp_path):
    path = write(tmp_path / "a.csv", "one,two,three\nfour,five,six\n")
    rows, _ = read_table(path, ("text_a", "text_b", "label"))
    assert rows == [("one", "two", "three"), ("four", "five", "six")], "the first row is lost: no header here"


def test_a_header_that_names_only_some_fields_is_not_taken_for_an_example(tmp_path):
    path = write(tmp_path / "a.tsv", "sentence\tlabel\nsun\tgood\n")
    text = message(read_table, path, FIELDS, skip_bad=True)
    assert "line 1" in text and "'sentence', 'label'" in text and "'text', 'label'" in text


def test_csv_quotes_hold_commas_quotes_and_lines(tmp_path):
    path = write(tmp_path / "a.csv", 'text,label\n"a, ""b""\nc",x\n\nd,y,z\n')
    assert read_table(path, FIELDS, skip_bad=True) == ([('a, "b"\nc', "x")], 1)
    assert "line 5: found 3 columns, expected 2" in message(read_table, path, FIELDS), (
        "lines are the file's, not rows"
    )


@pytest.mark.parametrize("text", ['a,x\n\n"b,y\nc,z\n', 'a,x\n\n"b,y\nc,"z"\n'])
def test_a_quote_never_closed_is_named_where_it_opens(tmp_path, text):
    path = write(tmp_path / "a.csv", text)
    assert "a.csv, line 3: " in message(read_table, path, FIELDS)
    assert "quote" in message(read_table, path, FIELDS, skip_bad=True), (
        "what it has swallowed cannot be skipped"
    )


def test_jsonl_by_name_and_numbers_as_labels(tmp_path):
    path = write(
        tmp_path / "a.jsonl", '{"label": 3, "text": "sun"}\n{"text": " rain ", "label": 1.5, "id": 4}\n'
    )
    assert read_table(path, FIELDS) == ([("sun", "3"), ("rain", "1.5")], 0)
    bad = write(
        tmp_path / "b.jsonl", '{"text": "sun", "label": "x"}\n{"text": 5, "label": "x"}\n{"label": "x"}\n'
    )
    assert "b.jsonl, line 2: 'text' is 5, expected a string" in message(read_table, bad, FIELDS)
    assert read_table(bad, FIELDS, skip_bad=True) == ([("sun", "x")], 2)


@pytest.mark.parametrize(
    "name, line", [("a.tsv", "\tgood"), ("a.csv", '"  ",good'), ("a.jsonl", '{"text":"","label":"g"}')]
)
def test_an_empty_side_is_an_error_or_counted(tmp_path, name, line):
    good = {"a.tsv": "sun\tgood", "a.csv": "sun,good", "a.jsonl": '{"text":"sun","label":"good"}'}[name]
    path = write(tmp_path / name, f"{good}\n{line}\n{good}\n")
    assert "line 2: nothing in 'text'" in message(read_table, path, FIELDS)
    assert read_table(path, FIELDS, skip_bad=True) == ([("sun", "good")] * 2, 1)


@pytest.mark.parametrize("line, found", [("alone", 1), ("a\tb\tc", 3)])
def test_another_number_of_columns_is_named(tmp_path, line, found):
    path = write(tmp_path / "a.tsv", f"sun\tgood\n\n{line}\n")
    text = message(read_table, path, FIELDS)
    assert f"a.tsv, line 3: found {found} columns, expected 2" in text and "text, label" in text
    assert read_table(path, FIELDS, skip_bad=True) == ([("sun", "good")], 1)


def test_tables_without_rows_or_of_another_kind(tmp_path):
    assert "no rows (0 skipped)" in message(read_table, write(tmp_path / "a.tsv", "text\tlabel\n"), FIELDS)
    assert "no rows (2 skipped)" in message(
        read_table, write(tmp_path / "b.tsv", "a\nb\n"), FIELDS, skip_bad=True
    )
    assert ".tsv, .csv, .jsonl" in message(read_table, write(tmp_path / "a.xlsx", "x"), FIELDS)
    assert "no such file" in message(read_table, str(tmp_path / "absent.tsv"), FIELDS)


def test_tables_may_be_compressed(tmp_path):
    path = write(tmp_path / "a.tsv.gz", gzip.compress(b"sun\tgood\n"))
    assert read_table(path, FIELDS)[0] == [("sun", "good")]


def test_aligned_files_pair_line_with_line(tmp_path):
    source = write(tmp_path / "a.en", "The cat.\n\n The dogs. \n")
    target = write(tmp_path / "a.pt", "O gato.\r\n\r\nOs cães.")
    assert read_aligned(source, target) == ([("The cat.", "O gato."), ("The dogs.", "Os cães.")], 0)


def test_aligned_files_of_unequal_length_name_both_counts(tmp_path):
    source = write(tmp_path / "a.en", "one\ntwo\nthree\n")
    text = message(read_aligned, source, write(tmp_path / "a.pt", "um\ndois\n"))
    assert "a.en has 3 lines" in text and "a.pt has 2" in text
    shifted = write(tmp_path / "b.pt", "um\ndois\n\n")
    assert "line 3: nothing in 'target'" in message(read_aligned, source, shifted)
    assert read_aligned(source, shifted, skip_bad=True) == ([("one", "um"), ("two", "dois")], 1)


def test_conll_takes_the_first_and_the_last_column(tmp_path):
    text = "-DOCSTART- -X- O O\n\nAnna NNP I-NP B-PER\nran VBD I-VP O\n\n \nHome\tNN\tI-NP\tO\n# # O O"
    sentences = [(["Anna", "ran"], ["B-PER", "O"]), (["Home", "#"], ["O", "O"])]
    assert read_conll(write(tmp_path / "a.conll", text)) == (sentences, 0)


def test_conll_errors_name_the_line(tmp_path):
    assert "a.txt, line 3: one column 'ran'" in message(
        read_conll, write(tmp_path / "a.txt", "Anna B\n\nran\n")
    )
    assert "no sentences" in message(read_conll, write(tmp_path / "b.txt", "\n\n"))
    path = write(tmp_path / "c.txt", "Anna B\nran O\n\nBea x B\nran O\n\nCara B\n")
    assert "c.txt, line 4: 3 columns 'Bea x B', where the first line has 2" in message(read_conll, path)
    left = [(["Anna", "ran"], ["B", "O"]), (["Cara"], ["B"])]
    assert read_conll(path, skip_bad=True) == (left, 1), "the whole sentence is left out, and counted once"


def test_words_to_be_tagged_need_no_tags(tmp_path):
    sentences, _ = read_conll(write(tmp_path / "a.txt", "Anna\nran\n\nHome\n"), tagged=False)
    assert [words for words, _ in sentences] == [["Anna", "ran"], ["Home"]]


def squad(path, *questions, context="Anna found a key. Bea found the key."):
    paragraph = {"context": context, "qas": list(questions)}
    return write(path, json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": [paragraph]}]}))


def question(text="Who?", answers=((0, "Anna"),), **more):
    return {"question": text, "answers": [{"text": a, "answer_start": start} for start, a in answers], **more}


def test_squad_of_both_versions(tmp_path):
    path = squad(
        tmp_path / "a.json",
        question(answers=[(0, "Anna"), (18, "Bea")], id="q1"),
        question("Why?", [(0, "Anna")], is_impossible=True, plausible_answers=[{"text": "x"}]),
    )
    examples, n_skipped = read_squad(path)
    assert n_skipped == 0 and len(examples) == 2
    assert examples[0]["answers"] == [("Anna", 0), ("Bea", 18)] and not examples[0]["impossible"]
    assert examples[1] == {**examples[0], "question": "Why?", "answers": [], "impossible": True}
    for text, start in examples[0]["answers"]:
        assert examples[0]["context"][start:].startswith(text)


@pytest.mark.parametrize(
    "bad, expected",
    [
        (
            question(answers=[(1, "Anna")], id="q7"),
            "(id q7): answer 'Anna' at 1, where the context has 'nna '",
        ),
        (question(answers=[(0, "Cara")]), "answer 'Cara' at 0"),
        (question(answers=[(-8, "the")]), "answer 'the' at -8"),
        (question(answers=[(0, "")]), "answer '' at 0"),
        (question(answers=[]), "no answer"),
        (question(text=" "), "an empty question"),
        ({"answers": []}, "found 'nothing' for 'question', expected str"),
        (question() | {"answers": [{"text": "Anna", "answer_start": "0"}]}, "expected int"),
        ("Who?", "found 'Who?' for 'question'"),
    ],
)
def test_squad_questions_that_do_not_fit_are_named_or_counted(tmp_path, bad, expected):
    path = squad(tmp_path / "a.json", question(), bad)
    text = message(read_squad, path)
    assert "a.json, data[0].paragraphs[0].qas[1]" in text and expected in text
    examples, n_skipped = read_squad(path, skip_bad=True)
    assert len(examples) == 1 and n_skipped == 1


def test_squad_says_where_a_misplaced_answer_stands(tmp_path):
    assert "it stands at 18" in message(
        read_squad, squad(tmp_path / "a.json", question(answers=[(17, "Bea")]))
    )


def test_questions_to_be_answered_need_no_answers(tmp_path):
    path = squad(tmp_path / "a.json", {"question": "Who?"}, question("When?", [(1, "Anna")]))
    examples, _ = read_squad(path, answered=False)
    assert [(e["question"], e["answers"]) for e in examples] == [("Who?", []), ("When?", [])]


def test_squad_files_of_another_shape(tmp_path):
    assert "not JSON" in message(read_squad, write(tmp_path / "a.json", "{"))
    assert "'data'" in message(read_squad, write(tmp_path / "b.json", "[]"))
    assert "data[0]: found 'nothing' for 'paragraphs'" in message(
        read_squad, write(tmp_path / "c.json", '{"data": [{}]}')
    )
    assert "no usable question" in message(read_squad, squad(tmp_path / "d.json"))
    assert "for 'context', expected str" in message(read_squad, squad(tmp_path / "e.json", context=None))
