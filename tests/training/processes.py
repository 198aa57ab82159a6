"""Functions that run in two processes at once, which meet over gloo."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def in_two_processes(function: Callable[[int, Path], None], directory: Path) -> None:
    """Calls `function(rank, directory)` in two processes of one group, each with one thread.

    They are forked from a process that has imported what all of them need, which takes longer than most of what they do.
    """
    multiprocessing.set_forkserver_preload(["tests.conftest", "tests.training.processes"])
    mp.start_processes(_call, args=(function, directory), nprocs=2, start_method="forkserver")


def _call(rank: int, function: Callable[[int, Path], None], directory: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # asked for, but the processes meet in a file
    dist.init_process_group("gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=2)
    function(rank, directory)
    dist.destroy_process_group()
