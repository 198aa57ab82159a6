"""Video and image files of a folder."""

import os
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


def printable(name: str) -> str:
    r"""The name of a file, with `\udce9` and the like for what is no UTF-8, which terminals, tables and pictures refuse."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
