"""Fetches a video from an http(s) address, within a time and a size."""

import io
import socket
import time
import urllib.request
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import quote


FETCH_SECONDS = 300.0
FETCH_BYTES = 2**30
STALL_SECONDS = 60.0  # without a connection, or without a byte
BYTES_AT_A_TIME = 2**16
BYTES_AROUND = 2**20  # headers, the framing of chunks, the pages that come with redirects and errors
COMPRESSIONS = ("br", "compress", "deflate", "gzip", "x-gzip", "zstd")
ADDRESS_CHARACTERS = "%:/?#[]@!$&'()*+,;="  # what is quoted already stays so


def is_address(path: str) -> bool:
    return path.lower().startswith(("http://", "https://"))


def fetch(address: str, seconds: float = FETCH_SECONDS, max_bytes: int = FETCH_BYTES) -> bytes:
    """The content at an http(s) address. Redirects are followed, to http(s) addresses only.

    Args:
        address: spaces and letters outside ASCII may be quoted or not.
        seconds: limit for all of it: connections, redirects, headers and content.
        max_bytes: limit for the size of the content.

    Raises:
        ValueError: if it cannot be fetched, or not within the limits.
    """
    try:
        return _fetch(address, _Limits(seconds, max_bytes))
    except (OSError, HTTPException, ValueError) as error:
        raise ValueError(f"Cannot fetch the video {address}: {_in_one_line(error)}") from error


class _Limits:
    """The time and the bytes that are left for a download."""

    def __init__(self, seconds: float, max_bytes: int):
        self.seconds, self.max_bytes = seconds, max_bytes
        self.end = time.monotonic() + seconds
        self.received = 0

    def wait(self) -> float:
        """For how long a socket may wait now, in seconds."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return min(left, STALL_SECONDS)

    def timed_out(self) -> str:
        if time.monotonic() >= self.end:
            return f"it takes longer than the limit of {self.seconds:g} s"
        return f"the server was silent for {STALL_SECONDS:g} s"

    def receive(self, num_bytes: int) -> None:
        self.received += num_bytes
        if self.received > self.max_bytes + BYTES_AROUND:
            raise ValueError(self.too_large())

    def too_large(self) -> str:
        return f"it is larger than the limit of {self.max_bytes:,} bytes: download it first, and give the file's path"


def _fetch(address: str, limits: _Limits) -> bytes:
    content = io.BytesIO()
    try:
        with _opener(limits).open(quote(address, safe=ADDRESS_CHARACTERS), timeout=STALL_SECONDS) as response:
            if (encoding := response.headers.get("Content-Encoding", "").strip().lower()) in COMPRESSIONS:
                raise ValueError(f"the server compresses it ({encoding}): download it first, and give the file's path")
            if (response.length or 0) > limits.max_bytes:
                raise ValueError(limits.too_large())
            while part := response.read(BYTES_AT_A_TIME):
                content.write(part)
                if content.tell() > limits.max_bytes:
                    raise ValueError(limits.too_large())
            if response.length:
                raise ValueError(f"the connection ended {response.length:,} bytes before the end")
    except OSError as error:
        if isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError):
            raise TimeoutError(limits.timed_out()) from error
        raise
    return content.getvalue()


def _opener(limits: _Limits) -> urllib.request.OpenerDirector:
    """Opens http(s) addresses and nothing else, so redirects do not lead to files or ftp."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        _Handler(limits),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


class _Handler(urllib.request.HTTPSHandler, urllib.request.HTTPHandler):
    def __init__(self, limits: _Limits):
        super().__init__()
        self.limits = limits

    def http_open(self, request: urllib.request.Request) -> HTTPResponse:
        return self.do_open(partial(_Connection, limits=self.limits), request)

    def https_open(self, request: urllib.request.Request) -> HTTPResponse:
        return self.do_open(partial(_SecureConnection, limits=self.limits), request)


class _LimitedConnection:
    def __init__(self, *args, limits: _Limits, **kwargs):
        super().__init__(*args, **kwargs)
        self.limits = limits
        self.response_class = partial(_Response, limits=limits)

    def connect(self) -> None:
        self.timeout = self.limits.wait()
        super().connect()


class _Connection(_LimitedConnection, HTTPConnection):
    pass


class _SecureConnection(_LimitedConnection, HTTPSConnection):
    pass


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *args, limits: _Limits, **kwargs):
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_Receiver(sock, limits))


class _Receiver(io.RawIOBase):
    """What comes out of a socket, headers included, as long as the limits allow."""

    def __init__(self, sock: socket.socket, limits: _Limits):
        self.sock, self.limits = sock, limits
        self.file = sock.makefile("rb", buffering=0)  # keeps the socket open until it is closed itself

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int | None:
        self.sock.settimeout(self.limits.wait())
        received = self.file.readinto(buffer)
        self.limits.receive(received or 0)
        return received

    def close(self) -> None:
        self.file.close()
        super().close()


def _in_one_line(error: Exception) -> str:
    """What an error says, or a server through it, without control characters."""
    text = "".join(character if character.isprintable() else " " for character in str(error) or type(error).__name__)
    return " ".join(text.split())


__all__ = ["FETCH_BYTES", "FETCH_SECONDS", "fetch", "is_address"]
