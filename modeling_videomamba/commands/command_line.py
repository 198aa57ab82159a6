"""How every command ends: a user's mistake is one line, and progress bars are for terminals.

It is imported before the module of a command: it says how to install a package that is missing.
"""

import dis
import errno
import functools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType

from huggingface_hub import constants
from huggingface_hub.utils import disable_progress_bars
from tqdm import tqdm

from ..data import interruption
from ..data.extras import EXTRAS, how_to_install


PACKAGE = Path(__file__).resolve().parents[1]
OUR_PACKAGES = ("__main__", "__mp_main__", "examples", "conversion", "modeling_videomamba", "transformers_modules")
# Whose `raise` statements speak to users: our modules, and those of `datasets` that look for the data a user names
SPEAKERS = re.compile(
    r"__main__|__mp_main__|(examples|conversion|modeling_videomamba|transformers_modules|huggingface_hub)\b.*"
    r"|datasets\.(load|builder|data_files)"
)
# Functions of libraries that read what a user names, and their argument that says what
LOADERS = {
    ("transformers", "from_pretrained"): "pretrained_model_name_or_path",
    ("datasets", "load_dataset"): "path",
    ("datasets", "load_from_disk"): "dataset_path",
}
NO_SPACE = re.compile(r"No space left on device|PytorchStreamWriter failed writing", re.IGNORECASE)
NO_MEMORY = re.compile(r"can't allocate memory|not enough memory", re.IGNORECASE)  # of PyTorch on a CPU
SECONDS_FOR_THE_FIRST = 10.0


def run_command(main: Callable[..., None], *args: object) -> None:
    """Calls `main`. An exception that is a user's mistake becomes a line on stderr and exit status 2, Ctrl-C status 130.

    All others are faults of this project and keep their traceback. `python -X dev` shows that of every exception.
    """
    try:
        main(*args)
    except (Exception, KeyboardInterrupt) as error:
        status = report(error)
        if status is None:
            raise
        sys.exit(status)


def report(error: BaseException) -> int | None:
    """Prints the line for an exception and returns the exit status; `None`, and no line, if its traceback is needed.

    Of several processes that meet the same error only the first speaks: the others wait, and the launcher ends them meanwhile.
    """
    if isinstance(error, BrokenPipeError):  # of `| head`, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter fails to flush it at exit
        return 1
    if os.environ.get("RANK", "0") != "0":
        time.sleep(SECONDS_FOR_THE_FIRST)
    if sys.flags.dev_mode:
        return None
    signal_number = getattr(error, "sigval", signal.SIGINT if isinstance(error, KeyboardInterrupt) else None)
    if signal_number is not None:  # `sigval` is torch.distributed's, whose launcher turns signals into exceptions
        _print(f"interrupted{interruption.note}")
        return 128 + signal_number
    if isinstance(error, subprocess.CalledProcessError):  # a script that another one started has said what is wrong
        return error.returncode if error.returncode > 0 else 1
    if type(error).__name__ == "ChildFailedError":  # as above, a process of torch.distributed
        return max(error.get_first_failure()[1].exitcode, 1)
    message = message_of(error)
    if message is None:
        return None
    _print(f"error: {message}")
    return 2


def message_of(error: BaseException) -> str | None:
    """What to tell the user whose mistake the exception is; `None` if it is a fault of this project.

    The user's are: what a `raise` statement of ours says, since ours check what users give; what a library raises while it
    loads a model or data set that a user names; errors of the operating system and of the network, whoever raises them;
    packages that are not installed; a full disk or GPU. Any other `ValueError` that Python or a library raises on its own
    means that one of our checks is missing, so it is a fault of ours.
    """
    chain = list(_chain(error))
    if any(getattr(link, "errno", None) == errno.ENOSPC or NO_SPACE.search(str(link)) for link in chain):
        places = [str(link.filename) for link in chain if isinstance(link, OSError) and link.filename]
        return f"no space left on the disk{f', while writing {places[0]}' if places else ''}"
    if isinstance(error, ImportError) and (message := _missing_package(error)):
        return message
    source = _loaded_source(error)
    if isinstance(error, OSError):
        is_numbered = error.strerror and error.filename is not None
        text = f"{error.filename}: {error.strerror}" if is_numbered else str(error)
        return one_line(text if source is None or source in text else f"Cannot load {source}: {text}")
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
        return one_line(f"{error} Smaller batches need less, such as --per_device_train_batch_size 1.")
    if type(error).__name__.startswith("StrictDataclass") and error.__cause__ is not None:  # of a configuration's field
        return one_line(str(error.__cause__))
    if worker := re.match(r"Caught \w+ in DataLoader worker process", str(error)):
        return _message_of_worker(str(error)[worker.end() :])
    if _is_said_to_users(error):
        return one_line(str(error))
    if source is not None:
        return one_line(f"Cannot load {source}: {type(error).__name__}: {error}")
    return None


def _is_said_to_users(error: BaseException) -> bool:
    """Whether the exception comes from a `raise` statement of a module whose errors are for users."""
    traceback = error.__traceback__
    if traceback is None or isinstance(error, AssertionError):
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    frame = traceback.tb_frame
    is_statement = frame.f_code.co_code[traceback.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return is_statement and SPEAKERS.fullmatch(frame.f_globals.get("__name__", "")) is not None


def _loaded_source(error: BaseException) -> str | None:
    """The model or data set that a library was loading when the library, not our code, raised the exception."""
    source, package, traceback = None, "", error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if source is None and (argument := LOADERS.get((package, frame.f_code.co_name))):
            source = frame.f_locals.get(argument)
        traceback = traceback.tb_next
    return None if source is None or package in OUR_PACKAGES else str(source)


def _message_of_worker(text: str) -> str | None:
    """As [`message_of`], from the traceback that a process of a data loader sent."""
    frames = re.findall(r'File "(.+)", line \d+, in .+\n +(.+)', text)
    if not frames or not frames[-1][1].startswith("raise ") or not Path(frames[-1][0]).is_relative_to(PACKAGE):
        return None
    return one_line(re.split(r"\n[\w.]+: ", text)[-1])


def _missing_package(error: ImportError) -> str | None:
    """For a package that an extra brings, by its name or, where transformers asks for it, in the message."""
    for extra, packages in EXTRAS.items():
        for package in packages:
            named = error.name is not None and error.name.split(".")[0] == package
            if named or (error.name is None and re.search(rf"requires\b.*\b{package}\b", str(error))):
                return f"The package {package} is not installed: {how_to_install(extra)} brings it."
    return None


def _chain(error: BaseException | None) -> Iterable[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def one_line(text: str) -> str:
    return " ".join(text.split())


def _print(line: str) -> None:
    """On stderr, after what a progress bar has drawn there."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)


def _explain(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """For what is raised outside of [`run_command`], while a command imports what it needs."""
    status = report(error)
    if status is None:
        sys.__excepthook__(kind, error, traceback)
    else:
        sys.exit(status)


def _limit_progress_bars() -> None:
    """Those of all libraries are off where stderr is not a terminal, and are wiped when they are full where it is one.

    `TQDM_LEAVE` and `TQDM_DISABLE` in the environment win.
    """
    defaults = {} if "TQDM_LEAVE" in os.environ else {"leave": False}
    if not sys.stderr.isatty():
        if "TQDM_DISABLE" not in os.environ:
            defaults["disable"] = True
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # read when it is imported
        if constants.HF_HUB_DISABLE_PROGRESS_BARS is None:
            disable_progress_bars()
    tqdm.__init__ = functools.partialmethod(tqdm.__init__, **defaults)


_limit_progress_bars()
sys.excepthook = _explain
