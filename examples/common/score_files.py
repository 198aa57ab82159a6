"""Scores on disk, from which an evaluation or bulk inference that was interrupted goes on.

Every process has a part file of its own, `part-0.jsonl` and so on, and adds a line to it for every sample that is done.
`settings.json` beside them says what the scores depend on.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import TextIO


def fingerprint(*parts: bytes) -> str:
    """16 letters that change with any of the parts."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]


def read_parts(folder: Path, key: str, name: str = "part") -> dict[int | str, dict]:
    """The rows in all files `{name}-*.jsonl`, by what they have for `key`."""
    rows = {}
    for part in folder.glob(f"{name}-*.jsonl"):
        for line in part.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):  # else the process was killed while it wrote the line
                row = json.loads(line)
                rows[row[key]] = row
    return rows


def open_part(file: Path) -> TextIO:
    """Opens a part file to write on after its last whole line."""
    if file.exists():
        os.truncate(file, file.read_bytes().rfind(b"\n") + 1)
    return file.open("a", encoding="utf-8")


def add_row(part: TextIO, row: dict) -> None:
    """Adds a line, which from then on outlives the process."""
    part.write(json.dumps(row) + "\n")
    part.flush()
