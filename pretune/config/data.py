"""The schema of the sections `ingest` and `prepare` of params.yaml. Every key is required."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, NonNegativeInt, field_validator, model_validator

from pretune.config import source_spec
from pretune.config.section import Count, FractionBelowOne, NonEmptyStr, NonNegative, PositiveFraction, Section
from pretune.errors import did_you_mean

Name = str | int  # of a column of the source
Scalar = str | int | float | bool
Column = Literal[
    "text", "pair", "label", "labels", "score", "words", "tags", "question", "context", "answers", "target", "messages",
    "tools", "chosen", "rejected", "desirable", "negatives", "image", "x", "y", "split", "group",
]  # fmt: skip
SEVERAL = (
    "text",
    "pair",
    "question",
    "context",
    "target",
    "labels",
    "x",
    "y",
    "group",
)  # may be made of several columns
FIELDS = {"messages": ("system", "history", "user", "assistant"), "answers": ("text", "answer_start")}


class CleanParams(Section):
    """Which rows are kept, and in which form. `max_bad_rows` below 1 is a share of all rows, otherwise their number."""

    unicode: Literal["as is", "nfc", "nfkc"]
    whitespace: bool
    min_characters: Count
    max_characters: Count
    quality: list[Literal["c4", "gopher", "fineweb"]]
    languages: list[str]
    scrub: list[Literal["email", "phone", "ip", "key"]]
    duplicates: Literal["keep", "exact", "near"]
    similarity: PositiveFraction
    max_bad_rows: NonNegative


class IngestParams(Section):
    """Where rows come from, and the names that the source gives to our columns."""

    source: Any
    format: Literal[
        "auto", "text", "lines", "blocks", "folders", "csv", "tsv", "conll", "xlsx", "jsonl", "json",
        "parquet", "arrow", "images", "idx",
    ]  # fmt: skip
    encoding: NonEmptyStr
    delimiter: Annotated[str, Field(pattern=r"^(auto|tab|[^\w\s\"'])$")]
    header: bool
    columns: dict[Column, Name | list[Name] | dict[str, Name | list[Name]] | None]
    labels: dict[Scalar, str]
    missing: list[Scalar]
    allow: list[Literal["network", "outside"]]
    licence: str
    storage: str
    clean: CleanParams

    @model_validator(mode="after")
    def _check_storage(self) -> Self:
        if not self.storage:
            return self
        scheme, separator, place = self.storage.partition("://")
        if not (scheme and separator and place) or scheme.startswith("http"):
            raise ValueError(f"storage: an address as s3://bucket/folder, or '', got {self.storage!r}")
        if scheme != "file" and "network" not in self.allow:
            raise ValueError(f"storage: {self.storage} is reached over the network: add network to ingest.allow")
        return self

    @field_validator("source")
    @classmethod
    def _check_source(cls, source: Any) -> Any:
        for part in source_spec.parts(source):
            unknown = [column for column, _ in part.aligned if column not in get_args(Column)]
            if unknown:
                raise ValueError(f"unknown column {unknown[0]}{did_you_mean(unknown[0], get_args(Column))}")
        return source

    @field_validator("columns", mode="before")
    @classmethod
    def _check_columns(cls, columns: Any) -> Any:
        """One line for each column, instead of pydantic's line for each type that it might be."""
        if not isinstance(columns, dict):
            raise ValueError(f"write {{our column: theirs}}, got {columns!r}")  # noqa: TRY004 - pydantic wants it
        if problems := [problem for ours, theirs in columns.items() if (problem := _problem(ours, theirs))]:
            raise ValueError("; ".join(problems))
        return columns

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: dict[Scalar, str]) -> dict[Scalar, str]:
        """DVC sorts the keys of a mapping, which have to be of one kind."""
        if len({isinstance(value, str) for value in labels}) > 1:
            quoted = ", ".join(f"{json.dumps(str(value))}: {name}" for value, name in labels.items())
            raise ValueError(f"some labels are texts, others are not; write all in quotes: {{{quoted}}}")
        return labels

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, encoding: str) -> str:
        try:
            "".encode(encoding)  # base64 and the like are codecs, and no encodings of text
        except LookupError:
            raise ValueError(f"unknown encoding {encoding}") from None
        return encoding


def _problem(ours: Any, theirs: Any) -> str:
    """What is wrong with an entry of `ingest.columns`; "" if nothing is."""
    if ours not in get_args(Column):
        return f"{ours}: unknown column{did_you_mean(str(ours), get_args(Column))}"
    if theirs is None or _is_name(theirs):
        return ""
    if isinstance(theirs, list) and ours in SEVERAL:
        return "" if theirs and all(map(_is_name, theirs)) else f"{ours}: a list of column names, got {theirs!r}"
    if isinstance(theirs, dict) and ours in FIELDS:
        unknown = [key for key in theirs if key not in FIELDS[ours]]
        if unknown:
            allowed = ", ".join(FIELDS[ours])
            return f"{ours}: {unknown[0]} is none of {allowed}{did_you_mean(str(unknown[0]), FIELDS[ours])}"
        lists = [v for v in theirs.values() if isinstance(v, list)] if ours == "messages" else []
        names = [name for value in theirs.values() for name in (value if value in lists else [value])]
        return "" if names and all(map(_is_name, names)) else f"{ours}: {{name: column}}, got {theirs!r}"
    several = " or a list of them" if ours in SEVERAL else ""
    fields = f" or {{{', '.join(f'{key}: column' for key in FIELDS[ours])}}}" if ours in FIELDS else ""
    return f"{ours}: the name of a column{several}{fields}, or null for none, got {theirs!r}"


def _is_name(value: Any) -> bool:
    return (isinstance(value, str) and value != "") or (isinstance(value, int) and not isinstance(value, bool))


class ImageParams(Section):
    """The size of square images in pixels; 1 channel is grey, 3 channels are RGB."""

    size: Annotated[int, Field(ge=1, le=4096)]
    channels: Literal[1, 3]


class PrepareParams(Section):
    """Tokenizer and splits. `*_rows` are the most rows to use; null uses all."""

    tokenizer: NonEmptyStr
    vocabulary_size: Annotated[int, Field(ge=300, le=2**20)]
    lowercase: bool
    max_length: Annotated[int, Field(ge=8, le=2**20)]
    image: ImageParams
    validation_share: FractionBelowOne
    test_share: FractionBelowOne
    train_rows: Count | None
    validation_rows: NonNegativeInt | None
    test_rows: Count | None
    similarity: PositiveFraction
    decontaminate: Annotated[int, Field(ge=0, le=1000)]
    corpus_share: PositiveFraction

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share + test_share must be below 1, so that rows are left to train on")
        return self
