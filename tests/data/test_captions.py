"""What benchmarks of retrieval ask for. How captions and their lists are read is tested with retrieval."""

from modeling_videomamba.data.captions import PROTOCOLS
from tests.rows import all_rows


def test_protocols_are_the_references():
    def check(name: str, max_text_length: int, paragraph: bool, seconds: float | None) -> None:
        assert PROTOCOLS[name] == (max_text_length, paragraph, seconds)

    rows = [
        ("msrvtt", 32, False, None),
        ("didemo", 64, True, 30),  # all captions of a video are one text, of its first 30 seconds
        ("activitynet", 150, True, None),
        ("lsmdc", 96, False, None),
        ("msvd", 64, False, None),
    ]
    all_rows(check, rows)
    assert PROTOCOLS.keys() == {name for name, *_ in rows}
