"""How busy the machine is while a stage trains: sampled by a thread, never by the loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import torch

EVERY = 10.0  # seconds
MB = 1e6


@contextmanager
def sampled(write: Callable[[Mapping[str, Any], int], None], *, every: float = EVERY) -> Iterator[None]:
    """Meanwhile, `write` a sample every so many seconds, under the names by which MLflow knows such metrics."""
    over = threading.Event()

    def watch() -> None:
        number, last = 0, time.monotonic()
        psutil.cpu_percent()  # the first answer means nothing: it is since the last call
        while True:
            ended = over.wait(every)
            if not ended or time.monotonic() - last > 1:  # shorter than a second, nothing can be said
                write(sample(), number)
            if ended:
                return
            number, last = number + 1, time.monotonic()

    thread = threading.Thread(target=watch, name="vitals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def sample() -> dict[str, float]:
    """Percent and megabytes, now; of CPUs the mean since the last sample."""
    memory, own = psutil.virtual_memory(), psutil.Process().memory_info().rss
    found = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_percentage": memory.percent,
        "system/system_memory_usage_megabytes": (memory.total - memory.available) / MB,
        "system/process_memory_usage_megabytes": own / MB,
    }
    if torch.cuda.is_available():
        number = torch.cuda.current_device()
        free, total = torch.cuda.mem_get_info(number)
        found[f"system/gpu_{number}_memory_usage_megabytes"] = (total - free) / MB
        found[f"system/gpu_{number}_memory_usage_percentage"] = 100 * (total - free) / total
        with suppress(ModuleNotFoundError, RuntimeError):  # it needs NVIDIA's management library
            found[f"system/gpu_{number}_utilization_percentage"] = float(torch.cuda.utilization(number))
    return found
