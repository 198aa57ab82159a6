"""One test for a whole table: every row is checked, and all that are wrong are named at once."""

from collections.abc import Callable, Iterable
from functools import partial

import pytest


WRONG = Exception, pytest.fail.Exception  # the latter is what `pytest.raises` says when nothing was raised
LONGEST = 400  # characters of a message


def all_rows(check: Callable[..., object], rows: Iterable) -> None:
    """Calls `check` with every row; the items of a row that is a tuple are its arguments.

    Raises:
        AssertionError: naming every row for which `check` raised, and why; also if there are no rows.
    """
    count, wrong = 0, []
    for row in rows:
        count += 1
        try:
            check(*row) if isinstance(row, tuple) and not hasattr(row, "_fields") else check(row)
        except WRONG as error:
            wrong.append(f"{_cut(repr(row))}: {_cut(str(error)) or type(error).__name__}")
    if wrong or not count:
        raise AssertionError("\n".join([f"{len(wrong)} of {count} rows are wrong", *wrong]))


def for_every(rows: Iterable) -> Callable[[Callable[..., None]], Callable[[object], None]]:
    """Makes a method that checks one row a test of all of them, see [`all_rows`]."""

    def decorate(check: Callable[..., None]) -> Callable[[object], None]:
        def test(self: object) -> None:
            all_rows(partial(check, self), rows)

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
