"""What a video can be given as, and how it is opened.

FFmpeg tells a format by the content, not by the name, and a playlist or a script makes it open the files that it names. So
only formats that hold a video themselves are opened, see [`VIDEO_FORMATS`].
"""

import io
import os
import stat
from typing import Any, BinaryIO

import av
from PIL import Image

from .video_download import FETCH_BYTES, FETCH_SECONDS, fetch, is_address


VideoSource = str | os.PathLike | bytes | bytearray | memoryview | BinaryIO | dict[str, Any]

# FFmpeg's names of formats that open no other file: containers, then streams without one.
VIDEO_FORMATS = (
    *(
        "mov",
        "mp4",
        "matroska",
        "webm",
        "avi",
        "asf",
        "asf_o",
        "flv",
        "live_flv",
        "kux",
        "mpegts",
        "mpeg",
        "ogg",
        "mxf",
        "mxg",
    ),
    *("gxf", "nut", "nuv", "nsv", "rm", "ivr", "swf", "wtv", "ty", "dv", "dhav", "lxf", "pva", "pmp", "ser"),
    *("gif", "apng", "jpegxl_anim", "yuv4mpegpipe", "ivf", "mjpeg", "smjpeg"),
    *("mpegvideo", "m4v", "h261", "h263", "h264", "hevc", "vvc", "evc", "av1", "obu", "vc1", "vc1test", "dirac", "dnxhd"),
    *("avs2", "avs3", "cavsvideo"),
)

HEAD_BYTES = 4096
NAMES_FILES = "not a video but the names of others: make it one file with `ffmpeg -i PLAYLIST -c copy VIDEO.mp4`"
OTHER_TEXTS = {
    "ffconcat": f"a list of files for FFmpeg, {NAMES_FILES}",
    "#extm3u": f"an HLS playlist, {NAMES_FILES}",
    "<mpd": f"a DASH manifest, {NAMES_FILES}",
    "v=0": f"the description of a network stream (SDP), {NAMES_FILES}",
    "version https://git-lfs": "a Git LFS pointer, not the file itself: `git lfs pull` fetches it",
    "<!doctype html": "an HTML page, not a video",
    "<html": "an HTML page, not a video",
}
PICTURE_FORMATS = ("AVIF", "BMP", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")


class UnreadableVideoError(Exception):
    """The message says why a video cannot be decoded, as a part of a sentence."""


def load_source(
    source: VideoSource, fetch_seconds: float = FETCH_SECONDS, fetch_bytes: int = FETCH_BYTES
) -> tuple[str | bytes, str]:
    """An absolute path or the content of a file, and the name by which errors call it.

    Args:
        source: a path, an http(s) address, the content of a file, a binary file that is open (read from its start if it can
            be), or `{"path": ..., "bytes": ...}`, as `datasets.Video` has it.
        fetch_seconds, fetch_bytes: limits for an address, see [`fetch`].

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if an address cannot be fetched, or the source is empty, not a file, or of another type.
    """
    if isinstance(source, dict):
        source = _of_dict(source)
    if hasattr(source, "read"):
        source = _content(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        content = bytes(source)
        if not content:
            raise ValueError("The video is empty: 0 bytes.")
        return content, f"<{len(content)} bytes>"
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(
            f"A video is given by a path, an http(s) address, bytes or an open file, got {type(source).__name__}."
        )
    name = os.fsdecode(source)
    if is_address(name):
        if not (content := fetch(name, fetch_seconds, fetch_bytes)):
            raise ValueError(f"The video {name} is empty: 0 bytes.")
        return content, name
    if "://" in name and not os.path.exists(name):
        raise ValueError(f"Only http(s) addresses are fetched: download {name} first.")
    _require_file(name)
    return os.path.abspath(name), name  # FFmpeg would take what comes before a colon for a protocol


def encoded_source(source: VideoSource) -> VideoSource:
    """What `datasets.Video` has opened with torchcodec, where it is at hand: the decoder says itself. Else the source."""
    item = getattr(source, "_hf_encoded", None) or {}
    is_at_hand = item.get("bytes") is not None or os.path.isfile(item.get("path") or "")
    return item if is_at_hand else source


def _of_dict(item: dict[str, Any]) -> bytes | str | os.PathLike:
    if item.get("bytes") is not None:
        return item["bytes"]
    if item.get("path") is None:
        raise ValueError(f"A video in a dictionary has a 'path' or 'bytes', got the keys {sorted(map(str, item))}.")
    return item["path"]


def _content(file: BinaryIO) -> bytes:
    name = getattr(file, "name", file)
    if getattr(file, "closed", False):
        raise ValueError(f"The file {name} is closed already: open it again, or give its path.")
    if hasattr(file, "readable") and not file.readable():
        raise ValueError(f"The file {name} is not open for reading: open it with mode 'rb'.")
    if hasattr(file, "seekable") and file.seekable():
        file.seek(0)
    content = file.read()
    if not isinstance(content, bytes):
        raise ValueError(f"The file {name} is open as text: open it with mode 'rb'.")
    return content


def _require_file(name: str) -> None:
    """That it is a file with something in it. To open a pipe or a device would block."""
    try:
        found = os.stat(name)
    except (FileNotFoundError, NotADirectoryError) as error:
        if os.path.islink(name):
            raise FileNotFoundError(f"The video {name} is a link to {os.readlink(name)}, which does not exist.") from error
        raise FileNotFoundError(f"No such video file: {name}") from error
    except (OSError, ValueError) as error:  # a loop of links, a folder that may not be entered, a zero in the name
        raise ValueError(f"Cannot read the video {name}: {getattr(error, 'strerror', None) or error}.") from error
    kinds = {"a folder": stat.S_ISDIR, "a pipe": stat.S_ISFIFO, "a socket": stat.S_ISSOCK}
    if not stat.S_ISREG(found.st_mode):
        kind = next((kind for kind, is_kind in kinds.items() if is_kind(found.st_mode)), "a device")
        raise ValueError(f"{name} is {kind}, not a video file.")
    if not found.st_size:
        raise ValueError(f"The video {name} is empty: 0 bytes.")
    if not os.access(name, os.R_OK):
        raise PermissionError(f"The video {name} may not be read: permission denied.")


def open_container(source: str | bytes) -> "av.container.InputContainer":
    """A file by its path, or its content. Neither can make FFmpeg open another file or address.

    Raises:
        UnreadableVideoError: if it is not a video, and it is clear what it is instead.
        av.FFmpegError: if it cannot be opened for another reason.
    """
    is_path = isinstance(source, str)
    options = {"format_whitelist": ",".join(VIDEO_FORMATS), "protocol_whitelist": "file" if is_path else "none"}
    try:
        file = source if is_path else io.BytesIO(source)
        return av.open(file, container_options=options, metadata_errors="replace")  # tags are in any encoding; none is read
    except av.FFmpegError as error:
        if what := describe_other_file(source):
            raise UnreadableVideoError(f"it is {what}") from error
        if isinstance(error, av.ArgumentError):
            raise UnreadableVideoError(
                "its format is not a known video format: convert it to MP4 with ffmpeg first"
            ) from error
        raise


def describe_other_file(source: str | bytes) -> str | None:
    """What a file is that FFmpeg does not take for a video, where its first bytes tell."""
    if isinstance(source, str):
        with open(source, "rb") as file:
            head = file.read(HEAD_BYTES)
    else:
        head = source[:HEAD_BYTES]
    if not any(byte < 32 and chr(byte) not in "\t\n\f\r\x1b" for byte in head):
        text = head.decode("utf-8-sig", "replace").lstrip().lower()
        if text.startswith("<?xml"):
            text = text.partition("?>")[2].lstrip()
        return next((what for start, what in OTHER_TEXTS.items() if text.startswith(start)), "a text file, not a video")
    try:
        with Image.open(source if isinstance(source, str) else io.BytesIO(source), formats=PICTURE_FORMATS) as image:
            return f"a picture ({image.format}), not a video"
    except Exception:  # Pillow's, of any type
        return None


__all__ = [
    "PICTURE_FORMATS",
    "VIDEO_FORMATS",
    "UnreadableVideoError",
    "VideoSource",
    "encoded_source",
    "is_address",
    "load_source",
    "open_container",
]
