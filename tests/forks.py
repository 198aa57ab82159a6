"""Processes that are forked from this one, which has imported already what takes longer than most of what they do."""

import gc
import multiprocessing
import os
import socket
import warnings
from collections.abc import Callable
from multiprocessing.process import BaseProcess

import torch
from accelerate import PartialState


def fork(function: Callable[..., object], *args: object, **environment: str) -> BaseProcess:
    """A process that calls the function, on the CPU and in one thread; it says on stderr what the function raises."""
    gc.collect()  # a fork hangs when it frees what has threads here, such as PyAV's frames
    process = multiprocessing.get_context("fork").Process(target=_call, args=(function, args, environment))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that this process has threads, which its forks do not use
        process.start()
    return process


def fork_group(number: int, function: Callable[..., object], *args: object) -> list[BaseProcess]:
    """So many processes of one group, as `torchrun` starts them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    return [fork(function, *args, RANK=str(i), LOCAL_RANK=str(i), **group) for i in range(number)]


def _call(function: Callable[..., object], args: tuple, environment: dict[str, str]) -> None:
    gc.freeze()
    os.environ |= environment
    torch.set_num_threads(1)
    torch.cuda.is_available = lambda: False  # CUDA cannot be used in a fork of a process that used it
    PartialState._reset_state()
    function(*args)
