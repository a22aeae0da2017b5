"""What the machine does while a stage trains: load and memory, sampled by a thread, and electricity.

Electricity is an estimate by codecarbon, where that is installed (the extra `energy`). It reads the counters of
processor and cards where it may; else it takes the share of the processor that the stage and the processes it
started have had, of what such a processor draws at most.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import psutil

SAMPLE_EVERY = 10.0  # seconds
DELAY = 5.0  # seconds; a shorter stage is not worth the second of processor time that looking for meters takes
METER_EVERY = 15.0  # seconds
MB = 1e6


@contextmanager
def system(write: Callable[[Mapping[str, Any], int], None], *, every: float = SAMPLE_EVERY) -> Iterator[None]:
    """During the block, `write` a sample every so many seconds, under MLflow's names for such metrics."""
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

    thread = threading.Thread(target=watch, name="system-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def sample() -> dict[str, float]:
    """Percent and megabytes, now; of CPUs the mean since the last sample."""
    memory, own = psutil.virtual_memory(), psutil.Process().memory_info().rss
    metrics = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_percentage": memory.percent,
        "system/system_memory_usage_megabytes": (memory.total - memory.available) / MB,
        "system/process_memory_usage_megabytes": own / MB,
    }
    return metrics | _gpu()


def _gpu() -> dict[str, float]:
    """Of this process's GPU, where it has loaded torch and uses one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return {}
    number = torch.cuda.current_device()
    free, total = torch.cuda.mem_get_info(number)
    metrics = {
        f"system/gpu_{number}_memory_usage_megabytes": (total - free) / MB,
        f"system/gpu_{number}_memory_usage_percentage": 100 * (total - free) / total,
    }
    with suppress(ModuleNotFoundError, RuntimeError):  # it needs NVIDIA's management library
        metrics[f"system/gpu_{number}_utilization_percentage"] = float(torch.cuda.utilization(number))
    return metrics


@contextmanager
def energy(
    write: Callable[[Mapping[str, float]], None], processes: int, *, delay: float = DELAY
) -> Iterator[threading.Event]:
    """At the end of the block, `write` energy_kwh and co2_kg; nothing where they are not known.

    processes: that compute, each with a GPU of its own where there are any. CO2 is that of the country
    that CODECARBON_COUNTRY_ISO_CODE names, else of the world's mean. Until meters are found, of which
    the event tells, the average of the time afterwards is assumed.

    The block waits for nothing here and fails of nothing; no network is used, and no file written.
    """
    meter = _Meter(processes, delay)
    try:
        yield meter.reads
    finally:
        with suppress(Exception):
            if totals := meter.end():
                write(totals)


class _Meter:
    """codecarbon's tracker in a thread; `reads` is set once it has found what to read."""

    def __init__(self, processes: int, delay: float) -> None:
        self.reads, self._over = threading.Event(), threading.Event()
        self._began = time.perf_counter()
        self._tracker: Any = None
        threading.Thread(target=self._start, args=(processes, delay), name="energy", daemon=True).start()

    def _start(self, processes: int, delay: float) -> None:
        with suppress(Exception):
            if not self._over.wait(delay):
                self._tracker = _tracker(processes)
                self._tracker.start()
                self._tracker._scheduler_monitor_power.stop()  # looks at every process of the machine each second
                self.reads.set()

    def end(self) -> dict[str, float]:
        """The totals of the whole time."""
        self._over.set()
        if not self._tracker or not self.reads.is_set():
            return {}
        self._tracker.stop()
        data = self._tracker.final_emissions_data
        scale = (time.perf_counter() - self._began) / data.duration
        return {"energy_kwh": data.energy_consumed * scale, "co2_kg": data.emissions * scale}


def _tracker(processes: int) -> Any:
    from codecarbon import OfflineEmissionsTracker

    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    cards = map(str, range(processes)) if visible is None else visible.split(",")[:processes]
    return OfflineEmissionsTracker(
        tracking_mode="process",  # stages may run side by side
        measure_power_secs=METER_EVERY,
        gpu_ids=[card for card in cards if card],
        output_methods=[],
        emissions_endpoint=None,
        electricitymaps_api_token="",
        allow_multiple_runs=True,  # without a lock file, and without handlers of signals
        log_level="critical",
    )
