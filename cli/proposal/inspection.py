"""Looks at the data that was named: how it is read, a sample of it, and which column is what."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pretune.config import files, source_spec
from pretune.config.data import IngestParams
from pretune.config.source_spec import SPLIT_ALIASES
from pretune.data.ingest.columns import ColumnMapping
from pretune.data.ingest.tally import file_of
from pretune.data.ingest.values import BadRowError
from pretune.data.inspect import columns, conversations, proposal, roles, sample
from pretune.data.inspect.columns import Column
from pretune.data.inspect.places import Source
from pretune.data.inspect.sample import Reading, Sample
from pretune.data.inspect.table import Roles
from pretune.data.rows import SUPERVISION, Row
from pretune.errors import DataError, PretuneError, did_you_mean
from pretune.objectives.requirements import COLUMNS as NEEDED

CLEAN = {
    "unicode": "as is", "whitespace": False, "min_characters": 1, "max_characters": 1_000_000, "quality": [],
    "languages": [], "scrub": [], "duplicates": "exact", "similarity": 0.8, "max_bad_rows": 0.01,
}  # fmt: skip
SHOWN = 8  # labels or columns in a line


@dataclass(frozen=True)
class Request:
    """The command line. named: (split or None, text); columns: {ours: theirs} of --column; minutes: of training.

    init: a checkpoint, as params.yaml names it; None: random weights.
    timed: whether steps are timed; otherwise a pace is assumed.
    """

    named: list[tuple[str | None, str]]
    columns: dict[str, Any] = field(default_factory=dict)
    objective: str | None = None
    minutes: float = 2.0
    init: str | None = None
    timed: bool = True


class Inspection:
    """What is known of the data: its sources, how they are read, samples of them, their columns and their roles."""

    def __init__(self, root: Path, request: Request, sources: list[Source]) -> None:
        self.root, self.request, self.sources = root, request, sources
        self.base = files.read_yaml(root / "params.yaml")
        self.doubts: list[tuple[str, str]] = []
        self.hints: list[str] = []
        for source in sources:
            resolve_hub(source)
        self.how, self.samples = self._read()
        self.table = columns.profile(
            [r.values for s in self.samples if s.source.split != "corpus" for _, r in s.records if not r.problem]
        )
        self.roles = self._roles()
        self._move_unlabelled()
        self._check_files()
        self.missing = self._missing()

    def _read(self) -> tuple[Reading, list[Sample]]:
        """How files are read, and a sample of each source. Raises DataError with all problems."""
        problems, steps = list(sample.unreadable(self.sources)), dict[str, None]()
        readings: list[Reading] = []
        samples: list[Sample] = []
        if not problems:
            for source in self.sources:
                try:
                    how = sample.reading(source)
                    readings.append(how)
                    samples.append(sample.take(source, self.ingest_params(how), self.root))
                except PretuneError as error:
                    problems += error.problems
                    steps |= {error.next_step.replace("pretune run", "pretune init …"): None} if error.next_step else {}
        if not problems and not any(s.records for s in samples):
            problems.append("the files hold no rows")
        if problems:
            raise DataError(problems, "; ".join(steps) or "correct these files, then: pretune init …")
        return self._together(readings), samples

    def _together(self, readings: Sequence[Reading]) -> Reading:
        """One reading for all sources: that of the rows, with which the corpus has to agree."""
        main = [how for how, source in zip(readings, self.sources, strict=True) if source.split != "corpus"] or list(
            readings
        )
        chosen = main[0]
        beyond = [how.encoding for how in readings if how.encoding != "utf-8"]
        plain = [
            how for how in readings if how.encoding == "utf-8" and how.why.get("encoding", "ASCII only") != "ASCII only"
        ]
        if beyond and (plain or len(set(beyond)) > 1):
            raise DataError(
                "files of several encodings: "
                + ", ".join(f"{s.name}: {how.encoding}" for s, how in zip(self.sources, readings, strict=True)),
                f"iconv -f {beyond[0]} -t utf-8 FILE > NEW   (then name NEW)",
            )
        for source, how in zip(self.sources, readings, strict=True):
            fits = (how.format, how.header, how.delimiter) == (chosen.format, chosen.header, chosen.delimiter)
            textual = source.files and not fits and (source.split != "corpus" or "header" in how.why)
            if textual or (source.files and chosen.format not in {"auto", how.format}):
                raise DataError(
                    f"{source.name} and {self.sources[0].name} cannot be read with the same settings: "
                    f"{_settings(how)}, and {_settings(chosen)}",
                    "write them as .jsonl, an object on each line   (read as such by their ending)",
                )
            self.doubts += how.doubts
        return replace(chosen, encoding=beyond[0] if beyond else chosen.encoding)

    def ingest_params(self, how: Reading, found: Roles | None = None, missing: Sequence[str] = ()) -> IngestParams:
        """The section `ingest` to look with: bad rows do not stop it."""
        section = proposal.ingest(self.sources, how, found, missing) | {"clean": CLEAN | {"max_bad_rows": 0.99}}
        return IngestParams.model_validate(section)

    def _roles(self) -> Roles:
        names = {column.name: column for column in self.table}
        wanted = [str(name) for theirs in self.request.columns.values() for name in names_of(theirs)]
        unknown = [name for name in wanted if name not in names]
        if unknown:
            raise DataError(
                [f"--column: the data has no column {name}{did_you_mean(name, names)}" for name in unknown],
                f"the columns are: {', '.join(names)}",
            )
        records = [r.values for s in self.samples if s.source.split != "corpus" for _, r in s.records if not r.problem]
        found = conversations.find(records, self.request.columns, self.request.objective, NEEDED)
        if found is not None:
            roles.split_and_group(self.table, found)
        else:
            found = roles.find(self.table, len(records), self.request.columns, self.request.objective)
        if found is None:
            raise _no_objective(self.table, self.request.objective)
        self.doubts += found.doubts
        self.hints += found.hints
        return found

    def _move_unlabelled(self) -> None:
        """Test and validation rows without a target are documents: they go to the corpus."""
        targets = [ours for ours in self.roles.columns if ours in SUPERVISION and self.roles.columns[ours] is not None]
        theirs = {str(name) for ours in targets for name in names_of(self.roles.columns[ours])}
        for each in list(self.samples if theirs else []):
            without = [split for split in self._held_out(each) if not theirs & _filled(each, split)]
            if not without:
                continue
            if isinstance(each.source.place, dict):
                self._divide(each, without)
            elif each.source.split in without:
                each.source.split, each.source.why = "corpus", f"{without[0]} rows without {listed(sorted(theirs))}"
                each.records = [("corpus", record) for _, record in each.records]
            else:  # the splits are in a column
                what = f"{each.source.name}: its rows of {', '.join(without)} have no {listed(sorted(theirs))}"
                self.doubts.append((what, "remove them, or put them into a file of their own: --corpus FILE"))
                continue
            what = f"{each.source.name}: its {', '.join(without)} rows have no {listed(sorted(theirs))}"
            self.hints.append(f"{what}: for pretraining only")

    def _held_out(self, each: Sample) -> list[str]:
        """The splits other than train that a source has."""
        column = self.roles.columns.get("split")
        declared = {split for split, _ in each.records}
        if column is not None:
            declared |= {record.values.get(column) for _, record in each.records}
        return sorted({SPLIT_ALIASES.get(str(split), str(split)) for split in declared} & {"validation", "test"})

    def _divide(self, each: Sample, without: Sequence[str]) -> None:
        """Name the splits of a data set of the hub one by one; those without labels become the corpus."""
        place = each.source.place
        if not isinstance(place, dict) or "split" in place:
            return
        named = {split: record.origin.partition("/")[2].rpartition(":")[0] for split, record in each.records}
        at, parts = self.samples.index(each), []
        for split, theirs in named.items():
            ours = "corpus" if split in without else split
            own = [(ours, record) for name, record in each.records if name == split]
            total = round(each.total * len(own) / len(each.records))
            parts.append(Sample(Source(ours, place | {"split": theirs}), own, total, each.whole))
        self.samples[at : at + 1] = parts
        self.sources[:] = [part.source for part in self.samples]

    def _check_files(self) -> None:
        """Raise DataError for files that lack a column that others have and that was chosen."""
        used = {str(name) for theirs in self.roles.columns.values() for name in names_of(theirs)}
        names: dict[str, set[str]] = {}
        for each in self.samples:
            for split, record in each.records:
                if split != "corpus" and not record.problem:
                    names.setdefault(file_of(record.origin, ""), set()).update(record.values)
        lacking = {
            file: [name for name in sorted(used) if name.partition(".")[0] not in found and name not in found]
            for file, found in names.items()
        }
        problems = [
            f"{file}: no column {', '.join(missing)}; it has {listed(sorted(names[file]))}"
            for file, missing in lacking.items()
            if missing
        ]
        if problems:
            raise DataError(problems, "give the columns of all files the same names, or name only files that have them")

    def _missing(self) -> list[str]:
        used = {str(name) for theirs in self.roles.columns.values() for name in names_of(theirs)}
        return sorted({word for column in self.table if column.name in used for word in column.missing})

    def rows(self, params: IngestParams) -> tuple[list[tuple[Sample, list[Row]]], dict[str, int]]:
        """The rows that records become, and the reasons of the bad ones."""
        mapping, bad = ColumnMapping(params), dict[str, int]()
        found = []
        for each in self.samples:
            made = []
            for split, record in each.records:
                try:
                    made.append(mapping.row(record, split) | ({"split": split} if split else {}))
                except BadRowError as error:
                    bad[error.reason] = bad.get(error.reason, 0) + 1
            found.append((each, made))
        return found, bad


def resolve_hub(source: Source) -> None:
    """Set the revision of a data set of the hub to the commit that it names now. Raises DataError without an answer."""
    if (
        not isinstance(source.place, dict)
        or not source.is_remote
        or source_spec.COMMIT.fullmatch(source.place.get("revision", ""))
    ):
        return
    os.environ |= {"HF_HUB_OFFLINE": "0"}
    from huggingface_hub import HfApi

    name, revision = source.place["name"], source.place.get("revision")
    try:
        commit = HfApi().dataset_info(name, revision=revision).sha
    except Exception as error:  # of the network or of the hub
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"hub:{name}: no answer that names its commit ({reason})",
            f"check the name and the network; a downloaded copy: pretune init hub:./{name.rpartition('/')[2]}",
        ) from None
    source.place = source.place | {"revision": str(commit)}


def _no_objective(table: Sequence[Column], objective: str | None) -> PretuneError:
    """What the columns hold, and why none serves."""
    shown = ", ".join(f"{column.name} ({column.kind})" for column in table[: 3 * SHOWN]) or "none"
    if objective is not None:
        needs = ", ".join(NEEDED[objective])
        return DataError(
            f"--objective {objective} needs {needs}; the columns are: {shown}",
            "name them: " + " ".join(f"--column {name}=NAME" for name in NEEDED[objective]),
        )
    return DataError(
        f"nothing among the columns is a text, an image, a conversation, or numbers to predict: {shown}",
        "name a column with --column text=NAME",
    )


def names_of(theirs: Any) -> list[Any]:
    """All names in an entry of ingest.columns."""
    if isinstance(theirs, dict):
        return [name for value in theirs.values() for name in names_of(value)]
    return [] if theirs is None else theirs if isinstance(theirs, list) else [theirs]


def listed(theirs: Any) -> str:
    """The first names in an entry of ingest.columns."""
    names = [str(name) for name in names_of(theirs)]
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _filled(each: Sample, split: str) -> set[str]:
    """The columns that hold a value in some row of a split."""
    own = [record.values for name, record in each.records if not record.problem and name in {split, None}]
    if not any(name == split for name, _ in each.records):  # the splits are in a column
        own = [values for values in own if split in {SPLIT_ALIASES.get(str(v), str(v)) for v in values.values()}]
    return {column.name for column in columns.profile(own)}


def _settings(how: Reading) -> str:
    return ", ".join(f"{key} {value}" for key, value in asdict(how).items() if key in {"format", "delimiter", "header"})
