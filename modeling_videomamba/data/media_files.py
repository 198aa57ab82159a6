"""Video and image files of a folder."""

import mimetypes
import os
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Literal

import av
from PIL import Image

from ..video_sources import PICTURE_FORMATS, VIDEO_FORMATS


Media = Literal["video", "image"]

MOST_SUFFIXES = 5  # in a message

# FFmpeg's names of formats that are only written under these names: 3gp and the like are read as mov.
WRITTEN_FORMATS = ("3gp", "3g2", "amv", "dvd", "f4v", "mpeg1video", "mpeg2video", "ogv", "psp", "vob")
# What no library lists: MPEG and DivX, recordings of cameras and television, RealMedia.
OTHER_VIDEO_SUFFIXES = {".divx", ".insv", ".lrv", ".mpv", ".ogm", ".ogx", ".rmvb", ".tod", ".trp", ".xvid"}
# Of the formats of videos, those for sound, pictures and subtitles, and names that mostly mean something else.
NOT_VIDEO_SUFFIXES = {".avif", ".avs", ".heic", ".heif", ".ism", ".isma", ".jxl", ".m4a", ".m4b", ".mka", ".mks", ".mpa"}
NOT_VIDEO_SUFFIXES |= {".mpo", ".ogg", ".ra", ".wma"}


def _video_suffixes() -> set[str]:
    """Those that PyAV and Python list for videos, so that a folder is searched for what can be opened."""
    formats = [name for name in (*VIDEO_FORMATS, *WRITTEN_FORMATS) if name in av.formats_available]
    suffixes = {f".{suffix}" for name in formats for suffix in av.format.ContainerFormat(name).extensions}
    types = mimetypes.MimeTypes(filenames=()).types_map[True]
    suffixes |= {suffix for suffix, kind in types.items() if kind.startswith("video/")}
    return (suffixes | OTHER_VIDEO_SUFFIXES) - NOT_VIDEO_SUFFIXES


def _image_suffixes() -> set[str]:
    """Those that Pillow lists for pictures that do not move."""
    suffixes = Image.registered_extensions()
    return {suffix for suffix, name in suffixes.items() if name in PICTURE_FORMATS} - {".apng", ".avifs"}


SUFFIXES = {"video": _video_suffixes(), "image": _image_suffixes()}


def find_files(folder: Path, media: Media, others: Counter[str] | None = None) -> list[Path]:
    """The videos or images in a folder and the folders in it, in order, without hidden ones, whose names start with a dot.

    Links to folders are followed. A folder is searched once, however many links lead to it, and by its own path if it has one.
    `others` counts the suffixes of the files that are passed over, see [`passed_over`].
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
    wanted = [path for path in found if path.suffix.lower() in SUFFIXES[media]]
    if others is not None:
        others.update(path.suffix.lower() for path in found if path.suffix.lower() not in SUFFIXES[media])
    return sorted(wanted)


def search_folder(folder: Path, media: Media) -> list[Path]:
    """As [`find_files`], and says on stderr how many other files were passed over.

    Raises:
        ValueError: if there is none, or no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    found = find_files(folder, media, others := Counter())
    if not found:
        raise ValueError(f"The folder {folder} has no {media}s{passed_over(others)}.")
    report_passed_over(folder, media, len(found), others)
    return found


def report_passed_over(folder: Path, media: Media, num_found: int, others: Counter[str]) -> None:
    if others:
        print(f"{printable(str(folder))}: {num_found:,} {media}s{passed_over(others)}", file=sys.stderr)


def passed_over(others: Counter[str]) -> str:
    """As in `", 3 other files passed over (.jpg, .txt)"`, to follow the number of files found; empty if there are none."""
    if not others:
        return ""
    suffixes = sorted(others, key=lambda suffix: (-others[suffix], suffix))[:MOST_SUFFIXES]
    suffixes = [printable(suffix) or "without a suffix" for suffix in suffixes]
    suffixes += ["..."] if len(others) > MOST_SUFFIXES else []
    files = "file" if others.total() == 1 else "files"
    return f", {others.total():,} other {files} passed over ({', '.join(suffixes)})"


def printable(text: str) -> str:
    r"""A text, such as the name of a file, that terminals and tables show as it is and that can be written as UTF-8.

    Control characters, line ends, marks that turn the direction of writing, and halves of characters (what is not UTF-8 in a
    name) become `\x1b`, `\n`, `\u202e`, `\udce9` and the like.
    """
    return "".join(char.encode("unicode_escape").decode() if _is_control(char) else char for char in text)


def _is_control(char: str) -> bool:
    is_control = unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")
    return is_control or unicodedata.bidirectional(char) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def reason_of(error: Exception, video: str) -> str:
    """Why a video has no answer: an error that was foreseen says it itself, of all others the type counts."""
    return str(error) if isinstance(error, ValueError | OSError) else f"{video}: {type(error).__name__}: {error}"
