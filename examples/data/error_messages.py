"""Write a table of error messages, labelled with the library that raises them: data for docs/tutorial.md.

    python examples/data/error_messages.py > data/messages.csv

The messages stand in the source code of the packages that `make setup` installs, so every reader has them. Those of
LABELLED carry the library's name as their label; those of UNLABELLED have none, as in most real tables.
"""

from __future__ import annotations

import ast
import csv
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

LABELLED = ("matplotlib", "mlflow", "pandas", "prefect", "scipy", "sklearn", "sympy", "transformers")
UNLABELLED = ("accelerate", "aiohttp", "fsspec", "huggingface_hub", "networkx", "numpy", "peft", "pydantic", "torch")


def main() -> None:
    """One row per `raise SomeError("…")`."""
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["file", "message", "library"])
    for library in LABELLED + UNLABELLED:
        spec = importlib.util.find_spec(library)
        folder = Path(str(spec and spec.origin)).parent
        for path in sorted(folder.rglob("*.py")):
            if not {"tests", "testing"} & set(path.parts):
                file = path.relative_to(folder.parent).as_posix()
                label = library if library in LABELLED else ""
                table.writerows([file, message, label] for message in messages(path))


def messages(path: Path) -> Iterator[str]:
    """The texts of all `raise SomeError("text")` of a file; `{}` where a value is filled in."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            text = literal(node.exc.args[0])
            if text is not None:
                yield text


def literal(node: ast.expr) -> str | None:
    """The text of a string literal, an f-string, or `"text" % values`."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        return literal(node.left)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


if __name__ == "__main__":
    main()
