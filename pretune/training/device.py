"""The device of training: CPU or GPU, precision, and the settings for determinism and speed."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from contextlib import AbstractContextManager

import torch

GROWTH = 1.15  # of a process's memory, from which it is searched for what is free
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8  # of glibc's malloc.h


def choose() -> torch.device:
    """The GPU of this process if there is one, else the CPU."""
    if torch.cuda.is_available():
        index = int(os.environ.get("LOCAL_RANK", "0"))
        torch.cuda.set_device(index)
        return torch.device("cuda", index)
    return torch.device("cpu")


def prepare(seed: int, threads: int) -> None:
    """Make training deterministic: the same seed, threads and processor give the same bits. Call it first.

    On a GPU torch raises RuntimeError for an operation without a deterministic implementation.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic with a fixed workspace
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # each tensor would cost a fill
    torch.manual_seed(seed)
    keep_memory()


def keep_memory() -> None:
    """Have glibc keep freed memory: each step allocates the same large tensors, and new pages are slower."""
    _mallopt({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_ARENA_MAX: 1})


def return_memory() -> None:
    """Undo `keep_memory` for tensors of 1 MB or more: for models with quantised matrices.

    Each is dequantised for one product. Among smaller tensors that stay, no other one could use the memory it had.
    """
    _mallopt({M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 2**20})


class KeptMemory:
    """Bounds what `keep_memory` keeps. Batches of varying length leave pieces that no later tensor fits into."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._held = device, 0

    def bound(self) -> None:
        """Return free memory to the system if the process has grown by GROWTH since it was asked first, or last did."""
        from pretune.training import memory  # it needs psutil, which not every image has

        if self._device.type != "cpu" or not _is_glibc():
            return
        held = memory.held(self._device)
        if self._held and held > GROWTH * self._held:
            ctypes.CDLL(None).malloc_trim(0)
            held = memory.held(self._device)
            self._held = max(held, self._held)
        self._held = self._held or held


def _mallopt(options: dict[int, int]) -> None:
    if _is_glibc():
        for option, value in options.items():
            ctypes.CDLL(None).mallopt(option, value)


def _is_glibc() -> bool:
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Autocast to bf16 if `computes_in_bf16`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=computes_in_bf16(device, precision))


def computes_in_bf16(device: torch.device, precision: str) -> bool:
    """Whether matrix products are in bf16: for `bf16`, and for `auto` if the processor supports it."""
    return precision == "bf16" or (precision == "auto" and has_bf16(device))


def has_bf16(device: torch.device) -> bool:
    """Whether this processor multiplies matrices in bf16 faster than in fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if platform.machine() not in {"x86_64", "AMD64"}:
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
