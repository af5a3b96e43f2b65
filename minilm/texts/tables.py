"""Labelled examples from the user's files: tables, aligned files, CoNLL columns and SQuAD JSON.

Every reader names the file and the line of what it cannot use. With `skip_bad=True` such rows are left out
and counted instead, which is why these readers return `(examples, n_skipped)`.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..plumbing.errors import UserError
from .files import kind, read_jsonl, read_text, string_field

SUFFIXES = (".tsv", ".csv", ".jsonl")
Rows = tuple[list[tuple[str, ...]], int]  # rows, n_skipped
Record = tuple[str, Sequence[str] | UserError]  # where, and the cells of the fields or what is wrong there


def read_table(path: str | Path, fields: tuple[str, ...], skip_bad: bool = False) -> Rows:
    """Return (rows, n_skipped): each row a tuple of strings in the order of `fields`, such as (text, label).

    `.tsv` (a tab separates, quotes mean nothing), `.csv` (quotes as in RFC 4180) or `.jsonl`, also as `.gz`.
    Where the first line names all the fields it is a header: columns may stand in any order, and further ones
    are passed over. Otherwise the columns are the fields, in order. A row is bad with another number of
    columns, or with nothing in one of the fields. Raises UserError for bad rows unless `skip_bad`; always for
    a quote never closed, a line that is not JSON, a header that names some of the fields only, and no rows.
    """
    path = Path(path)
    if kind(path) not in SUFFIXES:
        found = kind(path) or "(no suffix)"
        raise UserError(f"{path}: a table of kind {found!r}; expected {', '.join(SUFFIXES)}, or .gz of these")
    records = _json_records(path, fields) if kind(path) == ".jsonl" else _column_records(path, fields)
    return _collect(records, fields, str(path), skip_bad)


def read_aligned(source_path: str | Path, target_path: str | Path, skip_bad: bool = False) -> Rows:
    """Return (rows, n_skipped) of two files whose lines belong together: each row (source, target).

    Lines blank in both files are passed over; blank in one is a bad row. Raises UserError where the files
    have different numbers of lines, and for bad rows unless `skip_bad`.
    """
    texts = (read_text(Path(path)).removesuffix("\n") for path in (source_path, target_path))
    sources, targets = (text.split("\n") for text in texts)
    if len(sources) != len(targets):
        raise UserError(
            f"{source_path} has {len(sources)} lines and {target_path} has {len(targets)}; "
            "each line needs the line that belongs to it"
        )
    both = f"{source_path} and {target_path}"
    records = (
        (f"{both}, line {number}", pair)
        for number, pair in enumerate(zip(sources, targets, strict=True), start=1)
        if any(side.strip() for side in pair)
    )
    return _collect(records, ("source", "target"), both, skip_bad)


def read_conll(path: str | Path, skip_bad: bool = False, tagged: bool = True) -> tuple[list[tuple], int]:
    """Return (sentences, n_skipped) of a CoNLL file; a sentence is (words, tags), its first and last columns.

    White space separates columns, a blank line ends a sentence, `-DOCSTART-` lines are passed over. All lines
    have as many columns as the first one, and with tags two or more. Raises UserError for another line unless
    `skip_bad`, which leaves its sentence out, and for a file without a sentence. Without `tagged` the tags
    are what stands in the last column, whatever it is.
    """
    sentences, n_skipped, n_column = [], 0, 0
    words, tags, is_bad = [], [], False
    for number, line in enumerate([*read_text(Path(path)).split("\n"), ""], start=1):
        columns = line.split()
        if not columns and words:
            n_skipped += is_bad
            sentences += [] if is_bad else [(words, tags)]
            words, tags, is_bad = [], [], False
        if not columns or columns[0] == "-DOCSTART-":
            continue
        n_column = n_column or len(columns)
        if len(columns) != n_column or len(columns) < (2 if tagged else 1):
            problem = _wrong_columns(f"{path}, line {number}", line, len(columns), n_column)
            if not skip_bad:
                raise problem
            is_bad = True
        words.append(columns[0])
        tags.append(columns[-1])
    if not sentences:
        raise UserError(f"{path}: no sentences ({n_skipped} skipped); expected lines of a word and its tag")
    return sentences, n_skipped


def _wrong_columns(where: str, line: str, n: int, n_first: int) -> UserError:
    """Return the error for a line of a CoNLL file."""
    if n == 1:
        return UserError(f"{where}: one column {line.strip()!r}, expected a word and a tag")
    return UserError(f"{where}: {n} columns {line.strip()!r}, where the first line has {n_first}")


def read_squad(path: str | Path, skip_bad: bool = False, answered: bool = True) -> tuple[list[dict], int]:
    """Return (examples, n_skipped) of a SQuAD 1.1 or 2.0 file (Rajpurkar et al. 2016 and 2018).

    An example is a dict: `context` and `question` (str), `answers` (list of (text, start in characters)) and
    `impossible` (bool; the answers are then empty). An answer must stand in the context at its offset, else
    the question is bad. Without `answered` nobody asks for answers, and all are left empty.
    """
    try:
        data = json.loads(read_text(Path(path)))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    examples, n_skipped = [], 0
    for context, question, where in _squad_questions(data, str(path)):
        try:
            examples.append(_squad_example(context, question, where, answered))
        except UserError:
            if not skip_bad:
                raise
            n_skipped += 1
    if not examples:
        raise UserError(f"{path}: no usable question ({n_skipped} skipped)")
    return examples, n_skipped


def _collect(records: Iterator[Record], fields: tuple[str, ...], path: str, skip_bad: bool) -> Rows:
    """Return (rows, n_skipped) of the records, stripped and checked for empty cells."""
    rows, n_skipped = [], 0
    for where, cells in records:
        problem = cells if isinstance(cells, UserError) else None
        if problem is None:
            row = tuple(cell.strip() for cell in cells)
            empty = [field for field, cell in zip(fields, row, strict=True) if not cell]
            if empty:
                problem = UserError(f"{where}: nothing in {empty[0]!r}; expected {', '.join(fields)}")
        if problem is None:
            rows.append(row)
        elif skip_bad:
            n_skipped += 1
        else:
            raise problem
    if not rows:
        raise UserError(f"{path}: no rows ({n_skipped} skipped); expected {', '.join(fields)}")
    return rows, n_skipped


def _json_records(path: Path, fields: tuple[str, ...]) -> Iterator[Record]:
    """Yield a record for each object; a label may also be a number."""
    for number, record in read_jsonl(path):
        where = f"{path}, line {number}"
        if isinstance(record.get("label"), (int, float)):
            record["label"] = str(record["label"])
        try:
            yield where, [string_field(record, field, where) for field in fields]
        except UserError as error:
            yield where, error


def _column_records(path: Path, fields: tuple[str, ...]) -> Iterator[Record]:
    """Yield a record for each row after the header, if there is one."""
    lines = _csv_lines(path) if kind(path) == ".csv" else _tsv_lines(path)
    order, n_columns = list(range(len(fields))), len(fields)
    for index, (number, cells) in enumerate(lines):
        where = f"{path}, line {number}"
        names = [cell.strip().lower() for cell in cells]
        if index == 0 and set(fields) <= set(names):
            order, n_columns = [names.index(field) for field in fields], len(names)
        elif index == 0 and set(fields) & set(names):
            raise UserError(f"{where}: found the header {names}, expected {list(fields)}; rename the columns")
        elif len(cells) != n_columns:
            expected = f"{n_columns} (with {', '.join(fields)})"
            hint = "; separated by semicolons? Use commas" if len(cells) == 1 and ";" in cells[0] else ""
            yield where, UserError(f"{where}: found {len(cells)} columns, expected {expected}{hint}")
        else:
            yield where, [cells[column] for column in order]


def _tsv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of the lines that are not blank."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, line.split("\t")


def _csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of the line where the row begins, cells) of the rows that are not blank."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(
                f"{path}, line {number}: {error}; is a quote opened here, never closed?"
            ) from None
        if any(cell.strip() for cell in cells):
            yield number, cells


def _member(record, field: str, kind_of: type, where: str):
    """Return `record[field]` where record is an object and the value of the kind; UserError otherwise."""
    if not isinstance(record, dict) or not isinstance(record.get(field), kind_of):
        found = repr(record.get(field, "nothing")) if isinstance(record, dict) else repr(record)
        raise UserError(f"{where}: found {found:.40} for {field!r}, expected {kind_of.__name__} (SQuAD JSON)")
    return record[field]


def _squad_questions(data: dict, path: str) -> Iterator[tuple[str, dict, str]]:
    """Yield (context, question object, where) for each question; `where` names its indices and its id."""
    for i, article in enumerate(_member(data, "data", list, path)):
        for j, paragraph in enumerate(_member(article, "paragraphs", list, f"{path}, data[{i}]")):
            where = f"{path}, data[{i}].paragraphs[{j}]"
            context = _member(paragraph, "context", str, where)
            for k, question in enumerate(_member(paragraph, "qas", list, where)):
                name = f" (id {question['id']})" if isinstance(question, dict) and "id" in question else ""
                yield context, question, f"{where}.qas[{k}]{name}"


def _squad_example(context: str, question: dict, where: str, answered: bool) -> dict:
    """Return the example of one question, its answers checked against the context."""
    text = _member(question, "question", str, where).strip()
    impossible = bool(question.get("is_impossible", False))
    answers = []
    for answer in [] if impossible or not answered else _member(question, "answers", list, where):
        span, start = _member(answer, "text", str, where), _member(answer, "answer_start", int, where)
        found = context[start : start + len(span)] if start >= 0 else ""
        if not span or found != span:
            stands = f"; it stands at {context.index(span)}" if span and span in context else ""
            raise UserError(f"{where}: answer {span!r} at {start}, where the context has {found!r}{stands}")
        answers.append((span, start))
    if not text or not (answers or impossible or not answered):
        raise UserError(f"{where}: {'no answer' if text else 'an empty question'}; expected both")
    return {"context": context, "question": text, "answers": answers, "impossible": impossible}
