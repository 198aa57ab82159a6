"""Video and image files of a folder."""

from pathlib import Path
from typing import Literal


Media = Literal["video", "image"]

SUFFIXES = {
    "video": {".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm"},
    "image": {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"},
}


def find_files(folder: Path, media: Media) -> list[Path]:
    """The videos or images in a folder and the folders in it, in order, without hidden ones, whose names start with a dot."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES[media])
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def printable(name: str) -> str:
    r"""The name of a file, with `\udce9` and the like for what is no UTF-8, which terminals, tables and pictures refuse."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
