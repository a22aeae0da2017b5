"""Files that params.yaml names: read where dvc.yaml lists them, or a folder around them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from pretune.errors import UndeclaredInputError


def declared(dep: Callable[[str], Path], place: str) -> Path:
    """Where `place` lies; `dep` finds what is declared. Raises UndeclaredInputError where nothing around it is."""
    path = PurePosixPath(place)
    for around in (path, *path.parents):
        with contextlib.suppress(UndeclaredInputError):
            return dep(str(around)) / path.relative_to(around)
    return dep(place)
