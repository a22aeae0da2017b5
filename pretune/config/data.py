"""The schema of the sections `ingest` and `prepare` of params.yaml. Every key is required."""

from __future__ import annotations

import codecs
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, NonNegativeInt, field_validator, model_validator

from pretune.config import source_spec
from pretune.config.section import Count, FractionBelowOne, NonEmptyStr, NonNegative, PositiveFraction, Section
from pretune.errors import did_you_mean

Column = Literal[
    "text", "pair", "label", "labels", "score", "words", "tags", "question", "context", "answers", "target", "messages",
    "image", "x", "y", "split", "group",
]  # fmt: skip


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
        "auto", "text", "lines", "blocks", "csv", "tsv", "jsonl", "json", "parquet", "arrow", "images", "idx"
    ]
    encoding: NonEmptyStr
    header: bool
    columns: dict[Column, str | int | list[str | int] | dict[str, str]]
    labels: dict[str | int, str]
    missing: list[str]
    allow: list[Literal["network", "outside"]]
    licence: str
    clean: CleanParams

    @field_validator("source")
    @classmethod
    def _check_source(cls, source: Any) -> Any:
        for part in source_spec.parts(source):
            unknown = [column for column, _ in part.aligned if column not in get_args(Column)]
            if unknown:
                raise ValueError(f"unknown column {unknown[0]}{did_you_mean(unknown[0], get_args(Column))}")
        return source

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, encoding: str) -> str:
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise ValueError(f"unknown encoding {encoding}") from None
        return encoding


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

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share + test_share must be below 1, so that rows are left to train on")
        return self
