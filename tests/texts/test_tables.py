"""Labelled files: what each format gives; each bad row is named with its line, or skipped and counted."""

import gzip
import json
import time

import pytest

from minilm.plumbing.errors import UserError
from minilm.texts.tables import read_aligned, read_conll, read_squad, read_table, usable

FIELDS, PAIR = ("text", "label"), ("source", "target")
GOOD = '{"text":"sun","label":"good"}'


def test_what_is_usable_is_made_and_the_rest_counted_or_raised(message, capsys):
    def make(a, b):
        if a == b:
            raise UserError(f"a tie of {a}")
        return a - b

    assert usable(make, [(5, 2), (4, 3)], "f", "things", skip_bad=False) == [3, 1]
    assert capsys.readouterr().out == "", "nothing is left out"
    assert usable(make, [(5, 2), (4, 4), (4, 3), (1, 1)], "f", "things", skip_bad=True) == [3, 1]
    assert capsys.readouterr().out == "f: left out 2 examples (--skip-bad)\n"
    assert message(usable, make, [(5, 2), (4, 4)], "f", "things", skip_bad=False) == "a tie of 4"
    assert message(usable, make, [(4, 4)], "f", "things", skip_bad=True) == "f: no things (1 skipped)"


@pytest.mark.parametrize("name, text, rows", [
    ("quotes.tsv", 'He said "no\tbad\n\n  5" wide \t x\r\n', [('He said "no', "bad"), ('5" wide', "x")]),
    ("long.tsv", "sun " * 50_000 + "\tgood", [("sun " * 49_999 + "sun", "good")]),
    ("header.tsv", "id\tLabel\tText\n7\tbad\train\n8\tgood\tsun\n", [("rain", "bad"), ("sun", "good")]),
    ("csv.tsv", 'text\tlabel\n"a ""b"" c"\tgood\n"d"\t"""e"""\n', [('a "b" c', "good"), ('"d"', '"e"')]),
    ("r.tsv", '"text"\t"label"\n"a ""b"" c"\t"good"\n"d\te"\t3\n', [('a "b" c', "good"), ("d\te", "3")]),
    ("talk.tsv", '"Yes"\t"Sim"\n"No" he said\tx\n', [('"Yes"', '"Sim"'), ('"No" he said', "x")]),
    ("excel.csv", "Text;Label\nsun, rain;good\n\"a;b\";bad\n", [("sun, rain", "good"), ("a;b", "bad")]),
    ("pt.csv", "Rótulo;Texto\nbom;sol, mar\nruim;chuva\n", [("sol, mar", "bom"), ("chuva", "ruim")]),
    ("pt.jsonl", '{"texto": "o", "rotulo": "b"}\n{"text": "a", "classe": 3}', [("o", "b"), ("a", "3")]),
    ("own.csv", "classe,id,texto,text,label\n7A,1,no,sun,good\n", [("sun", "good")]),
    ("own.jsonl", '{"classe": "7A", "text": "sun", "label": "x"}', [("sun", "x")]),
    ("blank.csv", "\n\ntext;label\nsun, rain;good\n", [("sun, rain", "good")]),
    ("capitals.tsv", '"Text"\t"Label"\n"sun"\t"good"\n', [("sun", "good")]),
    ("literal.csv", 'text,label\n"""a """"b"""" c""",good\n', [('"a ""b"" c"', "good")]),
    ("in.tsv", 'he wrote "text"\tx\n"No" he\ty\n', [('he wrote "text"', "x"), ('"No" he', "y")]),
    ("r.csv", '"";"text";"label"\n"1";"sun";"good"\n', [("sun", "good")]),
    ("lines.csv", '"a; b\nmore, text",good\nc,bad\n', [("a; b\nmore, text", "good"), ("c", "bad")]),
    ("note.csv", 'text;label;"note, more"\nsun;good;1\n', [("sun", "good")]),
    ("bare.csv", "sun;good\nrain, more;bad\n", [("sun", "good"), ("rain, more", "bad")]),
    ("commas.csv", "a;b,good\nc;d,bad\n", [("a;b", "good"), ("c;d", "bad")]),
    ("both.tsv", "Text\tlabel\nsun\tgood\ntext\tLabel\nrain\tbad\n", [("sun", "good"), ("rain", "bad")]),
    ("later.tsv", "a\tb\ntext\tlabel\nid\tscore\n", [("a", "b"), ("text", "label"), ("id", "score")]),
    ("twice.csv", "text,label,text\nfirst,x,second\n", [("first", "x")]),
    ("no_header.csv", "one,two\nthree,four\n", [("one", "two"), ("three", "four")]),
    ("packed.tsv.gz", gzip.compress(b"sun\tgood\n", mtime=0), [("sun", "good")]),
    ("a.jsonl", '{"label": 3, "text": "sun"}\n{"text": "a", "label": 1.5}', [("sun", "3"), ("a", "1.5")]),
])  # fmt: skip
def test_tables_are_read(write, name, text, rows):
    assert read_table(write(name, text), FIELDS) == rows


@pytest.mark.parametrize("name, text, fields, rows", [
    ("quoted.tsv", '"prompt"\t"response"\n"a"\t"b, c"\n', PAIR, [("a", "b, c")]),
    ("pair.tsv", "response\tprompt\nA: y\tx\n", PAIR, [("x", "A: y")]),
    ("pair.jsonl", '{"prompt":"x","response":"A: y"}', PAIR, [("x", "A: y")]),
    ("own.tsv", "chosen\tprompt\ny\tx\n", ("prompt", "chosen"), [("x", "y")]),
    # where one column is wanted, a header alone tells that semicolons separate
    ("one.csv", "text;label\nsun;good\n", ("text",), [("sun",)]),
    ("spaces.csv", "id ; Text\n1;sun\n", ("text",), [("sun",)]),
    ("no_header.csv", "texts; or not\nsun\n", ("text",), [("texts; or not",), ("sun",)]),
])  # fmt: skip
def test_a_prompt_and_its_response_or_one_column_are_read(write, name, text, fields, rows):
    assert read_table(write(name, text), fields) == rows


@pytest.mark.parametrize("name, text, fields, told", [
    ("half.csv", "text,mood\nsun,good\n", FIELDS, "expected ('text', 'label'); rename the columns"),
    ("half.tsv", "sentence\tlabel\nsun\tgood\n", FIELDS, "line 1: found the header ['sentence', "),
    ("one.csv", "review;label\nsun;x\n", ("text",), "rename the columns"),
    ("pair.csv", "question,answer\nWho?,Ana\n", PAIR, "found the header ['question', 'answer']"),
    ("par.tsv", "Pergunta\tResposta\nQuem?\tAna\n", PAIR, "found the header ['Pergunta', 'Resposta']"),
    ("in.tsv", "título\tcomentario\nSol\tbom\n", FIELDS, "found the header ['título', 'comentario']"),
    ("out.csv", "Frase1,sentença\nSol,bom\n", FIELDS, "found the header ['Frase1', 'sentença']"),
    ("two.tsv", "text\tlabel\nsun\tgood\nlabel\ttext\nbad\train\n", FIELDS,
     "two.tsv, line 3: a second header, in another order: ['label', 'text']"),
])  # fmt: skip
def test_a_header_of_other_columns_is_no_example(write, message, name, text, fields, told):
    assert told in message(read_table, write(name, text), fields, skip_bad=True)


MANY = [(f"text {i} is long", "xyz"[i % 3]) for i in range(30)]


@pytest.mark.parametrize("rows, expected", [
    ([("review", "sentiment"), *MANY], "line 1: found the header ['review', 'sentiment'], expected"),
    ([("id", "review", "sentiment"), *((1, *row) for row in MANY)], "found the header ['id', 'review',"),
    ([("contents", "verdict"), *MANY], "only the first row has the label 'verdict'; unless"),
    ([(label, text) for text, label in MANY[:7]], "3 different texts, 7 different labels in 7 rows; unless"),
    ([(text, f"{label} {text}") for text, label in MANY],
     "30 different labels in 30 rows; unless the columns are text, label, in"),
])  # fmt: skip
def test_a_header_of_other_names_and_columns_in_another_order_are_not_learnt(write, message, rows, expected):
    lines = "".join("\t".join(map(str, row)) + "\n" for row in rows)
    assert expected in message(read_table, write("a.tsv", lines), FIELDS, skip_bad=True)


def test_columns_that_are_named_or_hold_numbers_may_have_what_labels_they_want(write, message):
    lines = "".join(f"{label} {text}\t{label}\n" for text, label in MANY)
    assert len(read_table(write("a.tsv", "label\ttext\n" + lines), FIELDS)) == 30, "one example a class"
    scores = "".join(f"a {i}\tb\t{i / 7:.3f}\n" for i in range(30))
    assert len(read_table(write("b.tsv", scores), ("text_a", "text_b", "label"))) == 30
    assert len(read_table(write("c.tsv", "Sunny\tgood\n" + scores.replace("\tb", "")), FIELDS)) == 31


def test_of_three_columns_the_last_is_the_label_and_both_others_are_the_text(write):
    rows = [("always the same", f"text {i}", "xyz"[i % 3]) for i in range(30)]
    path = write("a.tsv", "\n".join("\t".join(row) for row in rows))
    assert read_table(path, ("text_a", "text_b", "label")) == rows


def test_a_column_to_spare_may_come_last(write, message):
    two, three = write("a.tsv", "sun\tgood\nrain\tbad\n"), write("b.tsv", "sun\tgood\t7\nrain\tbad\t8\n")
    for path in (two, three):
        assert read_table(path, FIELDS, spare=("id",)) == [("sun", "good"), ("rain", "bad")]
    assert "found 3 columns, expected 2" in message(read_table, three, FIELDS)


def test_csv_quotes_hold_commas_quotes_and_lines(write, message):
    path = write("a.csv", 'text,label\n"a, ""b""\nc",x\n\nd,y,z\n')
    assert read_table(path, FIELDS, skip_bad=True) == [('a, "b"\nc', "x")]
    assert "line 5: found 3 columns, expected 2" in message(read_table, path, FIELDS), "lines, not rows"


@pytest.mark.parametrize("text", ['a,x\n\n"b,y\nc,z\n', 'a,x\n\n"b,y\nc,"z"\n'])
def test_a_quote_never_closed_is_named_where_it_opens(write, message, text):
    text = message(read_table, write("a.csv", text), FIELDS, skip_bad=True)
    assert "a.csv, line 3: " in text and "quote" in text, "what it has swallowed cannot be skipped"


@pytest.mark.parametrize("name, good, bad, expected", [
    ("a.tsv", "sun\tgood", "\tgood", "'text' is empty; expected text, label"),
    ("a.csv", "sun,good", '"  ",good', "'text' is empty"),
    ("a.jsonl", GOOD, '{"text":5,"label":"g"}', "'text' is 5, expected a str"),
    ("a.jsonl", GOOD, '{"label":"g"}', "no field 'text'"),
    ("a.jsonl", GOOD, '{"text":"sun","label":-1}', "the label '-1' may mean no label"),
    ("a.jsonl", GOOD, '{"text":"sun","label":NaN}', "the label 'nan' may mean no label"),
    ("a.jsonl", GOOD, '{"text":"sun","label":-1.0}', "the label '-1.0' may mean no label"),
    ("a.tsv", "sun\tgood", "alone", "found 1 columns, expected 2 (with text, label)"),
    ("a.tsv", "sun\tgood", "a\tb\tc", "found 3 columns, expected 2 (with text, label)"),
    ("a.csv", "sun,good", "sun;good", "separated by semicolons?"),
])  # fmt: skip
def test_a_bad_row_is_an_error_or_counted(write, message, name, good, bad, expected):
    path = write(name, f"{good}\n\n{bad}\n{good}\n")
    text = message(read_table, path, FIELDS)
    assert f"{name}, line 3: " in text and expected in text
    assert ("semicolons" in text) == ("semicolons" in expected)
    assert read_table(path, FIELDS, skip_bad=True) == [("sun", "good")] * 2


def test_tables_without_rows_or_of_another_kind(tmp_path, write, message):
    empty = write("a.tsv", "text\tlabel\n")
    assert "no rows of text, label (0 skipped)" in message(read_table, empty, FIELDS)
    assert "(2 skipped)" in message(read_table, write("b.tsv", "a\nb\n"), FIELDS, skip_bad=True)
    assert ".tsv, .csv, .jsonl" in message(read_table, write("a.xlsx", "x"), FIELDS)
    for absent in (tmp_path / "absent.xlsx", str(tmp_path / "absent.tsv")):
        assert "no such file or folder" in message(read_table, absent, FIELDS)


def test_aligned_files_pair_line_with_line(write, message):
    source, target = write("a.en", "The cat.\n\n The dogs. \n"), write("a.pt", "O gato.\r\n\r\nOs cães.")
    assert read_aligned(source, target) == [("The cat.", "O gato."), ("The dogs.", "Os cães.")]
    assert "have 3 and 2 lines" in message(read_aligned, source, write("b.pt", "um\ndois\n"))
    shifted = write("c.pt", "um\n\n\n")
    assert "line 3: 'target' is empty" in message(read_aligned, source, shifted)
    assert read_aligned(source, shifted, skip_bad=True) == [("The cat.", "um")]


def test_conll_takes_the_first_and_the_last_column(write):
    text = "-DOCSTART- -X- O O\n\nAnna NNP I-NP B-PER\nran VBD I-VP O\n\n \nHome\tNN\tI-NP\tO\n# # O O\n"
    sentences = [(["Anna", "ran"], ["B-PER", "O"]), (["Home", "#"], ["O", "O"]), (["1"], ["O"])]
    assert read_conll(write("a.conll", text + "\n1 x y O")) == sentences


@pytest.mark.parametrize("text, sentence", [
    ("1\u00a0000\tB-NUM\nNew York\tB-LOC", (["1\u00a0000", "New York"], ["B-NUM", "B-LOC"])),
    ("1\u00a0000  B-NUM\nran   O", (["1\u00a0000", "ran"], ["B-NUM", "O"])),
    ("# id 3\nAna\tx \t NOUN\n# text = Ana ran\nran\t\tx\tVERB", (["Ana", "ran"], ["NOUN", "VERB"])),
    ("# a b c\n# O\nAna B\n", (["#", "Ana"], ["O", "B"])),
])  # fmt: skip
def test_conll_columns_are_torn_at_tabs_or_spaces_alone_and_comments_passed_over(write, text, sentence):
    assert read_conll(write("a.conll", text)) == [sentence]


@pytest.mark.parametrize("text", ["O\tAna\nO\tran\nO\tB\n", "1\tAna\tNOUN\t_\n2\tran\tVERB\t_\n"])
def test_conll_columns_in_another_order_are_not_learnt(write, message, text):
    assert "expected the word in the first column" in message(read_conll, write("a.conll", text))


@pytest.mark.reliability
def test_conll_many_spaces_take_no_longer_than_many_letters(write):
    began, word = time.process_time(), "New" + " " * 10**5 + "York"
    assert read_conll(write("a.conll", f"Ana\tO\n{word} \t B")) == [(["Ana", word], ["O", "B"])]
    assert time.process_time() - began < 1


def test_conll_errors_name_the_line(write, message, capsys):
    for n, text in ((3, "Anna B\n\nran\n"), (1, "ran\n\nAnna B\n")):
        expected = f"a.txt, line {n}: found 1 columns ['ran'], expected 2, the word first, the tag last"
        assert expected in message(read_conll, write("a.txt", text))
    assert "no sentences" in message(read_conll, write("b.txt", "\n\n"))
    path = write("c.txt", "Anna B\nran O\n\nBea x B\nran O\n\nCara B\n")
    assert "c.txt, line 4: found 3 columns ['Bea', 'x', 'B'], expected 2" in message(read_conll, path)
    left = [(["Anna", "ran"], ["B", "O"]), (["Cara"], ["B"])]
    assert read_conll(path, skip_bad=True) == left
    assert "left out 1 examples" in capsys.readouterr().out, "the whole sentence, counted once"
    left = read_conll(write("d.txt", "Anna\nran\n\nHome\n"), tagged=False)
    assert [words for words, _ in left] == [["Anna", "ran"], ["Home"]]


CONTEXT = "Anna found a key. Bea found the key."


@pytest.fixture
def squad(write):
    """A function that writes a SQuAD file of one paragraph with these questions."""

    def write_squad(*questions, context=CONTEXT):
        paragraph = {"context": context, "qas": list(questions)}
        return write("a.json", json.dumps({"data": [{"title": "t", "paragraphs": [paragraph]}]}))

    return write_squad


def question(text="Who?", answers=((0, "Anna"),), **more):
    return {"question": text, "answers": [{"text": a, "answer_start": start} for start, a in answers], **more}


def test_squad_of_both_versions(squad):
    path = squad(question(answers=[(0, "Anna"), (18, "Bea")], id="q1"), question("Why?", is_impossible=True))
    assert read_squad(path) == [(CONTEXT, "Who?", [("Anna", 0), ("Bea", 18)]), (CONTEXT, "Why?", [])]


@pytest.mark.parametrize("bad, expected", [
    (question(answers=[(1, "Anna")], id="q7"), "(id q7): answer 'Anna': at 1 the context has 'nna '"),
    (question(answers=[(17, "Bea")]), "it is at 18"),
    (question(answers=[(0, "Cara")]), "answer 'Cara': at 0 the"),
    (question(answers=[(-8, "the")]), "answer 'the': at -8 the"),
    (question(answers=[(0, "")]), "answer '': at 0 the"),
    (question(answers=[(0, None)]), "expected question, answers (SQuAD JSON)"),
    (question(answers=[("0", "Anna")]), "expected question, answers (SQuAD JSON)"),
    (question(answers=[]), 'no answer, nor "is_impossible": true'),
    (question(text=" "), "an empty question"),
    (question(is_impossible=1), "'is_impossible' is 1, expected true or false"),
    ({"answers": []}, "found {'answers': []}, expected question"),
    ("Who?", "found 'Who?', expected question"),
])  # fmt: skip
def test_squad_questions_that_do_not_fit_are_named_or_counted(squad, message, bad, expected):
    path = squad(question(), bad)
    text = message(read_squad, path)
    assert "a.json, data[0].paragraphs[0].qas[1]" in text and expected in text
    assert read_squad(path, skip_bad=True) == [(CONTEXT, "Who?", [("Anna", 0)])]


def test_questions_to_be_answered_need_no_answers(squad):
    examples = read_squad(squad({"question": "Who?"}, question("When?", [(1, "Anna")])), answered=False)
    assert examples == [(CONTEXT, "Who?", []), (CONTEXT, "When?", [])]


def test_squad_files_of_another_shape(write, squad, message):
    for text, expected in {
        "{": "not JSON",
        "[]": "a.json: expected a JSON object",
        "{}": "a.json: KeyError('data'); expected data, paragraphs, context, qas",
        '{"data": [{}]}': "a.json, data[0]: KeyError('paragraphs')",
    }.items():
        assert expected in message(read_squad, write("a.json", text), skip_bad=True)
    assert "no usable question" in message(read_squad, squad())
    assert "a.json, data[0].paragraphs[0]: TypeError" in message(read_squad, squad(context=None))


def test_squad_as_json_lines_is_said_to_be_that(write, message):
    line = json.dumps(dict(context=CONTEXT, **question()))
    assert "expected one object" in message(read_squad, write("a.jsonl", f"{line}\n{line}\n"))
    assert "expected data, paragraphs" in message(read_squad, write("b.jsonl", line))


@pytest.mark.parametrize(("n", "n_label", "refused"), [
    (12, 10, False), (12, 11, True), (30, 15, False), (30, 16, True), (40, 20, False), (40, 21, True),
])  # fmt: skip
def test_so_many_labels_are_texts(write, message, n, n_label, refused):
    path = write("a.tsv", "".join(f"text {i}\tlabel {min(i, n_label - 1)}\n" for i in range(n)))
    if refused:
        assert f"{n_label} different labels in {n} rows" in message(read_table, path, FIELDS)
    else:
        assert len(read_table(path, FIELDS)) == n


def test_a_first_row_whose_label_stands_alone_is_a_header_where_labels_repeat(write, message):
    def table(name, first, n):
        rows = [first, *((f"text {i}", "xy"[i % 2]) for i in range(n))]
        return write(name, "".join(f"{text}\t{label}\n" for text, label in rows))

    assert "only the first row has" in message(read_table, table("a.tsv", ("one", "two"), 5), FIELDS)
    assert len(read_table(table("b.tsv", ("one", "two"), 4), FIELDS)) == 5, "3 labels in 5 rows"
    assert len(read_table(table("c.tsv", ("one text", "two"), 5), FIELDS)) == 6, "no name of a column"
    assert len(read_table(table("d.tsv", ("one", "x"), 5), FIELDS)) == 6
