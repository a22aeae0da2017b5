"""Tables in text as people have them: every dialect, and files in which a line is not what it seems."""

from __future__ import annotations

import csv
import datetime as dt
import io
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretune.data.ingest.sources import conll, dialect, read
from pretune.errors import DataError

ENCODINGS = ["utf-8", "UTF-8", "utf8", "U8", "utf-16", "utf-16-le", "utf_32", "gb18030", "cp1251"]
DELIMITERS = {",": ",", ";": ";", "tab": "\t", "|": "|"}
WORDS = st.text("абв xyz,;|'\"\t\n\r\u2028\x85#", max_size=10)


@pytest.fixture(scope="module")
def read_table(tmp_path_factory, ingest_params, write):
    """A function that writes the bytes of a file and reads it: (origin, values or problem, warning) of each record."""

    def read_file(name, content, **params):
        folder = tmp_path_factory.mktemp("table")
        write(folder / name, content)
        records = read.read(ingest_params(source=name, **params), lambda place: folder / place)
        return [(record.origin, record.problem or record.values, record.warning) for _, record in records]

    return read_file


@settings(max_examples=150)
@given(
    rows=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5),
    delimiter=st.sampled_from(sorted(DELIMITERS)),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(ENCODINGS),
    mark=st.booleans(),
    compression=st.sampled_from(["", ".gz", ".bz2", ".zst", ".xz"]),
)
def test_a_table_of_every_dialect_is_read_as_it_was_written(
    read_table, *, rows, delimiter, quoting, end, encoding, mark, compression
):
    """Delimiter, quotation, line end, encoding, byte order mark, compression: the same fields at the same lines.

    A carriage return that the writer did not quote is a problem of its row, or part of the end of its line.
    """
    text = io.StringIO()
    csv.writer(text, delimiter=DELIMITERS[delimiter], quoting=quoting, lineterminator=end).writerows(
        [("text", "label"), *rows]
    )
    content = text.getvalue().encode(encoding, "replace")
    if mark and encoding.lower().startswith("u") and encoding not in {"utf-16", "utf_32"}:
        content = "\ufeff".encode(encoding) + content
    records = read_table(f"a.csv{compression}", content, encoding=encoding, delimiter=delimiter)
    lines = [1 + sum(field.count("\n") for field in row) for row in rows]
    assert [origin for origin, *_ in records] == [f"a.csv{compression}:{2 + sum(lines[:n])}" for n in range(len(rows))]
    for row, (_, values, _) in zip(rows, records, strict=True):
        fields = [field.encode(encoding, "replace").decode(encoding) for field in row]
        if values == "a carriage return outside quotation marks":
            assert any("\r" in field for field in row)
        else:
            assert (values["text"], values["label"].rstrip("\r")) == (fields[0], fields[1].rstrip("\r"))


@given(st.lists(st.sampled_from(['a,"b', "a,b", 'a,"b,c"', 'a,b "c" d', '"a,b', 'a,"b"']), max_size=12))
def test_every_line_with_a_stray_quotation_mark_is_kept_or_reported(read_table, lines):
    """A mark that is not closed is its line's problem alone, unless a later line closes it as the format says."""
    records = read_table("a.csv", "text,label\n" + "".join(line + "\n" for line in lines))
    covered = []
    for origin, values, _ in records:
        start = int(origin.split(":")[1])
        inner = sum(value.count("\n") for value in values.values()) if isinstance(values, dict) else 0
        covered += range(start, start + inner + 1)
    assert covered == list(range(2, len(lines) + 2))


def test_an_unclosed_quotation_mark_swallows_nothing(read_table):
    """Four of 400 lines begin a quotation that does not end: four bad lines, 396 rows."""
    bad = {20, 70, 200, 309}
    lines = [f"{n % 2},{'«' if n in bad else ''}sentence {n}".replace("«", '"') for n in range(400)]
    records = read_table("a.csv", "label,text\n" + "\n".join(lines) + "\n")
    problems = {origin: content for origin, content, _ in records if isinstance(content, str)}
    assert set(problems) == {f"a.csv:{n + 2}" for n in bad}
    assert all("quotation mark" in problem for problem in problems.values())
    rows = [content for _, content, _ in records if isinstance(content, dict)]
    assert [row["text"] for row in rows] == [f"sentence {n}" for n in range(400) if n not in bad]


def test_a_field_over_many_lines_is_kept_with_a_warning_where_it_begins(read_table):
    """It is what the format says, and what an unclosed mark looks like."""
    text = "\n".join(f"line {n}" for n in range(30))
    records = read_table("a.csv", f'text,label\n"{text}",1\nshort,0\n')
    assert records[0][:2] == ("a.csv:2", {"text": text, "label": "1"})
    assert "20 lines" in records[0][2]
    (row,) = read_table("a.csv", 'text,label\n"Great,pos\nGood,pos\nBad,neg\nA 12",neg\n')
    assert row[2] == "a field that may hold whole rows"
    assert records[1] == ("a.csv:32", {"text": "short", "label": "0"}, "")


def test_columns_without_a_name_are_numbered(read_table):
    """A spreadsheet adds empty columns; nobody asks for them. Those beyond the header are left out while empty."""
    assert read_table("a.csv", "v1,v2,,,\nham,hello,,,\n")[0][1] == {
        "v1": "ham",
        "v2": "hello",
        "3": "",
        "4": "",
        "5": "",
    }
    assert read_table("a.csv", "v1,v2\nham,hello,,\n")[0][1] == {"v1": "ham", "v2": "hello"}
    assert read_table("a.csv", "v1,v2\nham,hello,more\n")[0][1] == "more fields than columns"


def test_a_first_line_of_excel_names_the_delimiter(read_table):
    """It is no row, and what follows has its own line numbers."""
    (record,) = read_table("a.csv", "sep=;\r\ntext;score\r\nhello, you;39,1\r\n")
    assert record == ("a.csv:3", {"text": "hello, you", "score": "39,1"}, "")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt", "a.json", "a.conll"])
def test_a_text_in_utf_16_says_so(read_table, name):
    """It is read in its encoding only."""
    with pytest.raises(DataError, match=f"{name}: begins with the mark of utf-16") as caught:
        read_table(name, "text\nhello\n".encode("utf-16"))
    assert caught.value.next_step == "set ingest.encoding: utf-16"


def test_lines_that_end_in_carriage_returns_alone_are_refused(read_table):
    """Read otherwise the whole file would be one line."""
    with pytest.raises(DataError, match="carriage returns alone"):
        read_table("a.csv", "text,label\rone,1\rtwo,2\r")


def test_parallel_files_keep_their_lines_together(tmp_path, values, write):
    """Line n belongs to line n, whatever else a line holds: a carriage return, U+2028, U+0085, a form feed."""
    marks = ["\r", "\u2028", "\x85", "\x0c"]
    write(tmp_path / "a.txt", "".join(f"a{mark}{n}\n" for n, mark in enumerate(marks)))
    write(tmp_path / "b.txt", "".join(f"b{n}\r\n" for n in range(4)))
    pairs = [(row["text"], row["target"]) for row in values({"text": "a.txt", "target": "b.txt"})]
    assert pairs == [(f"a{mark}{n}", f"b{n}") for n, mark in enumerate(marks)]


def test_a_tsv_with_quotation_marks_draws_a_warning(read_table):
    """They are text there; a spreadsheet meant otherwise."""
    (record,) = read_table("a.tsv", 'text\tlabel\n"say ""hi"""\t1\n')
    assert record[1] == {"text": '"say ""hi"""', "label": "1"}
    assert "format: csv" in record[2]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_blank_lines_between_rows_draw_one_warning(read_table, name):
    """They may end sentences, whatever the tags; those at the end and within a field may not."""
    delimiter = "," if name == "a.csv" else "\t"
    rows = ["dog,NN", "runs,VBZ", "", "the,DT", "", "cat,NN", ""]
    warnings = [w for *_, w in read_table(name, "\n".join(rows).replace(",", delimiter) + "\n", header=False)]
    assert [bool(warning) for warning in warnings] == [False, False, True, False]
    assert "ingest.format: conll" in warnings[2]
    assert [w for *_, w in read_table("a.csv", 'text,label\n"a\n\nb",1\nc,2\n\n')] == ["", ""]


def test_a_quotation_mark_after_a_space_draws_a_warning(read_table):
    """It is part of the field."""
    ((_, values, warning),) = read_table("a.csv", 'text, label\n"a", "x"\n')
    assert values == {"text": "a", "label": ' "x"'}
    assert "after a space" in warning


def test_two_values_of_one_name_lose_none(read_table):
    """In an object of JSON, at any depth: a bad row of a .jsonl, an error in a .json."""
    double = '{"text": "a", "text": "b"}'
    assert read_table("a.jsonl", f'{double}\n{{"text": "c"}}\n')[0][:2] == ("a.jsonl:1", "two values are called text")
    with pytest.raises(DataError, match="two values are called text"):
        read_table("a.json", f'[{{"x": {double}}}]')


def test_what_stands_beside_the_only_list_of_an_object_is_named(read_table):
    """A document with a list of entities is no list of rows."""
    content = '{"text": "a whole document", "entities": [{"text": "whole"}, {"text": "a"}]}'
    warnings = [warning for *_, warning in read_table("a.json", content)]
    assert warnings == ["the rows are the only list of the object; left out: text", ""]


def test_an_encoding_that_is_none_of_texts_is_an_error(ingest_params):
    """Python calls base64 a codec; it is refused before anything is read."""
    with pytest.raises(ValueError, match="unknown encoding base64"):
        ingest_params(encoding="base64")


def test_json_lines_may_be_called_json(tmp_path, values, write):
    """As many exports are."""
    write(tmp_path / "a.json", '{"text": "one"}\n{"text": "two"}\n')
    assert values("a.json") == [{"text": "one"}, {"text": "two"}]


@pytest.mark.parametrize(
    ("lines", "delimiter", "has_header"),
    [
        (["text,label", "a,1", "b,0"], ",", True),
        (["text;label", "a, b, c;1", "b;0"], ";", True),
        (["at dawn, number 0;fear", "in rain, number 1;joy", "at noon, number 2;fear"], ";", False),
        (["text\tlabel", "a\t1"], "\t", True),
        (["1|5.5", "2|7.5"], "|", False),
        (["title,text", '"a;b;c","d;e;f"'], ",", True),
        (["text", "hello, you", "hello"], ",", True),
        (["spam,buy now", "ham,see you", "spam,win"], ",", False),
        (["a, b and c", "d", "e, f"], ",", True),
        ([], ",", False),
    ],
)  # fmt: skip
def test_the_delimiter_is_the_one_that_parts_all_rows_alike(lines, delimiter, has_header):
    """And the first row holds names where none of them is a number or comes again below."""
    found = dialect.sniff([line + "\n" for line in lines])
    assert (found.delimiter, found.has_header) == (delimiter, has_header)


CONLL = """-DOCSTART- -X- O O

EU NNP {} I-ORG
rejects VBZ {} O

Peter NNP {} I-PER
"""


def test_words_with_tags_are_sentences(read_table):
    """A blank line ends one, a document line is none; the columns between have their number."""
    records = read_table("a.conll", CONLL.format("x", "y", "z"))
    assert records == [
        ("a.conll:3", {"words": ["EU", "rejects"], "tags": ["B-ORG", "O"], "2": ["NNP", "VBZ"], "3": ["x", "y"]}, ""),
        ("a.conll:6", {"words": ["Peter"], "tags": ["B-PER"], "2": ["NNP"], "3": ["z"]}, ""),
    ]
    (record,) = read_table("a.conll", "one O\ntwo O x\n\n")
    assert record[:2] == ("a.conll:1", "more or fewer columns than in most lines: line 2")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a\tO\t\nb\tO\t\n", ["a word without a tag: line 1"]),
        ("a X O\nb X O\n\nc X\nd X\n", [{}, "more or fewer columns than in most lines: line 4"]),
    ],
)
def test_a_sentence_without_tags_is_bad(read_table, content, expected):
    """An empty last column, and a sentence that lacks it: the column before it holds no tags."""
    assert [values if isinstance(values, str) else {} for _, values, _ in read_table("a.conll", content)] == expected


def test_tags_of_no_scheme_among_those_of_one_draw_a_warning(read_table):
    """They keep their sentence from becoming IOB2."""
    ((_, values, warning),) = read_table("a.conll", "c I-X\nd BAD\n")
    assert values["tags"] == ["I-X", "BAD"]
    assert "`BAD`" in warning


@pytest.mark.parametrize(("name", "separator"), product(["a.tsv", "a.csv"], ["\t", " "]))
def test_words_with_tags_are_not_rows_of_a_table(read_table, name, separator):
    """Each word would be a text."""
    with pytest.raises(DataError, match="a word and its tag on each line"):
        read_table(name, CONLL.format("x", "y", "z").replace(" ", separator))


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("I-A I-A O I-B", "B-A I-A O B-B"),  # IOB1
        ("I-A B-A I-A I-B", "B-A B-A I-A B-B"),
        ("B-A I-A B-A O", "B-A I-A B-A O"),  # IOB2
        ("B-A E-A S-A S-A O", "B-A I-A B-A B-A O"),  # BIOES
        ("B-A I-A L-A U-B", "B-A I-A I-A B-B"),  # BILOU
        ("NOUN VERB", "NOUN VERB"),
    ],
)
def test_every_scheme_of_tags_becomes_iob2(tags, expected):
    """So that entities are compared as one."""
    assert conll.iob2(tags.split()) == expected.split()


def test_a_workbook_with_one_sheet_is_a_table(tmp_path, records):
    """Numbers and dates as Excel shows them; several sheets are refused by their names."""
    import openpyxl

    book = openpyxl.Workbook()
    for row in [("text", "label", None), ("hello", 1, None), (None, None, None), ("bye", 2.5, None)]:
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    assert records("a.xlsx") == [
        (None, "a.xlsx:2", {"text": "hello", "label": 1}),
        (None, "a.xlsx:4", {"text": "bye", "label": 2.5}),
    ]
    book.create_sheet("more").append(["x"])
    book.save(tmp_path / "a.xlsx")
    with pytest.raises(DataError, match=r"has 2 sheets \(Sheet, more\)"):
        records("a.xlsx")


def test_a_duration_is_a_text_and_rows_far_down_make_a_second_sheet(tmp_path, records):
    """Nothing of a workbook is left out because it lies below the first rows."""
    import openpyxl

    book = openpyxl.Workbook()
    for row in [("text", "time"), ("hello", dt.timedelta(hours=6, minutes=30))]:
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    assert records("a.xlsx")[0][2] == {"text": "hello", "time": "6:30:00"}
    book.create_sheet("late").cell(row=60, column=1, value="x")
    book.save(tmp_path / "a.xlsx")
    with pytest.raises(DataError, match="has 2 sheets"):
        records("a.xlsx")
