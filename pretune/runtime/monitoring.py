"""System metrics while a stage trains: load and memory, sampled in a thread, and energy.

codecarbon, if it is installed (the extra `energy`), estimates the energy. It reads the counters of processor and
GPUs if it may. Otherwise it multiplies the maximum power of such a processor by the share of its time that the
stage and its processes used.
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
DELAY = 5.0  # seconds; finding meters takes a second of processor time, too much for a shorter stage
METER_EVERY = 15.0  # seconds
MB = 1e6


@contextmanager
def system(write: Callable[[Mapping[str, Any], int], None], *, every: float = SAMPLE_EVERY) -> Iterator[None]:
    """`write` a sample every `every` seconds until the end of the block, with MLflow's names of system metrics."""
    stopped = threading.Event()

    def watch() -> None:
        number, last = 0, time.monotonic()
        psutil.cpu_percent()  # measures since the last call: the first value means nothing
        while True:
            ended = stopped.wait(every)
            if not ended or time.monotonic() - last > 1:  # a shorter sample is too noisy
                with suppress(OSError):  # on a full disk training itself says so
                    write(sample(), number)
            if ended:
                return
            number, last = number + 1, time.monotonic()

    thread = threading.Thread(target=watch, name="system-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def sample() -> dict[str, float]:
    """Percent and megabytes, now; for processors the mean since the last sample."""
    memory, own = psutil.virtual_memory(), psutil.Process().memory_info().rss
    metrics = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_percentage": memory.percent,
        "system/system_memory_usage_megabytes": (memory.total - memory.available) / MB,
        "system/process_memory_usage_megabytes": own / MB,
    }
    return metrics | _gpu()


def _gpu() -> dict[str, float]:
    """Metrics of the GPU of this process; {} if it uses none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return {}
    number = torch.cuda.current_device()
    free, total = torch.cuda.mem_get_info(number)
    metrics = {
        f"system/gpu_{number}_memory_usage_megabytes": (total - free) / MB,
        f"system/gpu_{number}_memory_usage_percentage": 100 * (total - free) / total,
    }
    with suppress(ModuleNotFoundError, RuntimeError):  # the management library of NVIDIA is missing
        metrics[f"system/gpu_{number}_utilization_percentage"] = float(torch.cuda.utilization(number))
    return metrics


@contextmanager
def energy(
    write: Callable[[Mapping[str, float]], None], processes: int, *, delay: float = DELAY
) -> Iterator[threading.Event]:
    """`write` energy_kwh and co2_kg at the end of the block; nothing if they are unknown.

    processes: how many compute, each on a GPU of its own if there are GPUs. CO2 is computed for the country of
    CODECARBON_COUNTRY_ISO_CODE, by default for the world's mean. The event is set once meters are found; for the time
    before, the mean power afterwards is assumed.

    Measuring neither delays the block nor makes it fail. It uses no network and writes no file.
    """
    meter = _Meter(processes, delay)
    try:
        yield meter.ready
    finally:
        with suppress(Exception):
            if totals := meter.end():
                write(totals)


class _Meter:
    """codecarbon's tracker in a thread; `ready` is set once it has found meters."""

    def __init__(self, processes: int, delay: float) -> None:
        self.ready, self._stopped = threading.Event(), threading.Event()
        self._began = time.perf_counter()
        self._tracker: Any = None
        threading.Thread(target=self._start, args=(processes, delay), name="energy", daemon=True).start()

    def _start(self, processes: int, delay: float) -> None:
        with suppress(Exception):
            if not self._stopped.wait(delay):
                self._tracker = _tracker(processes)
                self._tracker.start()
                self._tracker._scheduler_monitor_power.stop()  # looks at every process of the machine each second
                self.ready.set()

    def end(self) -> dict[str, float]:
        """Stop, and return the totals since the start; {} if no meter was found."""
        self._stopped.set()
        if not self._tracker or not self.ready.is_set():
            return {}
        self._tracker.stop()
        data = self._tracker.final_emissions_data
        scale = (time.perf_counter() - self._began) / data.duration
        return {"energy_kwh": data.energy_consumed * scale, "co2_kg": data.emissions * scale}


def _tracker(processes: int) -> Any:
    from codecarbon import OfflineEmissionsTracker

    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = map(str, range(processes)) if visible is None else visible.split(",")[:processes]
    return OfflineEmissionsTracker(
        tracking_mode="process",  # stages may run side by side
        measure_power_secs=METER_EVERY,
        gpu_ids=[gpu for gpu in gpus if gpu],
        output_methods=[],
        emissions_endpoint=None,
        electricitymaps_api_token="",
        allow_multiple_runs=True,  # no lock file and no signal handlers
        log_level="critical",
    )
