"""Scores on disk, from which an evaluation or bulk inference that was interrupted goes on.

Every process has a part file of its own, `part-0.jsonl` and so on, and adds a line to it for every sample that is done.
`settings.json` beside them says what the scores depend on.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import TextIO

from ..data.text_files import parse_json


def fingerprint(*parts: bytes) -> str:
    """16 letters that change with any of the parts."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]


def read_parts(folder: Path, key: str, name: str = "part") -> dict[int | str, dict]:
    """The rows in all files `{name}-*.jsonl`, by what they have for `key`.

    Raises:
        ValueError: naming a file and its line, if somebody else wrote it or it is damaged.
    """
    rows = {}
    for part in sorted(folder.glob(f"{name}-*.jsonl")):
        *lines, _ = part.read_bytes().split(b"\n")  # the last one, if it is not empty, was cut off when the process was killed
        for number, line in enumerate(lines, start=1):
            row = _parse_row(line, key, f"{part}, line {number}")
            rows[row[key]] = row
    return rows


def _parse_row(line: bytes, key: str, where: str) -> dict:
    try:
        row = parse_json(line.decode("ascii", "backslashreplace"), where)
        if not isinstance(row, dict) or not isinstance(row.get(key), int | str):
            raise ValueError(f"{where}: not a row of this script.")
    except ValueError as error:
        raise ValueError(f"{error} Remove the file to have its videos done again.") from None
    return row


def open_part(file: Path) -> TextIO:
    """Opens a part file to write on after its last whole line."""
    if file.exists():
        os.truncate(file, file.read_bytes().rfind(b"\n") + 1)
    return file.open("a", encoding="utf-8")


def add_row(part: TextIO, row: dict) -> None:
    """Adds a line, which from then on outlives the process."""
    part.write(json.dumps(row) + "\n")
    part.flush()
