"""What tests do to video files: cut them, turn them, damage them, give their frames other times."""

import struct
from collections.abc import Callable
from pathlib import Path

import av
import pytest
import torch

from modeling_videomamba.video_decoding import torchcodec_is_usable


DECODERS = [
    "pyav",
    pytest.param(
        "torchcodec",
        marks=pytest.mark.skipif(not torchcodec_is_usable(), reason="torchcodec, or its FFmpeg, is not installed"),
    ),
]


def brightness(frames: torch.Tensor) -> list[float]:
    """By which the frames of `render_clip` are told apart."""
    return frames.float().mean((1, 2, 3)).tolist()


def copy_packets(
    source: Path,
    target: Path,
    start: int = 0,
    change: Callable[["av.Packet"], None] = lambda packet: None,
    options: dict[str, str] | None = None,
) -> tuple[list[int], int]:
    """Of `source` those from `start` on; returns which frames they hold, and which of these is the first keyframe."""
    with av.open(str(source)) as whole, av.open(str(target), "w", options=options or {}) as part:
        stream = part.add_stream_from_template(whole.streams.video[0])
        packets = [packet for packet in whole.demux(video=0) if packet.size]
        times = sorted(packet.pts for packet in packets)
        copied = [(times.index(packet.pts), packet.is_keyframe) for packet in packets[start:]]
        for packet in packets[start:]:
            packet.stream = stream
            change(packet)
            part.mux(packet)
    return [frame for frame, _ in copied], next(frame for frame, is_keyframe in copied if is_keyframe)


def set_edits(path: Path, edits: list[tuple[int, int]]) -> None:
    """Of an MP4 with its index at the end: it then shows so many frames of 0.04 s from each of these frames on."""
    content = path.read_bytes()
    moov, trak, edts, mdia = (content.index(name) - 4 for name in (b"moov", b"trak", b"edts", b"mdia"))
    _, first_time, _ = struct.unpack(">iii", content[edts + 24 : edts + 36])
    with av.open(str(path)) as container:
        frame = int(0.04 / container.streams.video[0].time_base)
    entries = [struct.pack(">iiHH", number * 40, first_time + start * frame, 1, 0) for start, number in edits]
    elst = struct.pack(">i4sii", 16 + 12 * len(entries), b"elst", 0, len(entries)) + b"".join(entries)
    new = struct.pack(">i4s", 8 + len(elst), b"edts") + elst
    grown = bytearray(content[:edts] + new + content[mdia:])
    for box in (moov, trak):
        grown[box : box + 4] = (int.from_bytes(content[box : box + 4], "big") + len(new) - (mdia - edts)).to_bytes(4, "big")
    path.write_bytes(grown)


def set_display_matrix(path: Path, a: float, b: float, c: float, d: float) -> None:
    """Of an MP4: a stored point (x, y) is shown at (a x + c y, b x + d y)."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40  # version and flags, times, id, ..., then the matrix
    a, b, c, d = (round(value * (1 << 16)) for value in (a, b, c, d))
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


def damage_packet(path: Path, number: int, content: bytes | None = None) -> None:
    """Overwrites the start of a packet, the one of this number in the file; without `content` all of it, with zeros."""
    with av.open(str(path)) as container:
        stored = bytes([packet for packet in container.demux(video=0) if packet.size][number])
    content = bytes(len(stored)) if content is None else content
    whole = path.read_bytes()
    assert whole.count(stored) == 1
    path.write_bytes(whole.replace(stored, content + stored[len(content) :]))
