"""Captions, and the videos or images that they describe: what benchmarks of retrieval ask for, lists, words, tokens.

A list is one of
    JSON    `[{"video": PATH, "caption": TEXT or [TEXT, ...]}, ...]`, or with `"image"` in place of `"video"`
    JSONL   such an item a line
    CSV     with a header that names its columns, such as `path,caption`; an item is a line
where `path` may stand for `video` or `image`: the suffix then tells which. The path of a video may be an http(s) address.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..video_sources import is_address
from .media_files import SUFFIXES, Media
from .text_files import is_unicode, parse_json, read_lines, read_text, shorten, split_csv


DELETED = str.maketrans("-/", "  ", ",.'!?\"()*#:;~")


class Protocol(NamedTuple):
    """How a benchmark of retrieval reads captions and videos."""

    max_text_length: int = 32  # tokens
    paragraph: bool = False  # all captions of a video are one text
    seconds: float | None = None  # what is seen of a video, from its start; `None`: all of it


PROTOCOLS = {
    "msrvtt": Protocol(32),
    "didemo": Protocol(64, paragraph=True, seconds=30),
    "activitynet": Protocol(150, paragraph=True),
    "lsmdc": Protocol(96),
    "msvd": Protocol(64),
}


class CaptionedFile(NamedTuple):
    path: str
    medium: Media
    captions: tuple[str, ...]


def clean_caption(text: str) -> str:
    """Lower case, without punctuation; hyphens and slashes become spaces."""
    return " ".join(text.lower().translate(DELETED).replace("<person>", "person").split())


def load_captions(source: str | Path, media_root: str | None = None) -> list[CaptionedFile]:
    """The videos and images of a list in their order, each once, with all their captions, cleaned.

    Args:
        source: a file that ends in `.json`, `.jsonl` or `.csv`.
        media_root: where relative paths start from; by default where the list is.

    Raises:
        FileNotFoundError: if there is no such list, or none of its files.
        ValueError: naming the list and the item that is wrong.
    """
    source = Path(source)
    if not source.is_file():
        raise FileNotFoundError(f"There is no list of captions {source}.")
    root = Path(media_root) if media_root is not None else source.parent
    files: dict[str, CaptionedFile] = {}
    for where, row in _rows(source):
        path, medium = _place(row, root, where)
        before = files.get(path, CaptionedFile(path, medium, ()))
        files[path] = before._replace(captions=before.captions + _captions(row, where))
    if not files:
        raise ValueError(f"The list {source} is empty.")
    if not any(is_address(path) or os.path.exists(path) for path in files):
        raise FileNotFoundError(
            f"None of the {len(files)} files in {source} exists, the first is {shorten(next(iter(files)))}. "
            f"Relative paths start from {root}: say otherwise with --media_root."
        )
    return list(files.values())


class CaptionTokenizer:
    """Tokens of captions, padded and cut to one length. Says once if captions are cut."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int):
        self.tokenizer, self.max_length = tokenizer, max_length
        self.has_warned = False

    def __call__(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """`input_ids` and `attention_mask`, both `(texts, max_length)`."""
        if not self.has_warned:
            self._warn_of(captions)
        tokens = self.tokenizer(
            captions, padding="max_length", truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        return tokens["input_ids"], tokens["attention_mask"]

    def _warn_of(self, captions: list[str]) -> None:
        lengths = [len(ids) for ids in self.tokenizer(captions, verbose=False)["input_ids"]]
        if too_long := sum(length > self.max_length for length in lengths):
            self.has_warned = True
            print(
                f"warning: {too_long} of {len(captions)} captions are cut to {self.max_length} tokens, "
                f"the longest has {max(lengths)}",
                file=sys.stderr,
            )


def _rows(source: Path) -> Iterator[tuple[str, dict]]:
    """What is in a list, with words that say where."""
    readers = {".json": _json_rows, ".jsonl": _jsonl_rows, ".csv": _csv_rows}
    if source.suffix.lower() not in readers:
        raise ValueError(f"{source}: a list of captions is a file that ends in {', '.join(readers)}.")
    for where, row in readers[source.suffix.lower()](source):
        if not isinstance(row, dict):
            raise ValueError(f'{where}: expected an item such as {{"video": ..., "caption": ...}}, got {shorten(row)}.')
        yield where, row


def _json_rows(source: Path) -> Iterator[tuple[str, object]]:
    rows = parse_json(read_text(source), str(source))
    if not isinstance(rows, list):
        raise ValueError(f"{source}: expected a list of items, got {shorten(rows)}.")
    for number, row in enumerate(rows, start=1):
        yield f"{source}, item {number}", row


def _jsonl_rows(source: Path) -> Iterator[tuple[str, object]]:
    for where, line in read_lines(source):
        yield where, parse_json(line, where)


def _csv_rows(source: Path) -> Iterator[tuple[str, object]]:
    lines = read_lines(source)
    where, header = next(lines, (str(source), ""))
    names = split_csv(header, where)
    if "caption" not in names or len(set(names)) < len(names):
        form = "a header of different names, such as `path,caption`"
        raise ValueError(f"{where}: expected {form}, got {shorten(header)}.")
    for where, line in lines:
        fields = split_csv(line, where)
        if len(fields) != len(names):
            raise ValueError(
                f"{where}: expected {len(names)} fields, as in the header, got {len(fields)}: {shorten(line)}. "
                "A caption with a comma needs quotes around it."
            )
        yield where, dict(zip(names, fields))


def _place(row: dict, root: Path, where: str) -> tuple[str, Media]:
    given = [name for name in ("video", "image", "path") if row.get(name)]
    if len(given) != 1 or not isinstance(path := row[given[0]], str) or not is_unicode(path) or "\0" in path:
        raise ValueError(f"{where}: expected one path, as `video`, `image` or `path`, got {shorten(row)}.")
    medium = given[0]
    if medium == "path":
        medium = "image" if Path(path).suffix.lower() in SUFFIXES["image"] else "video"
    return path if is_address(path) else str(root / path), medium


def _captions(row: dict, where: str) -> tuple[str, ...]:
    captions = row.get("caption")
    captions = [captions] if isinstance(captions, str) else captions
    if not isinstance(captions, list) or not captions or not all(isinstance(x, str) and is_unicode(x) for x in captions):
        raise ValueError(f"{where}: expected a `caption`, a text or a list of texts, got {shorten(row)}.")
    cleaned = tuple(map(clean_caption, captions))
    if "" in cleaned:
        empty = shorten(captions[cleaned.index("")])
        raise ValueError(f"{where}: the caption {empty} is empty, or nothing but punctuation.")
    return cleaned
