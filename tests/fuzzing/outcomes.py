"""What a damaged input may lead to: a right result, or one clear error. Everything else is a fault."""

import traceback
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, TypeVar


T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
LONGEST_MESSAGE = 2000


class Outcome(StrEnum):
    RIGHT = "right"
    CLEAR_ERROR = "clear error"
    FAULT = "fault"


class Fault(Exception):
    """A wrong result, or an error that is not clear; the message tells which."""


class ClearError(NamedTuple):
    message: str


class Case(NamedTuple):
    """One damaged input: what was done to it, and the check of what the project makes of it.

    The check returns `None` for a right result or the clear error. It raises [`Fault`], or lets an exception through, which is
    a fault, too.
    """

    mutation: str
    check: Callable[[], ClearError | None]


class Result(NamedTuple):
    kind: str
    seed: int
    number: int
    mutation: str
    outcome: Outcome
    detail: str

    @property
    def command(self) -> str:
        """What repeats this case."""
        return f"python -m tests.fuzzing {self.kind} --seed {self.seed} --case {self.number} --keep faults"

    def __str__(self) -> str:
        return f"{self.kind} {self.number}: {self.mutation}\n    {self.outcome}: {self.detail}\n    {self.command}"


def attempt(
    action: Callable[[], T],
    *,
    mentions: Sequence[str],
    errors: tuple[type[Exception], ...] = (ValueError, OSError),
    most_lines: int = 1,
) -> T | ClearError:
    """What `action` returns, or its error if it is a clear one.

    Args:
        mentions: the error must name one of these: the file, the field.
        errors: the types that a clear error may have.
        most_lines: the lines that its message may have.

    Raises:
        Fault: for any other exception.
    """
    try:
        return action()
    except errors as error:
        message = str(error)
        if complaint := _complaint(message, mentions, most_lines):
            raise Fault(f"the error {complaint}: {describe(error)}") from error
        return ClearError(message)
    except Exception as error:
        raise Fault(f"not one of the errors expected: {describe(error)}") from error


def judge(case: Case) -> tuple[Outcome, str]:
    """The outcome of a case, and what there is to say about it."""
    try:
        answer = case.check()
    except Fault as fault:
        return Outcome.FAULT, str(fault)
    except Exception as error:
        return Outcome.FAULT, describe(error)
    return (Outcome.RIGHT, "") if answer is None else (Outcome.CLEAR_ERROR, answer.message)


def describe(error: Exception) -> str:
    """Type, message, and the innermost line of the project that it came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(ROOT)]
    places = [frame for frame in frames if "fuzzing" not in Path(frame.filename).parts] or frames
    where = f" ({Path(places[-1].filename).relative_to(ROOT)}:{places[-1].lineno})" if places else ""
    return f"{type(error).__name__}: {str(error)[:500]!r}{where}"


def _complaint(message: str, mentions: Sequence[str], most_lines: int) -> str | None:
    lines = message.splitlines()
    if not 1 <= len(lines) <= most_lines:
        return f"has {len(lines)} lines"
    if not all(line.isprintable() for line in lines):
        return "holds characters that cannot be printed"
    if len(message) > LONGEST_MESSAGE:
        return f"is {len(message)} characters long"
    if not any(name in message for name in mentions):
        return f"does not name {' or '.join(mentions[:3])}{', ...' if len(mentions) > 3 else ''}"
    return None
