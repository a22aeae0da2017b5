"""The rows as the model will get them: the first after tokenizer, template or image pipeline, and counts of all."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from pretune.config.params import FinetuneParams, Params
from pretune.errors import DataError

ROWS = 3
SHOWN = 600  # characters of a row
WHOLE = 2**20  # tokens: nothing is cut
OPEN, CLOSE = "⟦", "⟧"  # around what is learnt in a conversation
Line = dict[str, Any]


def rows(root: Path, params: Params) -> list[Line]:
    """The first rows of data/prepared/labelled, each as {what: value}; [] before `prepare` has run."""
    from pretune.data import rows as stored
    from pretune.objectives import requirements

    folder = root / "data" / "prepared"
    if not (folder / "labelled" / "train.parquet").is_file():
        return []
    requirements.check(root / "data" / "raw", params.objectives)
    first = list(islice(stored.iterate(folder / "labelled" / "train.parquet"), ROWS))
    labels = _labels(folder)
    show: Callable[[Path, Params, dict[str, Any]], Line] = _text
    if first and "image" in first[0]:
        show = _image
    elif first and "x" in first[0]:
        show = _numbers
    elif first and "messages" in first[0] and params.finetune.objective in {"distillation", "instruction"}:
        show = _conversation
    elif first and "messages" in first[0]:
        show = _answers
    return [show(folder / "tokenizer", params, row) | _targets(row, labels) | {"from": row["origin"]} for row in first]


def training_rows(root: Path, params: Params) -> dict[str, Line]:
    """{section: warnings and figures of the conversations in data/prepared/labelled, as its objective takes them}.

    {} before `prepare` has run, and for objectives that count nothing.
    """
    from pretune.objectives import requirements

    folder = root / "data" / "prepared"
    if not (folder / "labelled" / "train.parquet").is_file():
        return {}
    sections = [name for name, of in params.objectives.items() if "messages" in requirements.COLUMNS.get(of, ())]
    found = {section: _told(folder, getattr(params, section), section) for section in sections}
    return {section: line for section, line in found.items() if line["warnings"] or line["rows"]}


def _told(folder: Path, params: FinetuneParams, section: str) -> Line:
    from pretune.objectives.finetuning.labelled import LabelledData
    from pretune.objectives.finetuning.table import OBJECTIVES

    objective = OBJECTIVES[params.objective]
    data = LabelledData(folder / "labelled", params, seed=0, section=section)
    warnings, figures = data.told(objective, objective.inputs(folder / "tokenizer"))
    return {"sequence_length": params.sequence_length, "warnings": warnings, "rows": figures}


def _labels(folder: Path) -> list[str]:
    import json

    return list(json.loads((folder / "labelled" / "labels.json").read_text(encoding="utf-8")))


def _targets(row: dict[str, Any], labels: list[str]) -> Line:
    """Names and ids of labels; numbers and answers as they are."""
    found: Line = {}
    if "label" in row:
        found["label"] = f"{row['label']} (id {labels.index(row['label'])})" if row["label"] in labels else row["label"]
    for name in ("labels", "tags"):
        if name in row:
            ids = [str(labels.index(label)) if label in labels else "?" for label in row[name]]
            found[name] = f"{' '.join(row[name])} (ids {' '.join(ids)})" if row[name] else "none"
    if "score" in row:
        found["score"] = f"{row['score']:g}"
    if "answers" in row:
        spans = [f"{answer['text']} (at character {answer['start']})" for answer in row["answers"]]
        found["answers"] = "; ".join(spans) or "none"
    return found


def _text(folder: Path, params: Params, row: dict[str, Any]) -> Line:
    """A text, or two, cut as the objectives cut them: of a pair the longer one; question and context in parts."""
    from pretune.data import tokenizer
    from pretune.objectives import requirements
    from pretune.predictor import words as in_words

    words, length = tokenizer.load(folder), params.finetune.sequence_length
    objective = params.finetune.objective
    split = objective in {"question_answering", "language_modelling"}
    if "words" in row:
        whole, ids = (in_words.encode(words, row["words"], limit)[0] for limit in (WHOLE, length))
    else:
        names = ["question", "context"] if "question" in requirements.COLUMNS[objective] else ["text"]
        names += ["pair"] if objective in requirements.PAIRED and "pair" in row else []
        texts = [row[name] for name in names]
        whole = words(*texts)["input_ids"]
        ids = whole if split else words(*texts, truncation=True, max_length=length)["input_ids"]
    more = {name: row[name] for name in ("pair",) if name in row and objective not in requirements.PAIRED}
    line: Line = {"text": words.decode(ids), "tokens": _count(len(whole), length, split=split)} | more
    if "target" in row and params.finetune.objective == "seq2seq":
        limit = params.finetune.settings["target_length"]
        target = words(text_target=row["target"])["input_ids"]
        cut = words(text_target=row["target"], truncation=True, max_length=limit)["input_ids"]
        setting = "finetune.settings.target_length"
        line |= {"target": words.decode(cut), "target tokens": _count(len(target), limit, setting)}
    return line


def _count(count: int, length: int, setting: str = "finetune.sequence_length", *, split: bool = False) -> str:
    """`12`, or what happens to the tokens beyond the length."""
    if count <= length:
        return str(count)
    return f"{count}, in parts of {length}" if split else f"{count}, cut at {setting} {length}"


def _conversation(folder: Path, params: Params, row: dict[str, Any]) -> Line:
    """The conversation in its template, as one sample or as several; what is learnt is between OPEN and CLOSE."""
    from pretune.data import tokenizer
    from pretune.objectives.conversations import Conversations, Encoder
    from pretune.predictor import conversation

    words, length = tokenizer.load(folder), params.finetune.sequence_length
    settings = params.finetune.settings
    conversation.set_template(words, settings["template"])
    encoder = Encoder(words, loss=settings["loss"], reasoning=settings["reasoning"])
    whole = encoder.conversation(row["messages"], row.get("tools"))
    try:
        samples = Conversations.of([row], encoder, length, settings["too_long"]).samples
    except DataError:  # nothing is left
        samples = []
    line: Line = {}
    for number, sample in enumerate(samples, start=1):
        name = f"sample {number} of {len(samples)}" if len(samples) > 1 else "conversation"
        parts, start = [], 0
        for end in range(1, len(sample.ids) + 1):
            if end == len(sample.ids) or bool(sample.weights[end]) != bool(sample.weights[start]):
                text = words.decode(sample.ids[start:end])
                parts.append(f"{OPEN}{text}{CLOSE}" if sample.weights[start] else text)
                start = end
        line[name] = "".join(parts)
    longest = max((len(sample.ids) for sample in whole), default=0)
    fate = {"cut": "cut at", "drop": "dropped at", "split": "split at"}[settings["too_long"]]
    tokens = str(longest) if longest <= length else f"{longest}, {fate} finetune.sequence_length {length}"
    return line | {"learnt": f"what is in {OPEN} {CLOSE}" if samples else "nothing", "tokens": tokens}


def _answers(folder: Path, params: Params, row: dict[str, Any]) -> Line:
    """The prompt as the model gets it, and what its answers are compared with: other answers, a verdict, a target."""
    from pretune.data import tokenizer
    from pretune.data.rows import last_answer
    from pretune.predictor import conversation

    words, messages = tokenizer.load(folder), row["messages"]
    conversation.set_template(words, params.finetune.settings["template"])
    last = last_answer(messages)
    prompt = conversation.render(words, messages[:last], row.get("tools"), add_generation_prompt=True)
    line: Line = {"prompt": prompt, "tokens": str(len(words(prompt, add_special_tokens=False)["input_ids"]))}
    line |= {"answer": messages[last]["content"]} if last < len(messages) else {}
    line |= {name: "\n".join(turn["content"] for turn in row[name]) for name in ("chosen", "rejected") if name in row}
    line |= {"desirable": "yes" if row["desirable"] else "no"} if "desirable" in row else {}
    return line | ({"target": row["target"]} if "target" in row else {})


def _image(folder: Path, _params: Params, row: dict[str, Any]) -> Line:
    import io

    from PIL import Image

    from pretune.predictor.pixels import Pipeline

    pipeline = Pipeline.load(folder)
    values = pipeline.values(pipeline.pixels(row["image"])[None])[0]
    with Image.open(io.BytesIO(row["image"])) as picture:
        before = f"{picture.width} x {picture.height}, {picture.mode}"
    channels, height, width = values.shape
    return {
        "image": f"{width} x {height}, {channels} channel{'s'[: channels != 1]} (in the file: {before})",
        "values": f"from {values.min():.2f} to {values.max():.2f}, mean {values.mean():.2f}",
    }


def _numbers(folder: Path, _params: Params, row: dict[str, Any]) -> Line:
    """The numbers, by the names of their columns; they are not scaled."""
    from pretune.data.loading.arrays import Columns

    names = Columns.load(folder)
    return {
        "x": ", ".join(f"{name} {value:g}" for name, value in zip(names.x, row["x"], strict=True)),
        "y": ", ".join(f"{value:g}" for value in row.get("y", [])),
    }


def excerpt(value: Any) -> str:
    """A value as one line, SHOWN characters at most, without control characters."""
    text = str(value).replace("\n", "⏎")
    text = "".join(character if character.isprintable() else "\ufffd" for character in text)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
