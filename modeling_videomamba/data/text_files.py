"""Text files that people write: lists, captions, label names. Whatever is wrong with one is an error that names file and line.

A line is a record, in CSV too: paths, labels and captions hold no line breaks, so a quote that is never closed cannot swallow
the lines after it.
"""

import codecs
import csv
import json
from collections.abc import Iterator
from pathlib import Path


UTF_16 = codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE


def read_text(path: Path) -> str:
    """The content of a file in UTF-8, with or without a byte order mark, with `\\n` at the end of its lines.

    Raises:
        ValueError: if it is not text in UTF-8, naming the line.
    """
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    if content.startswith(UTF_16):
        raise ValueError(f"{path}, line 1: the file is in UTF-16. Save it as UTF-8.")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        number = content[: error.start].count(b"\n") + 1
        bad = f"byte 0x{content[error.start]:02x}, {error.reason}"
        raise ValueError(f"{path}, line {number}: not text in UTF-8 ({bad}). Save it as UTF-8.") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if (position := text.find("\0")) >= 0:
        number = text[:position].count("\n") + 1
        raise ValueError(f"{path}, line {number}: not text, it holds a null character.")
    return text


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Every line that is not blank, after the words that say where it is: `("list.csv, line 3", "b.mp4,dog")`.

    Raises:
        ValueError: see [`read_text`].
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield f"{path}, line {number}", line


def split_csv(line: str, where: str) -> list[str]:
    """The fields of a line of CSV, without spaces around them.

    Raises:
        ValueError: if it is not CSV, above all if a quote is not closed.
    """
    try:
        [fields] = csv.reader([line], strict=True, skipinitialspace=True)
    except csv.Error as error:
        reason = "a quote is not closed" if "unexpected end of data" in str(error) else f"not CSV ({error})"
        raise ValueError(f"{where}: {reason}: {shorten(line)}") from None
    return [field.strip() for field in fields]


def parse_json(text: str, where: str) -> object:
    """What JSON says.

    Raises:
        ValueError: if it is not JSON, is too deep, has a number too long, or an object with the same key twice.
    """

    def as_dict(pairs: list[tuple[str, object]]) -> dict[str, object]:
        items = {}
        for key, value in pairs:
            if key in items:
                raise ValueError(f"an object has the key {key!r} twice")
            items[key] = value
        return items

    try:
        return json.loads(text, object_pairs_hook=as_dict)
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if "\n" in text.strip() else ""
        raise ValueError(f"{where}{line}: not JSON ({error.msg}, column {error.colno}).") from None
    except RecursionError:
        raise ValueError(f"{where}: JSON that is nested too deeply.") from None
    except ValueError as error:
        raise ValueError(f"{where}: {str(error).partition(';')[0]}.") from None


def is_unicode(text: str) -> bool:
    r"""Whether it can be written as UTF-8: JSON may have half a character, `"\ud800"`."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def shorten(value: object) -> str:
    """The value as Python writes it, cut to what an error has room for: the beginning and the end."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:98]}...{text[-98:]}"
