"""A stand-in for the hub, and files of the released checkpoints' names and shapes."""

import gzip
import hashlib
import http.server
import json
import re
import threading
from pathlib import Path

import pytest
import torch
import transformers.utils.hub
from huggingface_hub import constants, hf_api

from tests.conftest import FIXTURES


MANIFESTS = {
    name: manifest
    for file in ("manifests.json.gz", "manifests_video_text.json.gz")
    for name, manifest in json.loads(gzip.decompress((FIXTURES / file).read_bytes())).items()
}


class StandInHub(http.server.ThreadingHTTPServer):
    """Answers as the hub does when files are resolved.

    It can break off the first transfer of all halfway, or stall there until `go_on` is set, and answer everything with a
    `status`.
    """

    def __init__(
        self,
        files: dict[str, bytes],
        break_off: bool = False,
        checksum: str | None = None,
        stall: bool = False,
        status: int | None = None,
    ):
        super().__init__(("127.0.0.1", 0), StandInHandler)
        self.stall, self.status, self.go_on = stall, status, threading.Event()
        self.files, self.break_off = files, break_off
        self.checksum = checksum  # what it states for all files; their own by default
        self.ranges = []  # the Range header of every transfer
        self.requests = []  # the path of every request
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        return {"HF_ENDPOINT": f"http://127.0.0.1:{self.server_port}", "HF_HUB_DISABLE_XET": "1"}


def use(hub: StandInHub | None, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this process ask the stand-in, or nobody, and keep files in `cache`."""
    address = hub.environment["HF_ENDPOINT"] if hub else "http://127.0.0.1:9"  # where nobody listens
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(hf_api.api, "endpoint", address)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)  # newer than 5.17; it keeps an address, too
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


class StandInHandler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.respond(body=False)

    def do_GET(self):
        self.respond(body=True)

    def respond(self, body: bool):
        self.server.requests.append(self.path)
        match = re.fullmatch(r"/(?:datasets/)?[\w-]+/[\w-]+/resolve/[\w-]+/(.+)", self.path)
        content = self.server.files.get(match[1]) if match else None
        if content is None or self.server.status:
            self.send_response(self.server.status or 404)
            if not self.server.status:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        requested = self.headers.get("Range")
        start = int(re.match(r"bytes=(\d+)-", requested)[1]) if requested else 0
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{self.server.checksum or hashlib.sha256(content).hexdigest()}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body:
            self.server.ranges.append(requested)
            broken = self.server.break_off and len(self.server.ranges) == 1
            stalled = self.server.stall and len(self.server.ranges) == 1
            self.wfile.write(content[start : len(content) // 2 if broken or stalled else None])
            if stalled:
                self.wfile.flush()
                self.server.go_on.wait()
            self.close_connection = True


def official_file(manifest: str, tmp_path: Path) -> bytes:
    """A file with random tensors of a released checkpoint's names and shapes, but for the CLIP teacher's, which are small."""
    generator = torch.Generator().manual_seed(0)
    shapes = MANIFESTS[manifest]["keys"]
    shapes = {name: [1] if name.startswith("clip_teacher.") else shape for name, shape in shapes.items()}
    tensors = {name: 0.02 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    guesses, words = "text_encoder.cls.predictions", "text_encoder.bert.embeddings.word_embeddings.weight"
    if words in tensors:  # under two names each
        tensors |= {f"{guesses}.decoder.weight": tensors[words], f"{guesses}.decoder.bias": tensors[f"{guesses}.bias"]}
    torch.save({"model": tensors}, tmp_path / "official.pth")
    return (tmp_path / "official.pth").read_bytes()
