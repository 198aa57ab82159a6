"""Output directories: one run at a time writes to each of them, and every result in them is whole.

A run holds its directory from its first file to its last, by a lock that the operating system takes back from a process that
ends in whatever way. Of several processes that share a directory, the main one holds it.
"""

import atexit
import errno
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout


LOCK = ".lock"  # the file in the directory
PATIENCE = 10  # seconds to wait for the lock: data loading workers outlive their killed process by a few
CANNOT_LOCK = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


class _Hold(NamedTuple):
    lock: FileLock
    file: os.stat_result  # the lock's file, which vanishes with the directory
    is_new: bool  # the directory was made for it
    process: int


# By place: the lock, its file, whether this process made the directory, and the process, which a fork is not.
_held: dict[str, tuple[FileLock, os.stat_result, bool, int]] = {}


def hold(directory: str | Path) -> None:
    """Keeps other runs out of a directory, which is made if need be, until [`release`] or until the process ends.

    A process may hold a directory as often as it likes.

    Raises:
        BlockingIOError: if another run holds it.
    """
    place = os.path.abspath(directory)
    if place in _held and _is_there(place):
        return
    release(directory)
    is_new = not os.path.isdir(place)
    os.makedirs(place, exist_ok=True)
    file = Path(place, LOCK)
    holder = _read_holder(file)
    lock = FileLock(file)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise BlockingIOError(
            f"{directory} is in use: {holder} is writing to it. Wait until that run ends, or choose another directory."
        ) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in CANNOT_LOCK:
            raise
        print(f"warning: {directory} is on a file system without locks: let only one run write to it", file=sys.stderr)
        return
    with suppress(OSError):  # Windows lets nobody write to a locked file
        file.write_text(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}")
    _held[place] = _Hold(lock, file.stat(), is_new, os.getpid())


def check_held(directory: str | Path) -> None:
    """
    Raises:
        FileNotFoundError: if the directory that this process holds was removed or replaced.
    """
    place = os.path.abspath(directory)
    if place in _held and not _is_there(place):
        raise FileNotFoundError(
            f"{directory} was removed or replaced while this run was writing to it: results are missing. Start the run again."
        )


def release(directory: str | Path) -> None:
    """Lets other runs write to the directory. Removes it if this process made it and it is empty."""
    place = os.path.abspath(directory)
    if place not in _held or _held[place].process != os.getpid():  # of another process, which this one was forked from
        return
    with suppress(OSError):
        if _is_there(place):
            os.unlink(os.path.join(place, LOCK))
    lock, _, is_new, _ = _held.pop(place)
    lock.release()
    with suppress(OSError):
        if is_new:
            os.rmdir(place)


@contextmanager
def held(directory: str | Path) -> Iterator[None]:
    """Inside, this process holds the directory, see [`hold`]."""
    hold(directory)
    try:
        yield
    finally:
        release(directory)


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Where to write a new version of the file, which takes the place of the old one when it is whole, or never.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    unfinished = file.with_name(f".{file.name}")
    try:
        yield unfinished
        unfinished.replace(file)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(file)) from error
    finally:
        with suppress(OSError):
            unfinished.unlink()


def _is_there(place: str) -> bool:
    """Whether the lock's file is the one that was locked."""
    hold = _held[place]
    try:
        return hold.process == os.getpid() and os.path.samestat(os.stat(os.path.join(place, LOCK)), hold.file)
    except OSError:
        return False


def _read_holder(file: Path) -> str:
    with suppress(OSError, ValueError):
        if text := file.read_text(encoding="utf-8"):
            return text
    return "another run"


@atexit.register
def _release_all() -> None:
    for place in list(_held):
        release(place)
