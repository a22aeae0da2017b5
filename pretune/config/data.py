"""The schema of the sections `ingest` and `prepare` of params.yaml. Every key is required."""

from __future__ import annotations

import codecs
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from pretune.config import source_spec
from pretune.config.section import Section
from pretune.errors import did_you_mean

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Similarity = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Column = Literal[
    "text", "pair", "label", "labels", "score", "words", "tags", "question", "context", "answers", "target", "messages",
    "image", "x", "y", "split", "group",
]  # fmt: skip


class CleanParams(Section):
    """Which rows are kept, and in which form. `max_bad_rows` is a number of rows, below 1 a share of them."""

    unicode: Literal["as is", "nfc", "nfkc"]
    whitespace: bool
    min_characters: Count
    max_characters: Count
    quality: list[Literal["c4", "gopher", "fineweb"]]
    languages: list[str]
    scrub: list[Literal["email", "phone", "ip", "key"]]
    duplicates: Literal["keep", "exact", "near"]
    similarity: Similarity
    max_bad_rows: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class IngestParams(Section):
    """Where rows come from, and what their source calls the columns that we know."""

    source: Any
    format: Literal[
        "auto", "text", "lines", "blocks", "csv", "tsv", "jsonl", "json", "parquet", "arrow", "images", "idx"
    ]
    encoding: Annotated[str, Field(min_length=1)]
    header: bool
    columns: dict[Column, str | int | list[str | int] | dict[str, str]]
    labels: dict[str | int, str]
    missing: list[str]
    allow: list[Literal["network", "outside"]]
    licence: str
    clean: CleanParams

    @field_validator("source")
    @classmethod
    def _readable(cls, source: Any) -> Any:
        for part in source_spec.parts(source):
            unknown = [column for column, _ in part.aligned if column not in get_args(Column)]
            if unknown:
                raise ValueError(f"no column is called {unknown[0]}{did_you_mean(unknown[0], get_args(Column))}")
        return source

    @field_validator("encoding")
    @classmethod
    def _known(cls, encoding: str) -> str:
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise ValueError(f"no encoding is called {encoding}") from None
        return encoding


class ImageParams(Section):
    """The form of images in pixels; 1 channel is grey, 3 are red, green and blue."""

    size: Annotated[int, Field(ge=1, le=4096)]
    channels: Literal[1, 3]


class PrepareParams(Section):
    """Tokenizer and splits. Counts are rows, at most; null: as many as there are."""

    tokenizer: Annotated[str, Field(min_length=1)]
    vocabulary_size: Annotated[int, Field(ge=300, le=2**20)]
    lowercase: bool
    max_length: Annotated[int, Field(ge=8, le=2**20)]
    image: ImageParams
    validation_share: Share
    test_share: Share
    train_rows: Count | None
    validation_rows: Annotated[int, Field(ge=0)] | None
    test_rows: Count | None
    similarity: Similarity
    decontaminate: Annotated[int, Field(ge=0, le=1000)]

    @model_validator(mode="after")
    def _rows_are_left(self) -> Self:
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share + test_share must leave rows to train on: below 1")
        return self
