"""Output that appears whole or not at all, and never on top of another's."""

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout


SUFFIX = ".unfinished"
LOCK = "lock"


@contextlib.contextmanager
def written_whole(output: str | Path) -> Iterator[Path]:
    """Where to write a file or directory `output`: a path that nothing is at, moved to its place when the context ends well.

    The path is in a hidden directory beside `output`, removed in any case. If the process is killed, the directory stays, and
    the next run to the same place removes it: a lock inside tells those of live processes.

    Raises:
        FileExistsError: if `output` exists, unless it is an empty directory; also if another process made it meanwhile.
        OSError: if it cannot be written.
    """
    output = Path(output).resolve()
    check_free(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(output)
        directory, lock = _locked_directory(output)
    except OSError as error:
        raise OSError(f"Cannot write {output}: nothing can be written into {output.parent} ({error.strerror}).") from error
    try:
        content = directory / output.name
        yield content
        check_free(output)
        try:
            _move(content, output)
        except OSError as error:
            check_free(output)
            raise OSError(f"Cannot write {output}: {error.strerror or error}") from error
    finally:
        lock.release()
        shutil.rmtree(directory, ignore_errors=True)


def remove_leftovers(output: Path) -> None:
    """Removes the hidden directories of processes that were killed while they wrote `output`."""
    for directory in map(Path, glob.glob(f"{glob.escape(str(output.with_name('.' + output.name)))}-*{SUFFIX}")):
        lock = FileLock(directory / LOCK)
        with contextlib.suppress(Timeout, OSError):  # a live process holds it, or another run was quicker
            lock.acquire(timeout=0)
            shutil.rmtree(directory, ignore_errors=True)
            lock.release()


def _locked_directory(output: Path) -> tuple[Path, FileLock]:
    while True:
        directory = Path(tempfile.mkdtemp(prefix=f".{output.name}-", suffix=SUFFIX, dir=output.parent))
        lock = FileLock(directory / LOCK)
        try:
            lock.acquire(timeout=0)
        except (Timeout, FileNotFoundError):  # another run took the directory for a leftover before it was locked
            continue
        if (directory / LOCK).exists():
            return directory, lock
        lock.release()


def _move(content: Path, output: Path) -> None:
    """Moves a directory or file to a place that nothing is at, and never over what came there meanwhile."""
    if not content.is_dir():
        with contextlib.suppress(PermissionError, NotImplementedError):  # a file system without hard links
            os.link(content, output)
            return
    content.rename(output)  # over a directory, the system refuses unless it is empty


def check_free(output: Path) -> None:
    """Raises `FileExistsError` if `output` is a file or a directory that is not empty."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} exists and is not an empty directory: remove it or choose another.")
