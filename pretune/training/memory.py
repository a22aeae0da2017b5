"""Memory of this process in bytes, in use, at the peak and available: RAM on a CPU, the card's memory on a GPU."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import psutil
import torch

STATUS, OWN_GROUPS = Path("/proc/self/status"), Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")


def held(device: torch.device) -> int:
    """Bytes in use now."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else int(psutil.Process().memory_info().rss)


def highest(device: torch.device) -> int:
    """The peak so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if STATUS.is_file():  # getrusage would count the parent's memory at the time of the fork
        line = next(line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def available(device: torch.device) -> int:
    """Bytes that the process may use in all; processes that train on one machine's CPU share what is free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    free = int(psutil.virtual_memory().available)
    for limit, used in _cgroup_limits():
        free = min(free, limit - used)
    return held(device) + max(0, free) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _cgroup_limits() -> list[tuple[int, int]]:
    """Limit and usage of each control group of this process, as containers and batch systems set them."""
    limits = []
    for line in OWN_GROUPS.read_text(encoding="utf-8").splitlines() if OWN_GROUPS.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        names = ("memory.max", "memory.current", "inactive_file")
        root = CGROUPS
        if controllers:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            root = CGROUPS / "memory"
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(root):
                limits += _limit(folder, *names)
    return limits


def _limit(folder: Path, limit: str, used: str, cache: str) -> list[tuple[int, int]]:
    """Limit and usage of one group, [] without a limit. Cached files do not count as used: the kernel can drop them."""
    try:
        maximum = (folder / limit).read_text(encoding="ascii").strip()
        if maximum == "max":
            return []
        statistics = (line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        cached = sum(int(value) for name, value in statistics if name == cache)
        return [(int(maximum), int((folder / used).read_text(encoding="ascii")) - cached)]
    except (OSError, ValueError):
        return []
