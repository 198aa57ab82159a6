"""A table that is checked in one test fails for each of its rows."""

from typing import NamedTuple

import pytest

from tests.rows import all_rows, for_every


class Named(NamedTuple):
    name: str
    size: int


def test_rows_that_are_right_pass():
    seen = []
    all_rows(seen.append, ["a", "b"])
    all_rows(lambda *fields: seen.append(fields), [(1, 2)])
    all_rows(seen.append, [Named("c", 3)])
    assert seen == ["a", "b", (1, 2), ("c", 3)]


def test_all_rows_that_are_wrong_are_named_with_the_reason():
    def check(name: str, size: int) -> None:
        if name == "nothing raised":
            with pytest.raises(KeyError):
                pass
        assert len(name) == size, f"it has {len(name)}"

    with pytest.raises(AssertionError) as error:
        all_rows(check, [("one", 3), ("two", 4), ("nothing raised", 14), ("four", 4), ("five", 9)])
    message = str(error.value)
    assert message.startswith("3 of 5 rows are wrong\n")
    for named in ("('two', 4): it has 3", "('nothing raised', 14): DID NOT RAISE", "('five', 9): it has 4"):
        assert named in message
    assert "'one'" not in message and "'four'" not in message


def test_a_long_reason_is_cut():
    def fail(text: str) -> None:
        raise ValueError(text * 1000)

    with pytest.raises(AssertionError, match=r"1 of 1 rows are wrong\n'x': x{400}\.\.\.$"):
        all_rows(fail, ["x"])


def test_a_table_without_rows_is_wrong():
    """Where a table is found by a pattern, a pattern that no longer matches must not pass."""
    with pytest.raises(AssertionError, match="0 of 0 rows"):
        all_rows(print, [])


def test_a_method_that_checks_one_row_becomes_a_test_of_all():
    class Lengths:
        longest = 1

        @for_every([("a",), ("ab",), ("abc",)])
        def test(self, name):
            assert len(name) <= self.longest

    with pytest.raises(AssertionError, match="^2 of 3 rows are wrong"):
        Lengths().test()
