"""Videos from http addresses: limits of time and size, redirects, and servers that misbehave."""

import socketserver
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from modeling_videomamba import decode_video, video_download
from modeling_videomamba.video_download import fetch
from tests.conftest import render_clip


OK = b"HTTP/1.1 200 OK\r\n"


@contextmanager
def answered_by(answer):
    """The address of a server that reads a request and leaves the rest to `answer(connection, path, address)`."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            path = self.request.recv(2**16).split()[1].decode()
            with suppress(OSError):  # the client may have gone
                answer(self.request, path, address)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        address = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield address
        finally:
            server.shutdown()


def drip(content, first=b""):
    """Sends a byte every 0.02 s."""

    def answer(connection, path, address):
        connection.sendall(first)
        for byte in content:
            connection.sendall(bytes([byte]))
            time.sleep(0.02)

    return answer


def send(*parts, repeat=1):
    def answer(connection, path, address):
        for _ in range(repeat):
            for part in parts:
                connection.sendall(part)

    return answer


def redirect(target):
    def answer(connection, path, address):
        status = f"HTTP/1.1 302 Found\r\nLocation: {target.format(address=address)}\r\nConnection: close\r\n\r\n"
        connection.sendall(status.encode())

    return answer


def check(answer, message, **limits):
    with answered_by(answer) as address, pytest.raises(ValueError, match=message) as error:
        fetch(f"{address}/clip.mp4", **limits)
    assert str(error.value).startswith(f"Cannot fetch the video {address}/clip.mp4: ")
    assert str(error.value).isprintable()  # on one line


class TestTime:
    """The limit is for all of it, not for each byte."""

    @pytest.mark.parametrize(
        "answer",
        [
            drip(bytes(100), first=OK + b"Content-Length: 100\r\n\r\n"),
            drip(bytes(100), first=OK + b"\r\n"),
            drip(b"5\r\nabcde\r\n" * 10 + b"0\r\n\r\n", first=OK + b"Transfer-Encoding: chunked\r\n\r\n"),
            drip(OK + b"Content-Length: 1\r\nX: " + b"x" * 40 + b"\r\n\r\nx"),
            drip(bytes(100), first=b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 100\r\n\r\n"),
            drip(bytes(100), first=b"HTTP/1.1 404 Not Found\r\nX: "),
        ],
        ids=["content", "content of unknown length", "chunks", "headers", "a redirect's page", "an error's headers"],
    )
    def test_drop_by_drop(self, answer):
        check(answer, "it takes longer than the limit of 0.2 s", seconds=0.2)

    def test_redirects_do_not_start_it_anew(self):
        def answer(connection, path, address):
            time.sleep(0.05)
            redirect(f"{{address}}/{len(path)}{path}")(connection, path, address)

        check(answer, "it takes longer than the limit of 0.2 s", seconds=0.2)

    def test_a_silent_server(self, monkeypatch):
        monkeypatch.setattr(video_download, "STALL_SECONDS", 0.1)
        done = threading.Event()
        check(lambda *_: done.wait(5), "the server was silent for 0.1 s")
        done.set()

    def test_of_decode_video(self):
        with (
            answered_by(drip(bytes(100), first=OK + b"\r\n")) as address,
            pytest.raises(ValueError, match="longer than the limit"),
        ):
            decode_video(f"{address}/clip.mp4", lambda metadata: [0], fetch_seconds=0.2)


class TestSize:
    def test_said_at_the_start(self):
        """Nothing is waited for, not even the first byte."""
        check(
            send(OK + b"Content-Length: 1001\r\n\r\n"), "it is larger than the limit of 1,000 bytes: download", max_bytes=1000
        )

    @pytest.mark.parametrize(
        "answer",
        [
            send(OK + b"\r\n", bytes(2000)),
            send(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"7d0\r\n" + bytes(2000) + b"\r\n0\r\n\r\n"),
            send(OK + b"\r\n" + bytes(2**16), bytes(2**16), repeat=200),
        ],
        ids=["of unknown length", "chunks", "much more"],
    )
    def test_found_on_the_way(self, answer):
        check(answer, "it is larger than the limit of 1,000 bytes", max_bytes=1000)

    def test_as_large_as_the_limit(self):
        for head in (b"Content-Length: 1000\r\n\r\n", b"\r\n"):
            with answered_by(send(OK + head, bytes(1000))) as address:
                assert fetch(address, max_bytes=1000) == bytes(1000)

    @pytest.mark.parametrize("status", [b"302 Found\r\nLocation: /other", b"404 Not Found"])
    def test_pages_that_come_with_other_answers(self, status, monkeypatch):
        monkeypatch.setattr(video_download, "BYTES_AROUND", 1000)
        answer = send(b"HTTP/1.1 " + status + b"\r\n\r\n", *[bytes(2**16)] * 20)
        check(answer, "it is larger than the limit of 1,000 bytes|404: Not Found", max_bytes=1000)

    def test_of_decode_video(self, tmp_path):
        render_clip(tmp_path / "clip.mp4")
        content = (tmp_path / "clip.mp4").read_bytes()
        with answered_by(send(OK + b"Content-Length: %d\r\n\r\n" % len(content), content)) as address:
            assert len(decode_video(address, lambda metadata: [0, 39], fetch_bytes=len(content))[0]) == 2
            with pytest.raises(ValueError, match="larger than the limit"):
                decode_video(address, lambda metadata: [0, 39], fetch_bytes=len(content) - 1)


class TestAnswers:
    def test_redirects_are_followed(self):
        def answer(connection, path, address):
            if path == "/end":
                connection.sendall(OK + b"Content-Length: 5\r\n\r\nvideo")
            else:
                redirect({"/start": "/middle", "/middle": "{address}/end"}[path])(connection, path, address)

        with answered_by(answer) as address:
            assert fetch(f"{address}/start") == b"video"

    def test_a_loop(self):
        check(redirect("{address}/clip.mp4"), "HTTP Error 302: The HTTP server returned a redirect error .* loop.* Found$")

    @pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1:9/a", "data:video/mp4,x", "concat:a"])
    def test_to_something_else(self, target):
        check(redirect(target), "not allowed|unknown url type|no host")

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (send(OK + b"Content-Length: 1000\r\n\r\n", bytes(400)), "the connection ended 600 bytes before the end"),
            (send(OK + b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n", bytes(400)), "IncompleteRead"),
            (send(b"HTTP/1.1 404 Not \x1b[31mFound\x07\r\n\r\n"), "HTTP Error 404: Not \\[31mFound"),
            (send(b"HTTP/1.1 500 \r\n\r\n"), "HTTP Error 500"),
            (send(OK + b"Content-Encoding: gzip\r\n\r\n", bytes(9)), r"the server compresses it \(gzip\): download it first"),
            (send(b"220 ready\r\n"), "220 ready"),
            (send(b""), "closed connection without response"),
        ],
        ids=["truncated", "truncated chunks", "control characters", "no reason", "compressed", "another protocol", "nothing"],
    )
    def test_errors_on_one_line(self, answer, message):
        check(answer, message)

    def test_nothing_in_it(self):
        with (
            answered_by(send(OK + b"Content-Length: 0\r\n\r\n")) as address,
            pytest.raises(ValueError, match="is empty: 0 bytes"),
        ):
            decode_video(address, lambda metadata: [0])
