"""DVC's settings and lock files in a workspace."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pretune.config.files import remove_leftovers, write_atomically


def keep_private(root: Path) -> None:
    """Keep DVC's state in the workspace: by default it is in a folder that every user may write to."""
    if not (root / ".dvc").is_dir():
        return
    site = root / ".dvc" / "tmp" / "site"
    (site / "repo").mkdir(parents=True, exist_ok=True)  # DVC would make both for every user to write to
    if not read_config(root).has_option("core", "site_cache_dir"):
        remove_leftovers(root / ".dvc")  # of one that was killed here
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


class _WholeFiles:
    """A file system of DVC's, in which a file that is written is replaced as a whole."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fs, name)

    @contextmanager
    def open(self, path: str, mode: str = "r", **options: Any) -> Iterator[Any]:
        """As the file system's own."""
        if mode == "w":
            text = io.StringIO()
            yield text
            write_atomically(Path(path), text.getvalue())
        else:
            with self._fs.open(path, mode, **options) as file:
                yield file


def write_lock_atomically() -> None:
    """Make DVC in this process write dvc.lock and its rwlock whole or not at all, whoever reads them or is killed."""
    from dvc import rwlock
    from dvc.utils.serialize import _common

    edit = rwlock._edit_rwlock

    def edit_whole(lock_dir: str, fs: Any, *rest: Any) -> Any:
        return edit(lock_dir, _WholeFiles(fs), *rest)

    if edit.__name__ != edit_whole.__name__:
        rwlock._edit_rwlock = edit_whole

    def dump(path: str, data: Any, dumper: Callable[[Any, io.StringIO], None], fs: object = None) -> None:  # noqa: ARG001 - DVC's signature
        text = io.StringIO()
        dumper(data, text)
        write_atomically(Path(path), text.getvalue())

    _common._dump_data = dump


def limit_retries() -> None:
    """End DVC's writes to its databases with an error when they fail: it would try again for ever.

    Those that wait for another process still wait a minute.
    """
    from diskcache import Cache

    transact = Cache._transact

    def once(self: Any, retry: bool = False, filename: str | None = None) -> Any:  # noqa: ARG001 - its signature
        return transact(self, False, filename)  # noqa: FBT003

    if transact.__name__ != once.__name__:
        Cache._transact = once
