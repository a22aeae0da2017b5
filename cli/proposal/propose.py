"""From files on the command line to a whole params.yaml: what was seen, what follows, and what is not sure."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cli import checkpoint
from cli.proposal import rehearsal, table
from cli.proposal.inspection import CLEAN, SHOWN, Inspection, Request
from cli.proposal.rehearsal import Rehearsal
from pretune.config import overrides
from pretune.config.params import Params, validate
from pretune.data.inspect import machine, places, proposal
from pretune.data.inspect.machine import Plan
from pretune.data.inspect.proposal import Facts, Sizes
from pretune.errors import DataError, ParamsError, did_you_mean
from pretune.objectives import compatibility
from pretune.objectives.requirements import COLUMNS as NEEDED
from pretune.objectives.requirements import REFERENCED, TAUGHT

MOST_THREADS = 8
TRIED = 100  # steps of pretraining that a rehearsal plans for
WINDOWS = {"question_answering": (128, 256), "language_modelling": (16, 256)}  # lengths of parts of long texts
FEW = {"validation_rows": 40, "test_rows": 100}  # each answered by a large model, and by it as it came
ENOUGH = 1000  # sequences of the corpus from which some watch pretraining
OTHER = "--column label=NAME, or --objective NAME"


@dataclass
class Proposal:
    """text: of params.yaml. lines: (what, found, why). doubts: (what, option that settles it). hints: lines of text."""

    text: str
    values: dict[str, Any]
    lines: list[table.Line]
    doubts: list[tuple[str, str]]
    hints: list[str]
    minutes: float

    def as_dict(self) -> dict[str, Any]:
        """The content of `--json`."""
        return {
            "seen": [dict(zip(("what", "found", "why"), line, strict=True)) for line in self.lines],
            "doubts": [{"what": what, "settled_by": option} for what, option in self.doubts],
            "hints": self.hints,
            "minutes": self.minutes,
            "params": self.values,
        }


def propose(root: Path, here: Path, request: Request) -> Proposal:
    """Look at the data and propose params.yaml. Raises a PretuneError with every problem found; nothing is written."""
    if request.objective is not None and request.objective not in NEEDED:
        near = did_you_mean(request.objective, NEEDED)
        raise DataError(f"--objective {request.objective}: unknown{near}", f"one of {', '.join(NEEDED)}")
    if request.objective in TAUGHT:
        raise DataError(
            f"--objective {request.objective} needs a teacher, which no data name",
            "pretune init distil, then name the data in ingest.source and the teacher in the section teacher",
        )
    inspection = Inspection(root, request, places.find(root, here, request.named))
    objective = inspection.roles.objective
    found, bad = inspection.rows(inspection.ingest_params(inspection.how, inspection.roles, inspection.missing))
    facts = proposal.facts(found)
    _check(inspection, facts, bad)
    prepared, why = proposal.prepare(objective, facts)
    if objective == "image_classification":
        prepared["image"] = proposal.image(facts)
    if inspection.request.init and machine.family(objective) == machine.CHAT:
        prepared |= {key: min(prepared[key], most) for key, most in FEW.items()}
    sizes = proposal.draw(facts, prepared, int(inspection.base["seed"]))
    if not (sizes.train and sizes.test):
        few = f"train {sizes.train}, test {sizes.test} of {len(facts.rows)} rows: too few to train on and to test with"
        raise DataError([*(what for what, _ in inspection.doubts), few], "add rows")
    if sizes.unseen:
        labels = ", ".join(sizes.unseen[:SHOWN])
        inspection.doubts.append(
            (f"too few rows to train on and to test with: {labels}", "add rows, or leave these labels out")
        )
    values = _sections(inspection, prepared, sizes)
    if inspection.request.init:
        _start_from(inspection.request.init, inspection, values)
    rehearsed = _rehearse(inspection, values)
    if facts.whole and len(facts.rows) <= rehearsal.RECORDS:  # they are what `prepare` will write
        parts = rehearsed.splits
        sizes = replace(sizes, train=parts["train"], validation=parts["validation"], test=parts["test"])
    planned = _plan(inspection, values, sizes, facts, rehearsed)
    lines = [
        *table.files(inspection, bad),
        *table.columns(inspection, objective),
        *table.settings(inspection, values, facts, sizes, why),
        *table.training(inspection, values, planned, rehearsed),
    ]
    named = " ".join([text for _, text in request.named] + (["--model", request.init] if request.init else []))
    text = render(root, values, named)
    doubts, hints = list(dict.fromkeys(inspection.doubts)), list(dict.fromkeys(inspection.hints))
    return Proposal(text, values, lines, doubts, hints, round(planned.minutes, 1))


def _check(inspection: Inspection, facts: Facts, bad: dict[str, int]) -> None:
    """Raise DataError where no row can be read, and for classes of which there is one alone."""
    if not facts.rows:
        raise DataError(
            [f"{count} x {reason}" for reason, count in bad.items()], "say which column is what: --column text=NAME"
        )
    if "label" in NEEDED[inspection.roles.objective] and len(facts.labels) < 2:
        only, column = next(iter(facts.labels), "none"), inspection.roles.columns.get("label", "label")
        raise DataError(
            f"all rows that were looked at have the same {column}, {only}: nothing to learn",
            "name another column with --column label=NAME, or --objective language_modelling",
        )


def _sections(inspection: Inspection, prepared: dict[str, Any], sizes: Sizes) -> dict[str, Any]:
    """All sections of params.yaml that the data decide; lengths and steps are those of a rehearsal."""
    objective, size = inspection.roles.objective, prepared["image"]["size"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    clean = CLEAN | {"duplicates": "keep" if objective == "linear_regression" else "exact"}
    return {
        "seed": sizes.seed,
        "threads": min(MOST_THREADS, cores),
        "ingest": proposal.ingest(inspection.sources, inspection.how, inspection.roles, inspection.missing)
        | {"clean": clean},
        "prepare": prepared,
        "model": machine.model(objective, inspection.request.minutes, size),
        "pretrain": machine.pretraining(objective, size)
        | {"steps": TRIED, "sequence_length": 64, "validation_rows": 0, "evaluate_every": 0},
        "finetune": machine.finetuning(objective)
        | {
            "epochs": 1,
            "batch_size": 16 if sizes.train >= 200 else 8 if sizes.train >= 40 else 4,
            "sequence_length": 128,
            "calibrate": objective in machine.CALIBRATED and sizes.validation >= proposal.CALIBRATING,
            "evaluate_every": 50 if sizes.validation else 0,
        },
        "adaptation": {"method": "full", "settings": {}, "quantization": None},
        "scratch": {"train": False if objective in REFERENCED else "auto"},
        "label_efficiency": {"shares": []},
    }


def _start_from(init: str, inspection: Inspection, values: dict[str, Any]) -> None:
    """Give the values a checkpoint. ParamsError if it does not go with the objective."""
    objective = inspection.roles.objective
    values["adaptation"] = machine.adapting(objective)
    for key, value in checkpoint.settings(inspection.root, _params(inspection, values, easy=False), init).items():
        section, _, name = key.partition(".")
        values[section][name] = value
    if "reply_tokens" in values["finetune"]["settings"]:
        values["finetune"]["settings"]["reply_tokens"] = values["finetune"]["sequence_length"] // 2  # until measured
    if values["adaptation"]["method"] == "lora":
        values["finetune"] |= {"learning_rate": 2e-4, "batch_size": 8}  # for adapters (QLoRA, Dettmers et al. 2023)
    if problems := compatibility.problems(_params(inspection, values, easy=False), inspection.root):
        raise ParamsError(problems, "another --model, or another --objective")
    if "corpus" not in {source.split for source in inspection.sources}:
        inspection.hints.append("to measure what the model forgets, name other texts: --corpus 'texts/*.txt'")


def _params(inspection: Inspection, values: Mapping[str, Any], *, easy: bool) -> Params:
    """The proposed params for a rehearsal, which bad rows do not stop. easy: neither do rows that are alike."""
    sections = {
        key: inspection.base[key] | value if isinstance(value, dict) else value for key, value in values.items()
    }
    merged: dict[str, Any] = inspection.base | sections
    merged["ingest"] = merged["ingest"] | {"clean": merged["ingest"]["clean"] | {"max_bad_rows": 0.99}}
    if easy:
        merged["prepare"] = merged["prepare"] | {"similarity": 1.0, "decontaminate": 0}
    return validate(merged)


def _rehearse(inspection: Inspection, values: dict[str, Any]) -> Rehearsal:
    """Run `prepare`, on a sample of many rows: once for the lengths, and once more to time steps of these lengths.

    Where all rows are rehearsed and are so alike that leaks leave too few to train on, near ones are kept.
    """
    records = [pair for each in inspection.samples for pair in each.records]
    easy = len(records) > rehearsal.RECORDS
    try:
        first = rehearsal.rehearse(inspection.root, _params(inspection, values, easy=easy), records, timed=False)
    except DataError as error:
        if easy:
            raise DataError(error.problems, f"{error.next_step}; or name other columns: {OTHER}") from None
        values["prepare"] |= {"similarity": 1.0, "decontaminate": 0}
        try:
            first = rehearsal.rehearse(inspection.root, _params(inspection, values, easy=easy), records, timed=False)
        except DataError as again:
            raise DataError(again.problems, f"{again.next_step}; or name other columns: {OTHER}") from None
        inspection.hints.append(
            "rows are so alike that few are left to train on without leaks: prepare.similarity is 1"
        )
    bad, read = first.counts["quarantined"], first.counts["read"]
    if bad > CLEAN["max_bad_rows"] * read:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in first.counts["reasons"].items())
        what = f"{bad} of {read} rows are bad ({reasons}): more than `ingest` allows"
        inspection.doubts.append((what, "correct these rows, or raise ingest.clean.max_bad_rows in params.yaml"))
    _set_lengths(values, inspection.roles.objective, first)
    if not inspection.request.timed:
        return first
    return rehearsal.rehearse(inspection.root, _params(inspection, values, easy=easy), records, timed=True)


def _set_lengths(values: dict[str, Any], objective: str, rehearsed: Rehearsal) -> None:
    """Lengths of inputs and targets, by those of the rehearsed rows."""
    pretrain, finetune, most = values["pretrain"], values["finetune"], values["prepare"]["max_length"]
    if not rehearsed.texts:  # images and numbers have none
        pretrain["sequence_length"] = finetune["sequence_length"] = 8
        return
    pretrain["sequence_length"] = proposal.length(rehearsed.texts, shortest=32, longest=min(128, most))
    shortest, longest = WINDOWS.get(objective, (16, most))
    finetune["sequence_length"] = proposal.length(rehearsed.inputs, shortest=shortest, longest=min(longest, most))
    for limit in {"target_length", "reply_tokens"} & finetune["settings"].keys():
        finetune["settings"][limit] = proposal.length(rehearsed.targets, longest=min(128, most // 2))
    if "reply_tokens" in finetune["settings"]:  # a prompt is cut to what a reply leaves of the length
        whole = finetune["sequence_length"] + finetune["settings"]["reply_tokens"]
        finetune["sequence_length"] = min(most, whole)


def _plan(inspection: Inspection, values: dict[str, Any], sizes: Sizes, facts: Facts, rehearsed: Rehearsal) -> Plan:
    """Set epochs, steps and rows to what fits into the time."""
    pretrain, finetune = values["pretrain"], values["finetune"]
    corpus = rehearsed.corpus * sum(facts.totals.values()) / max(1, rehearsed.counts["rows"])
    sequences = corpus / (pretrain["sequence_length"] if rehearsed.texts else 1)
    rows, batch, pace = sizes.train, finetune["batch_size"], rehearsed.pace or machine.ASSUMED
    if inspection.request.init:
        planned = machine.short(pace, inspection.request.minutes, rows=rows, batch=batch)
        finetune["epochs"], values["prepare"]["train_rows"] = planned.epochs, planned.train_rows
        return planned
    planned = machine.plan(
        pace,
        inspection.request.minutes,
        enough=machine.enough(inspection.roles.objective),
        rows=rows,
        batch=batch,
        corpus_steps=sequences / pretrain["batch_size"],
    )
    watched = sequences >= ENOUGH
    pretrain |= {
        "steps": planned.steps,
        "validation_rows": 128 if watched else 0,
        "evaluate_every": 100 if watched else 0,
    }
    finetune["epochs"], values["prepare"]["train_rows"] = planned.epochs, planned.train_rows
    return planned


def render(root: Path, values: Mapping[str, Any], named: str) -> str:
    """params.yaml with these values; its comments are kept, but for the first one."""
    assignments = [f"{path}={json.dumps(value)}" for path, value in _assignments(values)]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "params.yaml"
        overrides.override(root / "params.yaml", assignments, target)
        lines = target.read_text(encoding="utf-8").splitlines()
    while lines and (lines[0].startswith("#") or not lines[0].strip()):
        lines.pop(0)
    head = [
        f"# Proposed by `pretune init {' '.join(named.split())}`; docs/params.md says what each setting does.",
        "# Change a value here and run `pretune run`, or try one first: pretune run --set finetune.epochs=20",
        "",
    ]
    body: list[str] = []
    for line in lines:  # a blank line before each section
        section = line[:1].isalpha() and line.split("#")[0].rstrip().endswith(":")
        body += ["", line] if section and body and body[-1] else [line]
    return "\n".join([*head, *body]) + "\n"


def _assignments(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for section, content in values.items():
        if not isinstance(content, dict):
            yield section, content
            continue
        for key, value in content.items():
            if f"{section}.{key}" in {"ingest.clean", "prepare.image"}:
                yield from ((f"{section}.{key}.{name}", inner) for name, inner in value.items())
            else:
                yield f"{section}.{key}", value
