"""Examples from the user's files: tables, aligned files, CoNLL columns and SQuAD JSON.

Every reader returns a list of examples, each a tuple with the label or answer last. An example that it cannot
use is an error that names file and line; with `skip_bad=True` it is skipped, and the reader prints how many.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

from ..plumbing.errors import UserError
from ..plumbing.folders import json_object
from .files import kind, read_jsonl, read_lines, read_text, string_field

SUFFIXES = (".tsv", ".csv", ".jsonl")
OTHER_NAMES = dict(prompt="source", response="target")  # of columns -> ours: see `own_names`
OTHER_NAMES |= dict(texto="text", rótulo="label", rotulo="label", classe="label")  # Portuguese
# A first line that has only such names is a header.
HEADER = re.compile(
    "text|sentence|review|comment|message|tweet|title|label|class|category|sentiment|topic|rating|score|id|index|"
    "question|answer|query|input|output|source|target|prompt|response|instruction|premise|hypothesis|sentence[12]|"
    "pergunta|resposta|entrada|sa[ií]da|origem|destino|fonte|alvo|frase[12]?|senten[cç]a|t[ií]tulo|mensagem|"
    "coment[aá]rio|categoria|sentimento|avalia[cç][aã]o|nota"
)
csv.field_size_limit(2**31 - 1)  # a cell may hold a long document


def usable(make: Callable, parts: Iterable[tuple], path, what: str, skip_bad: bool) -> list[tuple]:
    """Return `make(*part)` for each part; with `skip_bad`, skip those with a UserError and print how many."""
    made, n_skipped = [], 0
    for part in parts:
        try:
            made.append(make(*part))
        except UserError:
            if not skip_bad:
                raise
            n_skipped += 1
    if not made:
        raise UserError(f"{path}: no {what} ({n_skipped} skipped)")
    if n_skipped:
        print(f"{path}: left out {n_skipped:,} examples (--skip-bad)")
    return made


def read_table(path: str | Path, fields: Sequence[str], skip_bad=False, spare=(), make=None) -> list[tuple]:
    """Return the rows of a `.tsv`, `.csv`, `.jsonl` or `.gz` of these, each a tuple of the `fields`.

    A first line that names all the fields is a header: then columns may be in any order, and others are
    ignored; without one, `spare` may come last. UserError unless it is a table. `make` replaces `row`.
    """
    if kind(path) not in SUFFIXES and Path(path).exists():
        raise UserError(f"{path}: expected a table: {', '.join(SUFFIXES)}, or .gz of these")
    parts = columns(path, fields, spare)
    if kind(path) == ".jsonl":
        parts = ((at, own_names([*found], fields), [*found.values()]) for at, found in read_jsonl(path))
    return usable(partial(make or row, fields), parts, path, f"rows of {', '.join(fields)}", skip_bad)


def own_names(names: list[str], fields: Sequence[str]) -> list[str]:
    """Return the column names with those in `OTHER_NAMES` replaced by ours, unless all of ours are there."""
    ours = [OTHER_NAMES[name] if OTHER_NAMES.get(name) in fields else name for name in names]
    return names if {*fields} <= {*names} else ours


def columns(path: str | Path, fields: Sequence[str], spare: Sequence[str]) -> Iterator[tuple]:
    """Yield (where, names, cells) for each row of a `.csv` or `.tsv` after the header, if there is one."""
    text, longer = read_text(path), (*fields, *spare)
    how = csv_format(text[: 2**20].lstrip(), kind(path) == ".tsv", [*fields, *OTHER_NAMES], len(fields))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, **how)
    where, names, in_order = f"{path}, line 1", None, []
    try:
        for cells in reader:
            cells = [unquoted(cell) for cell in cells] if reader.dialect.quoting == csv.QUOTE_NONE else cells
            header = own_names([cell.strip().lower() for cell in cells], fields)
            is_first = names is None and any(header)
            if is_first and set(fields) <= set(header):
                names = header
            elif is_first and (set(fields) & set(header) or all(map(HEADER.fullmatch, header))):
                raise UserError(f"{where}: found the header {cells}, expected {fields}; rename the columns")
            elif type(names) is list and header != names and {*header} == {*names}:
                raise UserError(f"{where}: a second header, in another order: {header}")
            elif any(header) and header != names:  # not the second header of two joined files
                names = names or (longer if len(cells) == len(longer) else fields)
                if names == fields and len(cells) == len(fields):
                    in_order.append(cells)
                yield where, names, cells
            where = f"{path}, line {reader.line_num + 1}"  # the line where the next row begins
    except csv.Error as error:
        raise UserError(f"{where}: {error}; is a quote opened here and never closed?") from None
    if fields[-1] == "label" and in_order:
        check_order(path, fields, in_order)


def csv_format(start: str, is_tsv: bool, known: Sequence[str], n_wanted: int) -> dict:
    """Return csv.reader's options for a table with this `start`: delimiter, and for a .tsv quotes (RFC 4180).

    A `.tsv` has quotes if a known name in its header has them, as from R with qmethod="double". A `.csv` has
    semicolons (as beside decimal commas) if its header has, or if commas do not divide its first row.
    """
    if is_tsv:
        is_quoted = any(f'"{name}"' in start.partition("\n")[0].lower().split("\t") for name in known)
        return dict(delimiter="\t", quoting=csv.QUOTE_MINIMAL if is_quoted else csv.QUOTE_NONE)
    by_comma, cells = (next(csv.reader(io.StringIO(start, newline=""), delimiter=d), []) for d in ",;")
    names = {cell.strip().lower() for cell in cells}
    is_row = {*known} & names or all(map(HEADER.fullmatch, names)) or len(by_comma) == 1 < n_wanted
    return dict(delimiter=";" if is_row and len(names) > 1 else ",")


def check_order(path: str | Path, fields: Sequence[str], rows: list[Sequence[str]]) -> None:
    """Raise UserError if rows without a header seem to have no label last, or a header of unknown names."""
    counts, n_text, first = Counter(cells[-1] for cells in rows), len({(*c[:-1],) for c in rows}), rows[0]
    n_name = sum(not re.fullmatch(r"[-+.\d]+", label) for label in counts)  # numeric labels need not repeat
    expected = f"; unless the columns are {', '.join(fields)}, in this order, the first line must name them"
    if n_text < len(counts) or n_name > max(10, len(rows) / 2):
        found = f"{n_text:,} different texts, {len(counts):,} different labels in {len(rows):,} rows"
        raise UserError(f"{path}: {found}{expected}")
    if counts[first[-1]] == 1 and len(counts) <= len(rows) / 2 and all(map(str.isidentifier, first)):
        raise UserError(f"{path}: only the first row has the label {first[-1]!r}{expected}")


def unquoted(cell: str) -> str:
    """Return a cell of a .tsv; if it is in quotes and has doubled quotes inside, undo both, as csv does."""
    is_quoted = '""' in cell[1:-1] and re.fullmatch('"(?:[^"]|"")*"', cell)
    return cell[1:-1].replace('""', '"') if is_quoted else cell


def row(fields: Sequence[str], where: str, names, cells: Sequence, is_number=False) -> tuple[str, ...]:
    """Return the fields of one row; UserError if one is missing or empty. A label may be a number."""
    if len(cells) != len(names):
        hint = "; separated by semicolons? Add a header" if len(cells) == 1 and ";" in cells[0] else ""
        expected = f"{len(names)} (with {', '.join(fields)}){hint}"
        raise UserError(f"{where}: found {len(cells)} columns, expected {expected}")
    record = dict(zip(names[::-1], cells[::-1], strict=True))  # of two columns with one name, the first
    if isinstance(record.get("label"), (int, float)):
        record["label"] = str(record["label"])
    texts = tuple(string_field(record, field, where).strip() for field in fields)
    if "" in texts:
        raise UserError(f"{where}: {fields[texts.index('')]!r} is empty; expected {', '.join(fields)}")
    if fields[-1] == "label" and texts[-1].lower() in ("-1", "-1.0", "nan") and not is_number:
        raise UserError(f"{where}: the label {texts[-1]!r} may mean no label: leave the row out or rename it")
    return texts


def read_aligned(source: str | Path, target: str | Path, skip_bad=False) -> list[tuple]:
    """Return the pairs of lines of two aligned files; a pair with one blank line is a bad row."""
    both, fields = f"{source} and {target}", ("source", "target")
    a, b = ([line for _, line in read_lines(path)] for path in (source, target))
    if len(a) != len(b):
        raise UserError(f"{both} have {len(a)} and {len(b)} lines; each line needs its translation")
    pairs = enumerate(zip(a, b, strict=True), start=1)
    parts = ((f"{both}, line {n}", fields, pair) for n, pair in pairs if "".join(pair).strip())
    return usable(partial(row, fields), parts, both, "pairs of lines", skip_bad)


def read_conll(path: str | Path, skip_bad=False, tagged: bool = True) -> list[tuple]:
    """Return the sentences of a CoNLL file, each (words, tags), from its first and last columns.

    Tabs separate columns if the first line has one, else spaces and tabs do; a no-break space is part of a
    word. A blank line ends a sentence. `-DOCSTART-` lines are skipped, and "# ..." lines with another number
    of columns. A sentence is bad unless each line has as many as the file's first: with `tagged` at least 2.
    """
    lines = [(at, line.strip(" \t")) for at, line in read_lines(path) if line[:10] != "-DOCSTART-"]
    first = next((line for _, line in lines if line.strip() and line[0] != "#"), "")
    columns = re.compile(r"(?<! ) *\t[\t ]*" if "\t" in first else "[ \t]+")
    n_column = max(1 + tagged, len(columns.split(first)))
    both = [(at, line, columns.split(line) if line.strip() else []) for at, line in lines]
    lines = [(at, cells) for at, line, cells in both if len(cells) == n_column or line[:2] != "# "]

    def sentence(*words: tuple[str, list[str]]) -> tuple[list[str], list[str]]:
        """Return the words and the tags; UserError for a line with another number of columns."""
        for where, cells in words:
            if len(cells) != n_column:
                order = "the word first, the tag last, as in the first line" if tagged else "the word first"
                raise UserError(f"{where}: found {len(cells)} columns {cells}, expected {n_column}, {order}")
        return [cells[0] for _, cells in words], [cells[-1] for _, cells in words]

    sentences = (words for is_text, words in groupby(lines, lambda line: bool(line[1])) if is_text)
    found = usable(sentence, sentences, path, "sentences, a line for each word and its tag", skip_bad)
    words, tags = ({item for pair in found for item in pair[column]} for column in (0, 1))
    if len(tags) > len(words) or (tagged and all(first == "1" for (first, *_), _ in found)):
        told = f"{len(words):,} words such as {min(words)!r} and {len(tags):,} tags such as {min(tags)!r}"
        raise UserError(f"{path}: {told}; expected the word in the first column, its tag in the last")
    return found


def read_squad(path: str | Path, skip_bad=False, answered: bool = True) -> list[tuple]:
    """Return the examples of a SQuAD 1.1 or 2.0 file (Rajpurkar et al. 2016 and 2018).

    An example is (context, question, [(answer, place of its first character)]); [] if not `answered`.
    """
    whole, where, parts = json_object(read_text(path), path), str(path), []
    try:
        for i, article in enumerate(whole["data"]):
            where = f"{path}, data[{i}]"
            for j, paragraph in enumerate(article["paragraphs"]):
                where = f"{path}, data[{i}].paragraphs[{j}]"
                context = paragraph["context"] + ""  # raises a TypeError unless it is a string
                parts += [(f"{where}.qas[{k}]", context, qa) for k, qa in enumerate(paragraph["qas"])]
    except (KeyError, TypeError) as error:
        raise UserError(f"{where}: {error!r}; expected data, paragraphs, context, qas (SQuAD JSON)") from None
    return usable(partial(squad_example, answered), parts, path, "usable question", skip_bad)


def squad_example(answered: bool, where: str, context: str, asked: dict) -> tuple[str, str, list]:
    """Return the example of one question; UserError if an answer is not at its place in the context."""
    try:
        where += f" (id {asked['id']})" if "id" in asked else ""
        question, impossible = asked["question"].strip(), asked.get("is_impossible", False)
        if not isinstance(impossible, bool):
            raise UserError(f"{where}: 'is_impossible' is {impossible!r}, expected true or false")
        given = asked["answers"] if answered and not impossible else []
        answers = [(answer["text"], answer["answer_start"]) for answer in given]
        for answer, start in answers:
            if start < 0 or not answer or not context.startswith(answer, start):
                found = context[start : start + len(answer)] if start >= 0 else ""
                stands = f"; it is at {context.index(answer)}" if answer and answer in context else ""
                raise UserError(f"{where}: answer {answer!r}: at {start} the context has {found!r}{stands}")
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{where}: found {asked!r:.60}, expected question, answers (SQuAD JSON)") from None
    if not question or not (answers or impossible or not answered):
        none = 'no answer, nor "is_impossible": true, which says in SQuAD 2.0 that there is none'
        raise UserError(f"{where}: {none if question else 'an empty question; expected one'}")
    return context, question, answers
