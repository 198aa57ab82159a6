"""Damaged lists of videos, captions and label names: what each reader makes of them.

What is right is told without the readers' rules. A list is made of units, which are lines or items of JSON. Each unit that the
damage left as it was must give its row, in its place, and there are no more rows than units.
"""

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from numpy.random import Generator

from modeling_videomamba.checkpoints.labels import load_labels
from modeling_videomamba.data.captions import clean_caption, load_captions
from modeling_videomamba.data.media_lists import load_media
from modeling_videomamba.inference.bulk_classification import list_videos

from .mutations import damage
from .outcomes import Case, ClearError, Fault, attempt


Row = tuple[str, ...]  # path and label; path; path and caption; name of a label

NAMES = ["a.mp4", "b 2.mp4", "c,3.mp4", "d'4.mp4", 'e"5.mp4', "é6.mkv", "#7.mp4", "下8.mp4", "http://host/9.mp4", "sub/10.avi"]
CLASSES = ["run", "jump high", "swim, fast", 'say "hi"', "tanzen – schön", "0"]
FIELDS = [  # what takes the place of a field, or is put into it
    *["", " ", ",", ",,", '"', '"', '"', '"x', 'x"y', "\x00", "\x07", "\x1b[2J", "\u2028", "\x85", "\x0b", "\r", "\ufeff"],
    *[
        "10000000000",
        "-1",
        "1e400",
        "nan",
        "-inf",
        "9" * 5000,
        "0x10",
        "१२",
        "1_000",
        "1.5",
        "true",
        "=1+1",
        "#",
        "a" * 200_000,
    ],
]
VALUES = [None, True, -1, 10**10, 10**400, math.nan, math.inf, "", "text", [], {}, [[]], [None], ["a", 1], {"a": {}}, "\x00"]


class _List(NamedTuple):
    units: list[str]
    rows: list[Row | None]  # of each unit, `None` for a header
    suffix: str
    separator: str = ","


class _Reader(NamedTuple):
    make: Callable[[Generator], _List]
    read: Callable[[Path, int], list[Row]]  # the number is that of the rows before the damage


def prepare() -> None:
    """Nothing is shared."""


def make_case(random: Generator, folder: Path) -> Case:
    for name in NAMES:
        if "://" not in name:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).touch()
    reader_name = list(READERS)[random.integers(len(READERS))]
    reader = READERS[reader_name]
    made = reader.make(random)
    units, alterations = list(made.units), []
    for _ in range(random.choice(3, p=[0.2, 0.6, 0.2])):
        alterations.append(_alter(random, units, made))
    content = render(units, made.suffix).encode()
    if random.random() < 0.3:
        altered, content = _alter_file(random, content)
        alterations.append(altered)
    path = folder / f"list{made.suffix}"
    path.write_bytes(content)
    is_whole = {"CRLF", "a byte order mark"}.issuperset(alterations)
    return Case(f"{reader_name}: {', '.join(alterations) or 'as written'}", lambda: check(path, reader, made, is_whole))


def check(path: Path, reader: _Reader, made: _List, is_whole: bool) -> ClearError | None:
    """Reads the list; if it is whole, it must be read."""
    written = [row for row in made.rows if row]
    rows = attempt(lambda: reader.read(path, len(written)), mentions=[str(path)])
    if isinstance(rows, ClearError):
        if is_whole:
            raise Fault(f"a well-formed list is refused: {rows.message}")
        return rows
    try:
        units = split(path.read_bytes().decode("utf-8-sig"), path.suffix)
    except (ValueError, RecursionError) as error:
        raise Fault(f"what cannot be read ({type(error).__name__}) gives the rows {_short(rows)}") from None
    if is_whole and rows != written:
        raise Fault(f"the rows {_short(rows)} instead of {_short(written)}")
    if units is not None:
        row_of = dict(zip(made.units, made.rows))
        damaged = [unit for unit in units if unit not in row_of]
        _check_undamaged([row_of[unit] for unit in units if row_of.get(unit)], rows, damaged)
        if len(rows) > len(units):
            raise Fault(f"{len(rows)} rows of {len(units)} lines or items: {_short(rows)}")
    return None


def render(units: list[str], suffix: str) -> str:
    if suffix != ".json":
        return "".join(f"{unit}\n" for unit in units)
    brackets = "{}" if units and units[0].startswith('"') and '": ' in units[0] else "[]"
    return brackets[0] + ",\n".join(units) + brackets[1]


def split(text: str, suffix: str) -> list[str] | None:
    """The inverse of [`render`]; `None` for a table with fields of several lines, all of whose quotes close.

    Raises:
        ValueError, RecursionError: if it is not JSON.
    """
    if suffix == ".json":
        content = json.loads(text)
        if isinstance(content, dict):
            return [f"{_json(name)}: {_json(value)}" for name, value in content.items()]
        return [_json(item) for item in content] if isinstance(content, list) else []
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    try:
        if any("\n" in field for row in csv.reader(io.StringIO(text, newline=""), strict=True) for field in row):
            return None
    except csv.Error:
        pass
    return [line for line in text.split("\n") if line.strip()]


def _check_undamaged(expected: list[Row], rows: list[Row], damaged: list[str]) -> None:
    """Raises `Fault` unless the expected rows are among `rows`, in order. Readers may leave out what is there twice.

    `damaged`: the other units. Where one of them may have given the row of an undamaged one, its place proves nothing.
    """
    if missing := [row for row in expected if row not in rows]:
        raise Fault(f"{_short(missing)}, of undamaged lines or items, are missing: {_short(rows)}")
    expected = [row for row in dict.fromkeys(expected) if not any(row[0] in unit for unit in damaged)]
    if [row for row in dict.fromkeys(rows) if row in expected] != expected:
        raise Fault(f"undamaged lines or items are in disorder: {_short(rows)}")


def _alter(random: Generator, units: list[str], made: _List) -> str:
    """Alters one of the units in place, and tells how."""
    i = int(random.integers(len(units)))
    field = FIELDS[random.integers(len(FIELDS))]
    at = int(random.integers(len(units[i]) + 1))
    parts = units[i].split(made.separator)
    j = int(random.integers(len(parts)))
    how = int(random.integers(9))
    if how <= 2:
        units[i] = units[i][:at] + field + units[i][at:]
        return f"{field[:12]!r} put into line {i} at {at}"
    if how <= 4 and made.suffix in (".json", ".jsonl"):
        return f"line {i} with the value {_replace_value(random, units, i)}"
    if how <= 4:
        units[i] = made.separator.join([*parts[:j], field, *parts[j + 1 :]])
        return f"{field[:12]!r} instead of field {j} of line {i}"
    if how == 5:
        units[i] = units[i][:at] + units[i][at + 1 :]
        return f"a character taken from line {i} at {at}"
    if how == 6:
        units[i] = ["", "   ", "# a remark", '"', "[" * 100_000, "\x00" * 100][(what := int(random.integers(6)))]
        return f"line {i} replaced ({what})"
    if how == 7:
        units.insert(int(random.integers(len(units) + 1)), units[i])
        return f"line {i} there twice"
    units[i] = made.separator.join(parts[:j] if random.random() < 0.5 else [*parts, field])
    return f"line {i} with {units[i].count(made.separator) + 1} of {len(parts)} fields"


def _replace_value(random: Generator, units: list[str], i: int) -> str:
    """Of an item of JSON, or of one of its fields."""
    value = VALUES[random.integers(len(VALUES))]
    try:
        item = json.loads(units[i])
    except (ValueError, RecursionError):  # of an object, or altered before
        units[i] = f"{units[i].split(': ')[0]}: {_json(value)}"
    else:
        names = [*item, "caption"] if isinstance(item, dict) else []
        units[i] = _json(item | {names[random.integers(len(names))]: value} if names else value)
    return _json(value)[:20]


def _alter_file(random: Generator, content: bytes) -> tuple[str, bytes]:
    how = random.integers(6)
    if how == 0:
        return "CRLF", content.replace(b"\n", b"\r\n")
    if how == 1:
        return "a byte order mark", b"\xef\xbb\xbf" + content
    if how == 2:
        codec = ["utf-16", "utf-16-le", "latin-1", "shift-jis"][random.integers(4)]
        return codec, content.decode(errors="replace").encode(codec, "replace")
    if how == 3:
        return "CR", content.replace(b"\n", b"\r")
    return damage(random, content)


def _make_table(random: Generator, labelled: bool = True, suffixes: tuple[str, ...] = (".csv", ".txt")) -> _List:
    """Paths with labels, as a table with commas or spaces; or just paths."""
    separator = [",", " "][random.integers(2)]
    fits = [name for name in NAMES if not labelled or separator == "," or not set(name) & set(',"')]
    names = random.permutation(fits)[: random.integers(2, 9)].tolist()
    classes = CLASSES if separator == "," else [name for name in CLASSES if not set(name) & set(', "')]
    sets = [classes, ["0", "1", "2"], ["0.5", "-3", "1e3"]]
    labels = [str(x) for x in random.choice(sets[random.integers(3)], size=len(names))]
    suffix = suffixes[random.integers(len(suffixes))]
    if not labelled:
        return _List(names, [(name,) for name in names], suffix)
    records = [[name, label, "9.5"] for name, label in zip(names, labels)]
    records = [record[: 3 if random.random() < 0.5 else 2] for record in records] if random.random() < 0.5 else records
    write = _csv_line if separator == "," else " ".join
    units, rows = [write(record) for record in records], [(name, _number(label)) for name, label in zip(names, labels)]
    if separator == "," and random.random() < 0.5:
        return _List([",".join(["path", "label", "seconds"][: len(records[0])]), *units], [None, *rows], suffix)
    return _List(units, rows, suffix, separator)


def _make_captions(random: Generator) -> _List:
    names = random.permutation(NAMES)[: random.integers(2, 7)].tolist()
    captions = [f"{['a cat', 'runs, fast', 'says hi', 'the élan', '下'][random.integers(5)]} {i}" for i in range(len(names))]
    rows = [(name, clean_caption(caption)) for name, caption in zip(names, captions)]
    suffix = [".csv", ".json", ".jsonl"][random.integers(3)]
    if suffix == ".csv":
        return _List(["path,caption", *map(_csv_line, zip(names, captions))], [None, *rows], suffix)
    key = ["path", "video"][random.integers(2)]
    wrap = [lambda text: text, lambda text: [text]][random.integers(2)]
    return _List([_json({key: name, "caption": wrap(text)}) for name, text in zip(names, captions)], rows, suffix)


def _make_labels(random: Generator) -> _List:
    names = random.permutation(CLASSES)[: random.integers(2, len(CLASSES))].tolist()
    rows = [(name,) for name in names]
    how = random.integers(3)
    if how == 0:
        return _List(names, rows, ".txt")
    return _List([_json(name) if how == 1 else f'"{i}": {_json(name)}' for i, name in enumerate(names)], rows, ".json")


def _read_labelled(path: Path, count: int) -> list[Row]:
    table = load_media(str(path), "train")
    return [(_relative(row["video"], path), _number(row["label"])) for row in table]


def _read_unlabelled(path: Path, count: int) -> list[Row]:
    return [(_relative(row["video"], path),) for row in load_media(str(path), "train", labelled=False)]


def _read_bulk(path: Path, count: int) -> list[Row]:
    return [(_relative(video, path),) for video in list_videos(str(path), None)]


def _read_captions(path: Path, count: int) -> list[Row]:
    return [(_relative(file.path, path), caption) for file in load_captions(path) for caption in file.captions]


def _read_labels(path: Path, count: int) -> list[Row]:
    names = load_labels(str(path), count)
    if sorted(names) != list(range(count)) or len(set(names.values())) < count:
        raise Fault(f"{count} labels that are not all there, or not unique: {_short(names)}")
    return [(names[i],) for i in range(count)]


READERS = {
    "labelled": _Reader(_make_table, _read_labelled),
    "unlabelled": _Reader(lambda random: _make_table(random, labelled=False), _read_unlabelled),
    "bulk": _Reader(lambda random: _make_table(random, labelled=False), _read_bulk),
    "bulk, of a labelled list": _Reader(
        lambda random: (made := _make_table(random))._replace(rows=[row and row[:1] for row in made.rows]), _read_bulk
    ),
    "captions": _Reader(_make_captions, _read_captions),
    "labels": _Reader(_make_labels, _read_labels),
}


def _relative(path: str, listed: Path) -> str:
    return path.removeprefix(f"{listed.parent}/")


def _number(label: object) -> str:
    try:
        return str(float(label))
    except (ValueError, OverflowError, TypeError):
        return str(label)


def _csv_line(fields: tuple[str, ...]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="").writerow(fields)
    return file.getvalue()


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _short(content: object) -> str:
    text = repr(content)
    return text if len(text) < 300 else f"{text[:300]} ..."
