"""Plants every fault of `tests/faults/*.toml`, one at a time, and runs the tests that should catch it.

    python -m tests.faults                          all of them
    python -m tests.faults scan --only "last group" those of scan.toml whose names contain the words
    python -m tests.faults --sound                  plants none: do their tests pass otherwise?

A fault is a table of `name`, `file`, `old`, `new` and `tests`. `old`, which the file must hold exactly once, becomes `new`,
and then one of the `tests` (arguments of pytest) must fail. Each is planted in a copy of the checkout, so nothing here
changes. Exit status 1 if a fault was not caught, or a test fails without one.
"""

import argparse
import importlib
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TextIO

import pytest


ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns(".git", "__pycache__", "build", "*.egg-info", ".*_cache", "model_cards")


LIBRARIES = ("accelerate", "av", "datasets", "evaluate", "matplotlib.figure", "timm", "torchvision")
LIBRARIES += (
    "transformers.modeling_utils",
    "transformers.pipelines",
    "transformers.trainer",
    "transformers.video_processing_utils",
)


@dataclass(frozen=True)
class Fault:
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def load(subjects: list[str]) -> list[Fault]:
    """The faults of some files, of all if none is named.

    Raises:
        ValueError: naming the faults that can no longer be planted, since the code has changed.
    """
    files = [Path(__file__).with_name(f"{subject}.toml") for subject in subjects]
    tables = [
        tomllib.loads(file.read_text(encoding="utf-8")) for file in files or sorted(Path(__file__).parent.glob("*.toml"))
    ]
    faults = [Fault(**fault | {"tests": tuple(fault["tests"])}) for table in tables for fault in table["fault"]]
    if wrong := [why for fault in faults if (why := why_not(fault))]:
        raise ValueError("\n".join(wrong))
    return faults


def why_not(fault: Fault) -> str | None:
    """Why a fault cannot be planted; `None` if it can."""
    if not (ROOT / fault.file).is_file():
        return f"{fault.name}: there is no file {fault.file}"
    found = (ROOT / fault.file).read_text(encoding="utf-8").count(fault.old)
    if found != 1 or fault.old == fault.new:
        return f"{fault.name}: {fault.file} holds the text to replace {found} times, not once"
    if missing := [test for test in fault.tests if test.endswith(".py") and not (ROOT / test).is_file()]:
        return f"{fault.name}: there is no test file {missing[0]}"
    return None


def plant(faults: list[Fault]) -> Iterator[tuple[Fault, bool]]:
    """Every fault, and whether a test failed because of it."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(shutil.copytree(ROOT, Path(directory, "checkout"), ignore=LEFT_OUT))
        for fault in faults:
            file = copy / fault.file
            sound = file.read_text(encoding="utf-8")
            file.write_text(sound.replace(fault.old, fault.new), encoding="utf-8")
            yield fault, _fails(copy, fault.tests)
            file.write_text(sound, encoding="utf-8")


def unsound(faults: list[Fault]) -> list[tuple[str, ...]]:
    """The tests that fail without a fault, so that they tell nothing."""
    return [tests for tests in dict.fromkeys(fault.tests for fault in faults) if _fails(ROOT, tests)]


def _fails(checkout: Path, tests: tuple[str, ...]) -> bool:
    """
    Raises:
        RuntimeError: if pytest neither passed nor failed, such as when there are no such tests.
    """
    with tempfile.TemporaryFile("w+") as output:
        if (process := os.fork()) == 0:
            _run_pytest(checkout, tests, output)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if status > 2:  # below zero, the fault has killed it
            output.seek(0)
            raise RuntimeError(f"{' '.join(tests)}:\n{output.read()}")
        return status != 0


def _run_pytest(checkout: Path, tests: tuple[str, ...], output: TextIO) -> NoReturn:
    """In a fork of this process, which has imported the libraries, but not what the checkout holds."""
    status = 3
    try:
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
        os.chdir(checkout)
        os.environ |= {"PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = True
        sys.path[:] = [str(checkout), *(path for path in sys.path if Path(path or ".").resolve() not in (ROOT, checkout))]
        for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[name]
        status = pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-n", "0", *tests])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", nargs="*", help="names of files, without .toml")
    parser.add_argument("--only", default="", help="words in the names of the faults")
    parser.add_argument("--sound", action="store_true", help="run the tests without faults")
    args = parser.parse_args()
    faults = [fault for fault in load(args.subjects) if args.only in fault.name]
    for name in LIBRARIES:
        importlib.import_module(name)  # once, for all faults
    if args.sound:
        sys.exit("\n".join(f"fails without a fault: {' '.join(tests)}" for tests in unsound(faults)))
    missed = 0
    for fault, caught in plant(faults):
        missed += not caught
        print(f"{'caught' if caught else 'MISSED'}  {fault.name} ({fault.file})", flush=True)
    print(f"{len(faults) - missed} of {len(faults)} faults caught")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
