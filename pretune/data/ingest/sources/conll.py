"""Words with tags in the format of the CoNLL shared tasks: a word on each line, a blank line between sentences."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from pretune.data.ingest.sources.dialect import SAMPLE
from pretune.data.ingest.sources.files import File
from pretune.data.ingest.sources.record import Record, Records
from pretune.errors import DataError

DOCUMENT = "-DOCSTART-"  # the first word of a line between documents (Tjong Kim Sang and De Meulder 2003)
TAG = re.compile(r"O|[BIESLUM]-\S+")
COMMENT = re.compile(r"#\s*(\S+ =|newdoc\b|newpar\b)|#[^\t]*https?://")
Sentence = tuple[int, list[list[str]], str]  # number of the first line, columns of each word, problem


def sentences(file: File, encoding: str) -> Records:
    """A sentence is a row: `words` are the first column, `tags` the last, all other columns have their number.

    Columns are separated by tabs or else by spaces. Tags come out in the scheme IOB2, in which B- begins each entity,
    from IOB1, IOB2, BIOES and BILOU; other tags stay as they are. A sentence is bad if a line of it has not as many
    columns as most lines of the first SAMPLE, or no tag.
    """
    lines = file.lines(encoding)
    head = list(islice(lines, SAMPLE))
    words = [line for line in head if line.strip() and not line.startswith(DOCUMENT) and not _is_comment(line)]
    separator = "\t" if words and all("\t" in line for line in words) else None
    width = Counter(len(_columns(line, separator)) for line in words).most_common(1)[0][0] if words else 0
    for number, rows, problem in _sentences(chain(head, lines), separator, width):
        words, tags = [row[0] for row in rows], [row[-1] for row in rows]
        values = {"words": words, "tags": iob2(tags)}
        others = {} if problem else {str(n): [row[n - 1] for row in rows] for n in range(2, len(rows[0]))}
        yield Record(f"{file.name}:{number}", values | others, problem, "" if problem else _doubt(tags))


def _columns(line: str, separator: str | None) -> list[str]:
    return line.rstrip("\r\n").split(separator)


def _sentences(lines: Iterable[str], separator: str | None, width: int) -> Iterator[Sentence]:
    rows: list[list[str]] = []
    start, problem = 1, ""
    for number, line in enumerate(chain(lines, [""]), start=1):
        text = line.rstrip("\r\n")
        if not text.strip() or text.startswith(DOCUMENT):
            if rows:
                yield start, rows, problem
            rows, problem = [], ""
        elif not (not rows and _is_comment(text)):
            start = start if rows else number
            rows.append(_columns(text, separator))
            if len(rows[-1]) != width:
                problem = problem or f"more or fewer columns than in most lines: line {number}"
            elif width < 2 or not rows[-1][-1].strip():
                problem = problem or f"a word without a tag: line {number}"


def _is_comment(line: str) -> bool:
    """A line as `# sent_id = 7` of CoNLL-U; `#` with a tag is a word."""
    return COMMENT.match(line) is not None


def _doubt(tags: list[str]) -> str:
    """A warning for a sentence in which some tags are of a scheme and others are not."""
    odd = next((tag for tag in tags if not TAG.fullmatch(tag)), "")
    some = any(tag != "O" and TAG.fullmatch(tag) for tag in tags)
    return f"the tags stay as they are: `{odd}` is not like the others" if odd and some else ""


def iob2(tags: list[str]) -> list[str]:
    """The tags in IOB2. In IOB1, B- only begins an entity that touches another of its kind.

    E- and L- end an entity, S- and U- are entities of one word, M- is I- (BIOES, BILOU, BMES).
    """
    if not all(TAG.fullmatch(tag) for tag in tags):
        return tags
    result: list[str] = []
    previous = "O"
    for tag in tags:
        prefix, _, kind = tag.partition("-")
        if prefix in {"S", "U"}:
            result.append(f"B-{kind}")
        elif prefix in {"I", "E", "L", "M"}:
            inside = previous not in {"O", ""} and previous.partition("-")[2] == kind
            ended = previous.partition("-")[0] in {"E", "L", "S", "U"}
            result.append(f"I-{kind}" if inside and not ended else f"B-{kind}")
        else:
            result.append(tag)
        previous = tag
    return result


def looks_like(lines: Iterable[str]) -> bool:
    """Whether these lines are words with tags: as many columns in all, a tag in the last, blank lines between."""
    sample = [line.rstrip("\r\n") for line in lines]
    words = [line.split() for line in sample if line.strip() and not line.startswith((DOCUMENT, "# "))]
    blank = any(not line.strip() for line in sample[:-1])
    same = len({len(columns) for columns in words}) == 1 and len(words[0]) > 1
    tags = [columns[-1] for columns in words]
    return blank and same and all(map(TAG.fullmatch, tags)) and any(tag != "O" for tag in tags)


def lines_of_others(file: File, encoding: str) -> tuple[list[str], Iterator[str]]:
    """The first SAMPLE lines of a file that is read otherwise, and all lines.

    Raises DataError where they are words with tags.
    """
    lines = file.lines(encoding)
    head = list(islice(lines, SAMPLE))
    if looks_like(head):
        raise DataError(
            f"{file.name}: a word and its tag on each line, and a blank line between sentences",
            "set ingest.format: conll, then: pretune run",
        )
    return head, chain(head, lines)
