"""The list of faults that tests must catch keeps up with the code. `python -m tests.faults` plants them."""

from collections import Counter

import pytest

from tests.faults import __main__ as faults
from tests.faults.__main__ import Fault, load


def test_every_fault_can_be_planted_and_has_a_name_of_its_own():
    names = Counter(fault.name for fault in load([]))
    assert len(names) >= 200
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"old": "no such text"}, "tests/rows.py holds the text to replace 0 times"),
        ({"old": "import"}, "tests/rows.py holds the text to replace"),
        ({"new": "def all_rows"}, "tests/rows.py holds the text to replace 1 times"),
        ({"file": "tests/rows.txt"}, "there is no file tests/rows.txt"),
        ({"tests": ("tests/test_row.py", "-k", "rows")}, "there is no test file tests/test_row.py"),
    ],
)
def test_one_that_cannot_is_named(change, why):
    fault = Fault(
        **{"name": "a", "file": "tests/rows.py", "old": "def all_rows", "new": "def rows", "tests": ("tests/test_rows.py",)}
    )
    assert faults.why_not(fault) is None
    assert f"a: {why}" in faults.why_not(Fault(**vars(fault) | change))
