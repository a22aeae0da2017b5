"""DVC's settings and lock files in a workspace."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from configparser import ConfigParser
from pathlib import Path
from typing import Any

from pretune.config.files import write_atomically


def keep_private(root: Path) -> None:
    """Keep DVC's state in the workspace: by default it is in a folder that every user may write to."""
    if not (root / ".dvc").is_dir():
        return
    site = root / ".dvc" / "tmp" / "site"
    (site / "repo").mkdir(parents=True, exist_ok=True)  # DVC would make both for every user to write to
    if not read_config(root).has_option("core", "site_cache_dir"):
        write_config(root, read_config(root), {"core": {"site_cache_dir": str(site)}})


def read_config(root: Path) -> ConfigParser:
    """`.dvc/config.local`: DVC's settings that are not shared through git."""
    config = ConfigParser(interpolation=None)
    config.read(root / ".dvc" / "config.local", encoding="utf-8")
    return config


def cache_dir(root: Path) -> Path:
    """The DVC cache of the workspace."""
    return Path(_unquoted(read_config(root).get("cache", "dir", fallback=str(root / ".dvc" / "cache"))))


def write_config(root: Path, config: ConfigParser, settings: dict[str, dict[str, str]]) -> None:
    """Write `config` with `settings` added to `.dvc/config.local`. Stages that start together all do this."""
    for section, values in settings.items():
        if not config.has_section(section):
            config.add_section(section)
        config[section].update({name: _quoted(value) for name, value in values.items()})
    text = io.StringIO()
    config.write(text)
    write_atomically(root / ".dvc" / "config.local", text.getvalue())


def _quoted(value: str) -> str:
    """A value as DVC reads it: without quotation marks it ends at ` #`, and a comma parts it."""
    if not any(mark in value for mark in "#,'\""):
        return value
    return f"'{value}'" if "'" not in value else f'"{value}"'


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def drop_torn_lock(root: Path) -> bool:
    """Remove DVC's rwlock file if a kill left it half written. Returns whether it was removed."""
    path = root / ".dvc" / "tmp" / "rwlock"
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except ValueError:
        path.unlink()
        return True
    return False


def write_lock_atomically() -> None:
    """Make DVC in this process write dvc.lock whole or not at all: other stages read it meanwhile."""
    from dvc.utils.serialize import _common

    def dump(path: str, data: Any, dumper: Callable[[Any, io.StringIO], None], fs: object = None) -> None:  # noqa: ARG001 - DVC's signature
        text = io.StringIO()
        dumper(data, text)
        write_atomically(Path(path), text.getvalue())

    _common._dump_data = dump
