"""What the Numba operators share: PyTorch's memory as arrays, and its threads."""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils import logging

from .numba_vectors import WIDTH
from .tensor_layout import evenly_spaced


logger = logging.get_logger(__name__)

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@cache
def announce_compilation(kernel: Callable) -> None:
    """Says so if a file's kernels, of which this is one, are not on disk yet.

    Removes those that are older than what they are made of, since Numba looks at the file of a kernel only, and indices that a
    crash has left empty.
    """
    if kernel.stats.cache_path is None:
        logger.warning(
            "Compiling the selective scan for this CPU: some seconds in every process, for there is no place to keep it. "
            "Set NUMBA_CACHE_DIR to a directory that can be written."
        )
        return
    found = list(Path(kernel.stats.cache_path).glob(f"{Path(kernel.py_func.__code__.co_filename).stem}.*.nbi"))
    made_of = Path(__file__).with_name("numba_vectors.py").stat().st_mtime
    for index in found:
        if index.exists() and (index.stat().st_mtime < made_of or index.stat().st_size == 0):
            index.unlink(missing_ok=True)
    if not any(index.exists() for index in found):
        logger.warning("Compiling the selective scan for this CPU: some seconds, once; it is then kept on disk.")


@cache
def keep_freed_memory() -> None:
    """Makes the C library keep freed memory for the next tensors, pieces below a GiB.

    Else it gives it back to the system, which fills it with zeros and maps it page by page whenever it is asked for again: at
    every block of the model, and for a fifth of its time. Whoever has set malloc's variables, or uses another C library, is
    left alone.
    """
    is_set = any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    mallopt = None if is_set else _of_this_process("mallopt")
    most, most_in_earlier_versions, never = 2**30, 2**25, -1
    if mallopt and (mallopt(M_MMAP_THRESHOLD, most) or mallopt(M_MMAP_THRESHOLD, most_in_earlier_versions)):
        mallopt(M_TRIM_THRESHOLD, never)


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Memory that kernels write to, whatever PyTorch's default dtype and device are."""
    return torch.empty(shape, dtype=dtype, device="cpu")


def zeros(*shape: int) -> Tensor:
    return empty(*shape).zero_()


def fill_up(x: Tensor) -> Tensor:
    """`x (..., channels)` with zeros up to a multiple of a vector's channels; `(batch, length, channels)` evenly spaced."""
    missing = -x.shape[-1] % WIDTH
    x = F.pad(x, (0, missing)) if missing else x
    return evenly_spaced(x) if x.ndim == 3 else x


def flat(x: Tensor) -> np.ndarray:
    """The memory of an evenly spaced tensor from its first number to its last, bf16 as uint16."""
    size = 1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride())) if x.numel() else 0
    numbers = x.detach().as_strided((size,), (1,))
    return numbers.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else numbers.numpy()


@cache
def _of_this_process(name: str) -> Callable | None:
    """A function of the libraries that this process has loaded, if there is one of that name."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """`process`: its number, since threads do not survive a fork."""
    return ThreadPoolExecutor(threads)


def shares(batch: int, blocks: int) -> int:
    """Into how many parts the channels of a sample are cut, for all threads to have work."""
    return max(1, min(blocks, -(-torch.get_num_threads() // max(1, batch))))


_COMPILED: set[tuple] = set()


def in_threads(work: Callable[[int, int, int, int], object], batch: int, blocks: int, signature: tuple) -> None:
    """Calls `work(part, sample, first block, last block)` for all channels of all samples.

    In PyTorch's own threads where they can be had: after one of its operators these go on spinning for milliseconds, waiting
    for the next, and would take the processors away from others. What has not run yet with inputs of this `signature` is
    compiled first, in the thread that calls, for others may have too small a stack.
    """
    keep_freed_memory()
    threads, parts = torch.get_num_threads(), shares(batch, blocks)
    bounds = [part * blocks // parts for part in range(parts + 1)]
    tasks = iter([(part, sample, *bounds[part : part + 2]) for sample in range(batch) for part in range(parts)])
    if signature not in _COMPILED and (task := next(tasks, None)) is not None:
        work(*task)
        _COMPILED.add(signature)
    errors = []

    def take_tasks(_: object = None) -> None:
        try:
            for task in tasks:  # an iterator, so that no two threads get the same one
                work(*task)
        except BaseException as error:
            errors.append(error)

    if threads == 1:
        take_tasks()
    elif (openmp := _of_this_process("GOMP_parallel")) is not None:
        openmp(ctypes.CFUNCTYPE(None, ctypes.c_void_p)(take_tasks), None, threads, 0)
    else:
        list(_pool(threads, os.getpid()).map(take_tasks, range(threads)))
    if errors:
        raise errors[0]
