"""Which column is text, label, score and so on, and the objective that follows.

Each `_find_…` function looks for the columns of some objectives; the first that finds its columns decides. What was
named with `--column` is taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pretune.data.inspect import names
from pretune.data.inspect import table as tables
from pretune.data.inspect.columns import Column, by_key
from pretune.data.inspect.table import LONG, MANY_CLASSES, MOST_CLASSES, Roles, Table
from pretune.data.rows import COLUMNS


def find(columns: Sequence[Column], rows: int, named: dict[str, Any], objective: str | None = None) -> Roles | None:
    """The roles of these columns; None where no objective is served. objective: the only one that may be found."""
    for finder, objectives in FINDERS:
        if objective is not None and objective not in objectives:
            continue
        table = Table(columns, named, rows)
        roles = finder(table, objective)
        if roles is not None:
            roles.columns = dict(named) | roles.columns
            roles.why, roles.doubts = table.why | roles.why, table.doubts + roles.doubts
            split_and_group(columns, roles)
            _switch_off(table, roles)
            return roles
    return None


def _messages(table: Table, _objective: str | None) -> Roles | None:
    """A conversation in one column, or its turns in several."""
    if "messages" in table.named:
        return Roles("instruction", {}, {"messages": "named with --column"})
    if turns := table.kind("turns"):
        return Roles("instruction", {"messages": turns[0].name}, {"messages": "lists of messages"})
    user, extra, assistant = (by_key(table.kind("text", "number"), keys) for keys in names.INSTRUCTIONS)
    if not (user and assistant) or (assistant[0].kind != "text" and user[0].key != "instruction"):
        return None
    theirs: dict[str, Any] = {"user": [user[0].name, extra[0].name] if extra else user[0].name}
    system = by_key(table.kind("text"), ("system", "system_prompt"))
    if system:
        theirs = {"system": system[0].name} | theirs
    return Roles("instruction", {"messages": theirs | {"assistant": assistant[0].name}}, {"messages": "by their names"})


def _questions(table: Table, _objective: str | None) -> Roles | None:
    named = table.named
    question = table.chosen("question", lambda: tables.first(by_key(table.kind("text"), ("question",))), "by its name")
    context = table.chosen(
        "context", lambda: tables.first(by_key(table.kind("text"), ("context", "passage", "paragraph"))), "by its name"
    )
    if question is None or context is None:
        return None
    columns = {"question": question, "context": context}
    if "answers" in named:
        return Roles("question_answering", columns)
    if answers := by_key(table.kind("answers"), ("answers", "answer")) or table.kind("answers"):
        return Roles("question_answering", columns | {"answers": answers[0].name}, {"answers": "text and start"})
    texts = by_key(table.kind("text", "number"), ("answers.text", "answer_text", "answer", "text", "answers"))
    starts = by_key(table.kind("number"), ("answer_start", "start", "answer_offset"))
    if texts and starts:
        fields = {"text": texts[0].name, "answer_start": starts[0].name}
        return Roles("question_answering", columns | {"answers": fields}, {"answers": "text and start in two columns"})
    return None


def _tags(table: Table, _objective: str | None) -> Roles | None:
    lists = table.kind("words")
    words = table.chosen(
        "words", lambda: tables.first(by_key(lists, names.WORDS)) or _most(lists, table), "a list of words in each row"
    )
    column = table.column(words)
    if column is None:
        return None
    others = [other for other in table.kind("words") if other.lengths == column.lengths and other is not column]
    if "tags" not in table.named and not others:
        return None
    ordered = by_key(others, names.TAGS) + [other for other in others if other.key not in names.TAGS]
    tags = table.chosen("tags", lambda: tables.first(ordered), "as many as words in each row")
    if len(ordered) > 1 and "tags" not in table.named:
        rest = [other for other in ordered if other.key in names.TAGS and other.name != tags]
        table.doubts += [(f"tags: {tags}, or {other.name}?", f"--column tags={other.name}") for other in rest]
    return Roles("token_classification", {"words": words, "tags": tags})


def _most(lists: list[Column], table: Table) -> Column | None:
    """The list column with the most different items, if another one is as long."""
    del table
    pairs = [
        column for column in lists if any(column.lengths == other.lengths for other in lists if other is not column)
    ]
    return max(pairs, key=lambda column: len(column.items), default=None)


def _images(table: Table, _objective: str | None) -> Roles | None:
    image = table.chosen("image", lambda: tables.first(table.kind("image")), "images")
    if image is None:
        return None
    label = table.chosen("label", lambda: tables.label_of(table), "their classes")
    return Roles("image_classification", {"image": image, "label": label}) if label is not None else None


def _sequence_to_sequence(table: Table, objective: str | None) -> Roles | None:
    named = table.named
    texts = [column for column in table.kind("text") if column.distinct > 1]
    if "target" in named:
        text = table.chosen("text", lambda: tables.text_of(table), "the longest texts")
        return Roles("seq2seq", {"text": text}) if text is not None else None
    if "label" in named or "score" in named or "labels" in named:
        return None
    for source, target in names.TARGETS:
        pair = by_key(texts, (source,))[:1] + by_key(texts, (target,))[:1]
        if len(pair) == 2 and (pair[1].characters >= LONG or pair[1].distinct > MOST_CLASSES or objective == "seq2seq"):
            return Roles(
                "seq2seq",
                {"text": pair[0].name, "target": pair[1].name},
                dict.fromkeys(("text", "target"), "by their names"),
            )
    spoken = [column for column in texts if column.key in names.LANGUAGES or column.name.startswith("translation.")]
    if len(spoken) >= 2:
        table.doubts.append((f"text: {spoken[0].name}, target: {spoken[1].name}, or the other way round?",
                             f"--column text={spoken[1].name} --column target={spoken[0].name}"))  # fmt: skip
        return Roles(
            "seq2seq",
            {"text": spoken[0].name, "target": spoken[1].name},
            dict.fromkeys(("text", "target"), "two languages"),
        )
    if objective == "seq2seq" and len(texts) > 1:
        first, second = sorted(texts, key=lambda column: -column.characters)[:2]
        table.doubts.append((f"target: {second.name}?", f"--column text=NAME --column target={first.name}"))
        return Roles("seq2seq", {"text": first.name, "target": second.name}, {"target": "the only other text"})
    return None


def _found_texts(table: Table, objective: str | None) -> Roles | None:
    """A text and one that it should find, by their names; or any two if the objective is asked for."""
    texts = [column for column in table.kind("text") if column.distinct > 1]
    for anchor, positive in names.FOUND if objective is None else (*names.FOUND, *names.PAIRS):
        pair = by_key(texts, (anchor,))[:1] + by_key(texts, (positive,))[:1]
        if len(pair) == 2:
            theirs: dict[str, Any] = {"text": pair[0].name, "pair": pair[1].name}
            if negatives := by_key(table.all, ("negatives", "negative")):
                theirs["negatives"] = negatives[0].name
            return Roles("embedding", theirs, dict.fromkeys(theirs, "by their names"))
    return None


def _labelled_texts(table: Table, objective: str | None) -> Roles | None:
    """A text or two of them, with a class, several classes or a number."""
    text, pair = tables.text_and_pair(table)
    if text is None:
        return None
    target = _target(table, objective)
    if target is None:
        return None
    found, columns = target
    return Roles(found, {"text": text} | ({"pair": pair} if pair is not None else {}) | columns)


def _target(table: Table, objective: str | None) -> tuple[str, dict[str, Any]] | None:
    """The objective and the column of its target."""
    named = table.named
    if objective == "regression" or (objective is None and "score" in named):
        score = table.chosen("score", lambda: tables.score_of(table), "numbers")
        return None if score is None else ("regression", {"score": score})
    if objective == "multi_label" or (objective is None and "label" not in named):
        labels = tables.several(table)
        if labels is not None or objective == "multi_label":
            return None if labels is None else ("multi_label", {"labels": labels})
    label = table.chosen("label", lambda: tables.label_of(table), "few different values")
    column = table.column(label)
    if column is None:
        score = tables.score_of(table) if objective is None else None
        return None if score is None else ("regression", {"score": score.name})
    if objective is None and "label" not in named and _is_score(table, column):
        return "regression", {"score": label}
    return objective or ("binary" if column.distinct == 2 else "classification"), {"label": label}


def _is_score(table: Table, column: Column) -> bool:
    """Whether numbers are to be predicted as such; where they may be classes, the table notes the doubt."""
    if column.kind != "number":
        return False
    if column.fractions:
        table.why["score"] = "numbers with fractions"
        return True
    many = column.distinct > MANY_CLASSES
    if many or (column.distinct > 3 and column.key in names.ORDERED):
        ours, other = ("score", "label") if many else ("label", "score")
        what = f"{column.name} has {column.distinct} whole numbers: a {ours}, or a {other}?"
        table.doubts.append((what, f"--column {other}={column.name}"))
        table.why[ours] = f"{column.distinct} whole numbers"
    return many


def _numbers(table: Table, objective: str | None) -> Roles | None:
    """Numbers from which numbers are predicted: no column holds texts."""
    named = table.named
    numbers = [c for c in table.kind("number") if c.key not in names.IDENTIFIERS and not tables.is_split(c)]
    lists = table.kind("numbers")
    if len(lists) >= 2 and not {"x", "y"} & named.keys():
        pair = by_key(lists, ("x",))[:1] + by_key(lists, ("y",))[:1]
        return Roles("linear_regression", {"x": pair[0].name, "y": pair[1].name}) if len(pair) == 2 else None
    if objective is None and not {"x", "y"} & named.keys() and (tables.text_of(table) is not None or len(numbers) < 2):
        return None
    y = named.get("y")
    if y is None:
        found = [c for c in numbers if c.key.startswith(("y", "true_", "target")) and len(c.key) <= 12]
        found = (
            found
            or by_key(
                numbers, ("target", "label", "value", "price", "quality", "output", "mpg", "medv", "progression")
            )[:1]
        )
        if not found and numbers:
            found = numbers[-1:]
            rest = ", ".join(c.name for c in numbers[:-1])
            table.doubts.append((f"y: the last column, {found[0].name}, is predicted from {rest}", "--column y=NAME"))
        y, table.why["y"] = [c.name for c in found], "numbers to predict"
        numbers = [c for c in numbers if c not in found]
    x = named.get("x") or [c.name for c in numbers]
    table.why.setdefault("x", "the other numbers")
    return Roles("linear_regression", {"x": x, "y": y}) if x and y else None


def _texts(table: Table, _objective: str | None) -> Roles | None:
    """Texts alone."""
    for column in by_key(table.kind("text", "number"), names.LABELS):
        if column.distinct == 1:
            table.doubts.append(
                (f"{column.name} has the only value {next(iter(column.counts))}: no label", "add other rows")
            )
    text = table.chosen(
        "text",
        lambda: tables.text_of(table) or tables.first(by_key(table.kind("text"), names.TEXTS)),
        "texts, and nothing to predict from them",
    )
    return None if text is None else Roles("language_modelling", {"text": text})


def split_and_group(columns: Sequence[Column], roles: Roles) -> None:
    """Use a column of splits, and hint at one of groups."""
    used = _used(roles)
    if "split" not in roles.columns:
        for column in columns:
            if tables.is_split(column) and column.name not in used:
                roles.columns["split"], roles.why["split"] = column.name, f"holds {', '.join(sorted(column.counts))}"
                used.add(column.name)
                break
    groups = [c for c in by_key(columns, names.GROUPS) if c.name not in used and 1 < c.distinct < c.filled]
    for column in groups[:1]:
        roles.hints.append(
            f"rows of one {column.name} stay in one split with --column group={column.name} ({column.distinct} of them)"
        )


def _switch_off(table: Table, roles: Roles) -> None:
    """Switch off columns that only have one of our names."""
    used = _used(roles)
    for column in table.all:
        if column.name in COLUMNS and column.name not in used and column.name not in {"origin", *roles.columns}:
            roles.columns[column.name] = None


def _used(roles: Roles) -> set[str]:
    return {str(name) for theirs in roles.columns.values() for name in tables.flat(theirs)} | set(roles.used)


FINDERS: list[tuple[Callable[[Table, str | None], Roles | None], set[str]]] = [
    (_messages, {"instruction"}),
    (_questions, {"question_answering"}),
    (_tags, {"token_classification"}),
    (_images, {"image_classification"}),
    (_found_texts, {"embedding"}),
    (_sequence_to_sequence, {"seq2seq"}),
    (_labelled_texts, {"binary", "classification", "multi_label", "regression"}),
    (_numbers, {"linear_regression"}),
    (_texts, {"language_modelling"}),
]
