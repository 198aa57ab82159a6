"""What a video can be given as, a path, an http(s) address or bytes, and how it is opened."""

import io
import os
import urllib.request
from http.client import HTTPException
from urllib.parse import quote

import av


VideoSource = str | os.PathLike | bytes

ADDRESS_CHARACTERS = "%:/?#[]@!$&'()*+,;="  # what is quoted already stays so


def load_source(source: VideoSource) -> tuple[str | bytes, str]:
    """An absolute path or the content of a file, and the name by which errors call it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if an address cannot be fetched.
    """
    if isinstance(source, bytes):
        return source, f"<{len(source)} bytes>"
    name = os.fspath(source)
    if is_address(name):
        return _fetch(name), name
    if not os.path.isfile(name):
        raise FileNotFoundError(f"No such video file: {name}")
    return os.path.abspath(name), name  # FFmpeg would take what comes before a colon for a protocol


def is_address(path: str) -> bool:
    return path.lower().startswith(("http://", "https://"))


def _fetch(address: str) -> bytes:
    try:
        with urllib.request.urlopen(quote(address, safe=ADDRESS_CHARACTERS), timeout=60) as response:
            return response.read()
    except (OSError, HTTPException, ValueError) as error:
        raise ValueError(f"Cannot fetch the video {address}: {error}") from error


def open_container(source: str | bytes) -> "av.container.InputContainer":
    """A file by its path, or its content."""
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    return av.open(file, metadata_errors="replace")  # tags are in any encoding, and nothing here reads them


__all__ = ["VideoSource", "is_address", "load_source", "open_container"]
