"""Runs cases in a process of their own, so that one that dies, hangs or takes all memory is a reported outcome, too."""

import contextlib
import faulthandler
import importlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

import numpy as np
import psutil

from .outcomes import Case, Outcome, Result, judge


KINDS = ("videos", "lists", "configurations", "directories", "checkpoints")
SECONDS = 120.0  # that a case may take; all of them take less than one
MEMORY = 2 << 30  # bytes that a process may take beyond what it holds at its start
SECONDS_TO_START = 600.0


class _Stopped(Exception):
    """The process has died or was killed; the message tells why."""


def run_cases(
    kind: str,
    seed: int,
    numbers: Iterable[int],
    keep: Path | None = None,
    seconds: float = SECONDS,
    memory: int = MEMORY,
) -> Iterator[Result]:
    """Yields the results of the cases of these numbers, in order.

    Args:
        kind: one of [`KINDS`], or the full name of another module that has their `prepare()` and `make_case(random, folder)`.
        keep: folder that takes the input files of faults, in a folder for each.
        seconds, memory: what a case may take until its process is killed.
    """
    numbers = list(numbers)
    with tempfile.TemporaryDirectory() as folder:
        while numbers:
            for result in _run_until_stopped(kind, seed, numbers, Path(folder), seconds, memory):
                inputs = Path(folder, str(result.number))
                if keep is not None and result.outcome is Outcome.FAULT:
                    shutil.copytree(inputs, keep / f"{kind}-{seed}-{result.number}", dirs_exist_ok=True)
                shutil.rmtree(inputs, ignore_errors=True)
                numbers.remove(result.number)
                yield result


def load_kind(kind: str) -> ModuleType:
    return importlib.import_module(f"{__package__}.{kind}" if kind in KINDS else kind)


def make_case(kind: str, seed: int, number: int, folder: Path) -> Case:
    """Writes the input of a case into the folder."""
    return load_kind(kind).make_case(np.random.default_rng([seed, number]), folder)


def _run_until_stopped(
    kind: str, seed: int, numbers: list[int], folder: Path, seconds: float, memory: int
) -> Iterator[Result]:
    """The results of the cases up to the first whose process is stopped, or of all."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    log = folder / "log"
    process = context.Process(target=_work, args=(kind, seed, list(numbers), folder, log, sender), daemon=True)
    process.start()
    sender.close()
    try:
        try:
            held = _receive(process, receiver, SECONDS_TO_START, None)
        except _Stopped as reason:
            raise RuntimeError(f"The fuzzing of {kind} does not start: {reason} {_last_words(log)}") from None
        for number in list(numbers):
            mutation = "(while it is made)"
            try:
                mutation = _receive(process, receiver, seconds, held + memory)
                outcome, detail = _receive(process, receiver, seconds, held + memory)
            except _Stopped as reason:
                yield Result(kind, seed, number, mutation, Outcome.FAULT, f"{reason} {_last_words(log)}")
                return
            yield Result(kind, seed, number, mutation, outcome, detail)
    finally:
        process.kill()
        process.join()
        receiver.close()


def _receive(process: BaseProcess, receiver: Connection, seconds: float, most_memory: int | None) -> object:
    deadline = time.monotonic() + seconds
    while not receiver.poll(0.05):
        if time.monotonic() > deadline:
            raise _Stopped(f"it hangs: nothing after {seconds:g} s.")
        with contextlib.suppress(psutil.NoSuchProcess):
            if most_memory is not None and psutil.Process(process.pid).memory_info().rss > most_memory:
                raise _Stopped(f"it takes more than {most_memory >> 20} MiB of memory.")
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        raise _Stopped(f"the process dies with exit status {process.exitcode}.") from None


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="backslashreplace").strip().splitlines()
    return " / ".join(lines[-4:])[-500:]


def _work(kind: str, seed: int, numbers: list[int], folder: Path, log: Path, sender: Connection) -> None:
    """In the process: sends the memory it holds at its start, then for each case the mutation and the outcome."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    faulthandler.enable()
    module = load_kind(kind)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    module.prepare()
    sender.send(psutil.Process().memory_info().rss)
    for number in numbers:
        os.truncate(log, 0)
        inputs = folder / str(number)
        inputs.mkdir()
        case = make_case(kind, seed, number, inputs)
        sender.send(case.mutation)
        sender.send(judge(case))
