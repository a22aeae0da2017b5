"""What electricity training takes: an estimate by codecarbon, where that is installed (the extra `energy`).

It reads the counters of processor and cards where it may; else it goes by the share of the processor that
the stage and the processes it started have had, of what such a processor draws at most.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

DELAY = 5.0  # seconds; a shorter block is not worth the second of processor time that looking for meters takes
EVERY = 15.0  # seconds


@contextmanager
def measured(
    write: Callable[[Mapping[str, float]], None], processes: int, *, delay: float = DELAY
) -> Iterator[threading.Event]:
    """At the end of the block, `write` energy_kwh and co2_kg; nothing where they are not known.

    processes: that compute, each with a GPU of its own where there are any. CO2 is that of the country
    that CODECARBON_COUNTRY_ISO_CODE names, else of the world's mean. Until meters are found, of which
    the event tells, as much is reckoned as on average afterwards.

    The block waits for nothing here and fails of nothing; no network is asked, and no file written.
    """
    meter = _Meter(processes, delay)
    try:
        yield meter.reads
    finally:
        with suppress(Exception):
            if found := meter.end():
                write(found)


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
        """What the whole time has taken."""
        self._over.set()
        if not self._tracker or not self.reads.is_set():
            return {}
        self._tracker.stop()
        found = self._tracker.final_emissions_data
        whole = (time.perf_counter() - self._began) / found.duration
        return {"energy_kwh": found.energy_consumed * whole, "co2_kg": found.emissions * whole}


def _tracker(processes: int) -> Any:
    from codecarbon import OfflineEmissionsTracker

    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    cards = map(str, range(processes)) if visible is None else visible.split(",")[:processes]
    return OfflineEmissionsTracker(
        tracking_mode="process",  # stages may run side by side
        measure_power_secs=EVERY,
        gpu_ids=[each for each in cards if each],
        output_methods=[],
        emissions_endpoint=None,
        electricitymaps_api_token="",
        allow_multiple_runs=True,  # without a lock file, and without handlers of signals
        log_level="critical",
    )
