"""DVC's settings and lock files in a workspace."""

from __future__ import annotations

import json
import os
from configparser import ConfigParser
from pathlib import Path


def keep_private(root: Path) -> None:
    """Keep DVC's state in the workspace: its default is a folder that every user may write."""
    if (root / ".dvc").is_dir() and not read_config(root).has_option("core", "site_cache_dir"):
        write_config(root, read_config(root), {"core": {"site_cache_dir": str(root / ".dvc" / "tmp" / "site")}})


def read_config(root: Path) -> ConfigParser:
    """`.dvc/config.local`: DVC's settings that are not shared through git."""
    config = ConfigParser(interpolation=None)
    config.read(root / ".dvc" / "config.local", encoding="utf-8")
    return config


def cache_dir(root: Path) -> Path:
    """Where the workspace's DVC keeps what it has seen."""
    return Path(read_config(root).get("cache", "dir", fallback=str(root / ".dvc" / "cache")))


def write_config(root: Path, config: ConfigParser, settings: dict[str, dict[str, str]]) -> None:
    """Write it with `settings` added."""
    for section, values in settings.items():
        if not config.has_section(section):
            config.add_section(section)
        config[section].update(values)
    partial = root / ".dvc" / f"config.local.{os.getpid()}.partial"  # stages that start together all do this
    with partial.open("w", encoding="utf-8") as file:
        config.write(file)
    os.replace(partial, root / ".dvc" / "config.local")


def drop_torn_lock(root: Path) -> bool:
    """Remove DVC's rwlock file if a kill left it half written; whether it did."""
    path = root / ".dvc" / "tmp" / "rwlock"
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except ValueError:
        path.unlink()
        return True
    return False
