"""Video and image files of a folder."""

import os
import unicodedata
from pathlib import Path
from typing import Literal


Media = Literal["video", "image"]

SUFFIXES = {
    "video": {".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm"},
    "image": {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"},
}


def find_files(folder: Path, media: Media) -> list[Path]:
    """The videos or images in a folder and the folders in it, in order, without hidden ones, whose names start with a dot.

    Links to folders are followed. A folder is searched once, however many links lead to it, and by its own path if it has one.
    """
    found, searched, starts = [], set(), [folder]
    for start in starts:  # grows by the links
        for parent, folders, files in os.walk(start):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            if (place := os.path.realpath(parent)) in searched:
                folders.clear()
                continue
            searched.add(place)
            starts += [path for name in folders if (path := Path(parent, name)).is_symlink()]
            found += [Path(parent, name) for name in files if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES[media])


def printable(text: str) -> str:
    r"""A text, such as the name of a file, that terminals and tables show as it is and that can be written as UTF-8.

    Control characters, line ends, marks that turn the direction of writing, and halves of characters (what is not UTF-8 in a
    name) become `\x1b`, `\n`, `\u202e`, `\udce9` and the like.
    """
    return "".join(char.encode("unicode_escape").decode() if _is_control(char) else char for char in text)


def _is_control(char: str) -> bool:
    is_control = unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")
    return is_control or unicodedata.bidirectional(char) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
