"""From what was seen in the data to the sections `ingest` and `prepare`, and to the lengths of inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pretune.config.data import PrepareParams
from pretune.data import languages, rows
from pretune.data.inspect.places import Source
from pretune.data.inspect.sample import Reading, Sample
from pretune.data.inspect.table import Roles
from pretune.data.prepare.splits import CORPUS, NONE, SPLITS, TEST, TRAIN, VALIDATION, SplitAssigner, labels_of
from pretune.data.rows import Row

SPACELESS = {*languages.UNSPACED, "hangul", "thai", "lao", "khmer", "myanmar", "tibetan"}
VOCABULARIES = ((500_000, 2048), (5_000_000, 4096), (float("inf"), 8000))  # up to these characters of text
LARGER = {"byte_bpe": 1.0, "unigram": 2.0}  # other scripts than Latin have more characters
TINY = 100  # labelled rows below which none are set apart for validation
CALIBRATING = 50  # validation rows from which probabilities are calibrated
TEST_ROWS, GENERATED = 2000, 300  # at most; where each answer is generated
SEEDS = 50  # that are tried for splits without a label that is missing in train
COVERED = 95  # per cent of the rows that are not cut
LONGEST = 512  # tokens
IMAGES = (8, 16, 28, 32, 64)  # sides in pixels that are proposed
GENERATIVE = {"seq2seq", "instruction", "question_answering"}


@dataclass
class Facts:
    """What the rows of the samples hold.

    totals: rows by split (None: no split), scaled up to all rows; characters: of all texts; labels: of the sample.
    """

    rows: list[Row]
    totals: dict[str | None, int]
    characters: int
    labels: Counter[str]
    script: str
    whole: bool


def source_of(sources: Sequence[Source]) -> Any:
    """The value of `ingest.source`."""
    by_split: dict[str | None, list[Any]] = {}
    for source in sources:
        by_split.setdefault(source.split, []).append(source.aligned or source.place)
    values = {split: places[0] if len(places) == 1 else places for split, places in by_split.items()}
    if set(values) == {None}:
        return values[None]
    return {split or "train": place for split, place in values.items()}


def ingest(sources: Sequence[Source], how: Reading, roles: Roles | None, missing: Sequence[str]) -> dict[str, Any]:
    """The section `ingest` but for `clean`."""
    columns = {} if roles is None else roles.columns
    allow = [
        name
        for name in ("network", "outside")
        if any(getattr(source, f"is_{name if name == 'outside' else 'remote'}") for source in sources)
    ]
    return {
        "source": source_of(sources),
        "format": how.format,
        "encoding": how.encoding,
        "delimiter": how.delimiter,
        "header": how.header,
        "columns": {} if all(ours == theirs for ours, theirs in columns.items()) else columns,
        "labels": {},
        "missing": sorted(missing),
        "allow": allow,
        "licence": "unknown",
        "storage": "",
    }


def facts(found: Sequence[tuple[Sample, list[Row]]]) -> Facts:
    """Totals and texts of the rows that the records of each sample became."""
    totals: dict[str | None, int] = {}
    labels, scripts = Counter[str](), Counter[str]()
    characters, every = 0, list[Row]()
    for sample, made in found:
        scale = sample.total / max(1, len(sample.records))
        for split, count in Counter(row.get("split") for row in made).items():
            totals[split] = totals.get(split, 0) + round(count * scale)
        characters += round(scale * sum(len(text) for row in made for text in rows.texts(row)))
        labels.update(label for row in made if row.get("split") != "corpus" for label in labels_of(row))
        for row in made[:: 1 + len(made) // 500]:
            scripts.update(filter(None, [languages.main_script(text) for text in rows.texts(row)]))
        every += made
    script = scripts.most_common(1)[0][0] if scripts else ""
    return Facts(every, totals, characters, labels, script, all(sample.whole for sample, _ in found))


def prepare(objective: str, seen: Facts) -> tuple[dict[str, Any], list[str]]:
    """The section `prepare` but for lengths, and the reasons."""
    kind = "byte_bpe" if seen.script in {"latin", ""} else "unigram"
    size = next(size for limit, size in VOCABULARIES if seen.characters <= limit)
    vocabulary = 8000 if seen.script in SPACELESS else round(size * LARGER[kind])
    own = set(seen.totals)
    divided = sum(count for split, count in seen.totals.items() if split in {None, "train"})
    test, validation = _shares(divided, own)
    tiny = divided < TINY and "validation" not in own
    rows_of = {"test_rows": GENERATED if objective in GENERATIVE else TEST_ROWS, "validation_rows": 0 if tiny else 500}
    spaceless = seen.script in SPACELESS
    section = {
        "tokenizer": kind, "vocabulary_size": vocabulary, "lowercase": False, "max_length": LONGEST,
        "image": {"size": 28, "channels": 1},
        "validation_share": validation, "test_share": test, "train_rows": None, **rows_of,
        "similarity": 0.8,
        "decontaminate": 0 if objective in {"image_classification", "linear_regression"} else 20 if spaceless else 50,
        "corpus_share": 1.0,
    }  # fmt: skip
    why = [f"{seen.script or 'no'} script, {seen.characters:,} characters of text"]
    return section, why


def _shares(divided: int, own: set[str | None]) -> tuple[float, float]:
    """The shares of test and validation rows, larger where there are few rows."""
    test = 0.3 if divided < TINY else 0.25 if divided < 2000 else 0.2 if divided < 20_000 else 0.1
    validation = 0.0 if divided < TINY and "validation" not in own else 0.1
    return test, validation


@dataclass(frozen=True)
class Sizes:
    """Rows of each split, as they will be drawn, and the seed; unseen: labels of test rows that no training row has."""

    train: int
    validation: int
    test: int
    seed: int
    unseen: list[str]


def draw(seen: Facts, section: dict[str, Any], seed: int) -> Sizes:
    """The splits by the first of SEEDS seeds, from `seed` on, for which no label is in test or validation alone."""
    params = PrepareParams.model_validate(section)
    best: Sizes | None = None
    for number in range(seed, seed + SEEDS):
        sizes = _sizes(seen, params, number)
        empty = not sizes.test or not sizes.train or (params.validation_rows != 0 and not sizes.validation)
        if best is None or len(sizes.unseen) < len(best.unseen):
            best = sizes
        if not sizes.unseen and not empty:
            return sizes
        if len(seen.rows) > 5000:  # a label is rarely alone then
            break
    assert best is not None
    return best


def _sizes(seen: Facts, params: PrepareParams, seed: int) -> Sizes:
    assigned = SplitAssigner(seen.rows, params, seed)
    known = {code: assigned.split == code for code in (TRAIN, VALIDATION, TEST)}
    chosen = {code: assigned.select(code, getattr(params, f"{SPLITS[code]}_rows")) for code in known}
    labels = {
        code: {label for number in numbers for label in labels_of(seen.rows[number])}
        for code, numbers in chosen.items()
    }
    used = (assigned.split != CORPUS) & (assigned.split != NONE)
    scale = sum(count for split, count in seen.totals.items() if split != "corpus") / max(1, int(used.sum()))
    counts = {}
    for code, members in known.items():
        limit = getattr(params, f"{SPLITS[code]}_rows")
        total = round(int(members.sum()) * (1.0 if seen.whole else scale))
        counts[SPLITS[code]] = total if limit is None else min(total, limit)
    unseen = sorted((labels[VALIDATION] | labels[TEST]) - labels[TRAIN])
    return Sizes(counts["train"], counts["validation"], counts["test"], seed, unseen)


def length(tokens: Sequence[int], *, shortest: int = 16, longest: int = LONGEST) -> int:
    """A length in tokens that covers COVERED per cent of the rows: a multiple of 16."""
    if not len(tokens):
        return shortest
    covered = float(np.percentile(np.array(tokens), COVERED))
    return int(min(longest, max(shortest, -(-covered // 16) * 16)))


def image(seen: Facts) -> dict[str, int]:
    """Size and channels of images: the next side of IMAGES above the median, 1 channel if no image has colours."""
    import io

    from PIL import Image

    sides, colours = [], False
    for row in seen.rows[:: 1 + len(seen.rows) // 50]:
        with Image.open(io.BytesIO(row["image"])) as picture:
            sides.append(min(picture.size))
            colours = colours or (picture.mode == "RGB" and not _is_grey(picture))
    median = float(np.median(sides)) if sides else 28.0
    return {"size": next((side for side in IMAGES if side >= median), IMAGES[-1]), "channels": 3 if colours else 1}


def _is_grey(picture: Any) -> bool:
    pixels = np.asarray(picture.convert("RGB"), dtype=np.int16)
    return bool((np.ptp(pixels, axis=2) <= 2).all())
