"""What `pretune init` shows: what was found in the data, what follows, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cli.proposal.inspection import SHOWN, Inspection, listed, names_of
from cli.proposal.rehearsal import Rehearsal
from pretune.data import tokenizer
from pretune.data.inspect import sample
from pretune.data.inspect.machine import Plan
from pretune.data.inspect.proposal import Facts, Sizes
from pretune.objectives.requirements import COLUMNS as NEEDED

Line = tuple[str, str, str]  # what, what was found, why


def files(inspection: Inspection, bad: dict[str, int]) -> Iterator[Line]:
    """The files and how they are read. bad: rows by the reason for which they are bad."""
    for source, each in zip(inspection.sources, inspection.samples, strict=True):
        place = source.name
        count = f"{each.total:,} rows" if each.whole else f"about {each.total:,} rows, {len(each.records):,} looked at"
        files_of = f"{len(source.files)} files, " if len(source.files) > 1 else ""
        packed = sample.compression(source)
        note = ", ".join(filter(None, [source.why, "" if packed == "none" else f"compressed: {packed}"]))
        yield place if source.split is None else f"{source.split}: {place}", files_of + count, note
    how = inspection.how
    shown = {
        "format": how.format,
        "encoding": how.encoding,
        "delimiter": how.delimiter,
        "quoting": "",
        "header": str(how.header).lower(),
    }
    for setting, why in how.why.items():
        value = shown[setting] if shown[setting] != "auto" else "found"
        yield setting, value or why, why if value else ""
    if bad:
        yield (
            "bad rows",
            f"{sum(bad.values()):,}",
            "; ".join(f"{count} x {reason}" for reason, count in bad.items()),
        )


def columns(inspection: Inspection, objective: str) -> Iterator[Line]:
    """Which column is what, and what is not used."""
    for ours, theirs in inspection.roles.columns.items():
        if theirs is not None:
            text = (
                ", ".join(f"{k}: {listed(v)}" for k, v in theirs.items())
                if isinstance(theirs, dict)
                else listed(theirs)
            )
            yield ours, text, inspection.roles.why.get(ours, "")
    for layout, count in inspection.roles.recognised[:SHOWN]:
        yield "conversations", layout, count
    used = {str(name) for theirs in inspection.roles.columns.values() for name in names_of(theirs)}
    used |= set(inspection.roles.used)
    used |= set(NEEDED[objective])
    others = [
        column.name
        for column in inspection.table
        if column.name not in used and not any(column.name.startswith(f"{name}.") for name in used)  # its parts
    ]
    if others:
        yield "not used", listed(others), ""
    if inspection.missing:
        yield "no value", ", ".join(inspection.missing), "words among numbers"
    yield "objective", objective, f"needs {', '.join(NEEDED[objective])}"


def settings(
    inspection: Inspection, values: dict[str, Any], facts: Facts, sizes: Sizes, why: list[str]
) -> Iterator[Line]:
    """The settings that follow from the rows."""
    if facts.labels:
        names = [f"{name} ({count:,})" for name, count in facts.labels.most_common(SHOWN)]
        more = f" and {len(facts.labels) - SHOWN} more" if len(facts.labels) > SHOWN else ""
        yield "label names", ", ".join(names) + more, f"{len(facts.labels)} classes"
    own, prepared = sorted(split for split in facts.totals if split), values["prepare"]
    limit = prepared["train_rows"]
    rows = f"train {limit or sizes.train:,}, validation {sizes.validation:,}, test {sizes.test:,}"
    reasons = [f"the data has {', '.join(own)}"] if own else ["drawn by a hash of each row"]
    reasons += [f"seed {sizes.seed}: every label is in train"] if sizes.seed != inspection.base["seed"] else []
    reasons += [f"{sizes.train:,} rows take longer than the budget"] if limit else []
    yield "splits", rows, "; ".join(reasons)
    if facts.characters:
        if prepared["tokenizer"] in tokenizer.KINDS:
            yield "tokenizer", f"{prepared['tokenizer']}, {prepared['vocabulary_size']:,} tokens", "; ".join(why)
        else:
            yield "tokenizer", f"that in {prepared['tokenizer']}", "of the checkpoint"
    if inspection.roles.objective == "image_classification":
        image = prepared["image"]
        plural = "s"[: image["channels"] != 1]
        shape = f"{image['size']} x {image['size']}, {image['channels']} channel{plural}"
        yield "image", shape, "by the median of the sizes"


def training(inspection: Inspection, values: dict[str, Any], planned: Plan, rehearsed: Rehearsal) -> Iterator[Line]:
    """Lengths, model, steps, and how long they take."""
    length = values["finetune"]["sequence_length"]
    if rehearsed.inputs:
        fit = sum(tokens <= length for tokens in rehearsed.inputs) / len(rehearsed.inputs)
        yield "length", f"{length} tokens", f"{fit:.0%} of the rows fit".replace("%", " %")
    model = values["model"]
    epochs, pace = f"{planned.epochs} epoch{'s'[: planned.epochs != 1]} of finetuning", rehearsed.pace
    paces = [pace.pretrain, pace.finetune] if pace else []
    if model["init"]:
        yield "model", f"{model['type']}, from {model['init']}", f"trained: {values['adaptation']['method']}"
        shown, paces = epochs, paces[1:]
    else:
        yield "model", model["type"], ", ".join(f"{key} {value}" for key, value in list(model["config"].items())[:2])
        shown = f"{planned.steps:,} steps of pretraining, {epochs}"
    measured = " and ".join(f"{1000 * seconds:,.0f}" for seconds in paces)
    yield "training", shown, measured and f"{measured} ms a step, measured here"
    budget = f"for the whole pipeline; training may take {inspection.request.minutes:g} (--budget)"
    yield "time", f"about {planned.minutes:.1f} minutes", budget
