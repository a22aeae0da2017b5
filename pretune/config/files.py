"""YAML and CSV files, and names of nested values."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pretune.errors import ParamsError


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML 1.2 mapping (there `1e-5` is a number, as it is for DVC)."""
    try:
        data = YAML(typ="safe", pure=True).load(path)
    except FileNotFoundError:
        raise ParamsError(
            f"{path.name} is missing in {path.parent}",
            "git checkout " + path.name + "   (or run in the folder that holds dvc.yaml)",
        ) from None
    except (YAMLError, UnicodeDecodeError) as error:
        where = ""
        if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
            mark = error.problem_mark
            where = f", line {mark.line + 1}, column {mark.column + 1}"
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ParamsError(f"{path.name}{where}: not valid YAML: {what}") from None
    if not isinstance(data, dict):
        raise ParamsError(f"{path.name} must hold `section: {{key: value}}`, not {type(data).__name__}")
    return data


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} becomes {'a.b': 1}."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def as_csv(table: Sequence[Mapping[str, Any]]) -> str:
    """Rows that have the same keys, under a head; nothing where there are none."""
    if not table:
        return ""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return out.getvalue()


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a table under its head."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
