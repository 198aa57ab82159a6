"""Damaged videos: the frames that `decode_video` returns, with either decoder, alone and together."""

import functools
import itertools
import math
import tempfile
from collections.abc import Sequence
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from modeling_videomamba.video_decoding import decode_video, torchcodec_is_usable

from .mutations import damage
from .outcomes import Case, ClearError, Fault, attempt


NUM_FRAMES, HEIGHT, WIDTH = 20, 64, 96  # x265 corrupts its memory with smaller frames
TAG = "a tag that is to be replaced"
SAME = 3.0  # grey levels in the mean between two pictures of one frame; consecutive frames are 8 apart
FORMATS = {  # name of the file: codec, and the container's options
    "h264.mp4": ("libx264", {}),
    "fragments.mp4": ("libx264", {"movflags": "frag_keyframe+empty_moov"}),
    "mpeg4.mov": ("mpeg4", {}),
    "hevc.mkv": ("libx265", {}),
    "h264.mkv": ("libx264", {}),
    "vp9.webm": ("libvpx-vp9", {}),
    "mpeg4.avi": ("mpeg4", {}),
    "mjpeg.avi": ("mjpeg", {}),
    "h264.ts": ("libx264", {}),
    "flv.flv": ("flv", {}),
    "gif.gif": ("gif", {}),
}
ATOMS = b"ftyp moov mvhd trak tkhd elst mdhd hdlr stbl stsd avcC stts ctts stss stsc stsz stco mdat moof tfhd trun".split()
SUFFIXES = [".mp4", ".mkv", ".avi", ".ts", ".gif", ".mov", ".webm", ".dat", ".mp3", ".jpg", ".txt", ""]
SCRIPTS = [  # text that makes FFmpeg open another file
    "ffconcat version 1.0\nfile {other}\n",
    "ffconcat version 1.0\nfile '{folder}/{other}'\n",
    "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n",
    "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{folder}/{other}\n#EXT-X-ENDLIST\n",
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"><Period>'
    '<AdaptationSet><Representation id="1" bandwidth="1" mimeType="video/mp4"><BaseURL>{other}</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>",
    "v=0\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video 5004 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n",
    "[playlist]\nFile1={other}\nNumberOfEntries=1\n",
]


class Due(Enum):
    """What the check demands."""

    ANYTHING = auto()  # frames in order, or an error
    ALL_FRAMES = auto()  # those of the undamaged file
    AN_ERROR = auto()


class _Damaged(NamedTuple):
    mutation: str
    content: bytes
    suffix: str
    due: Due = Due.ANYTHING


def prepare() -> None:
    for name in FORMATS:
        reference(name, "pyav")


@functools.cache
def drawn() -> np.ndarray:
    """What every video shows, `(frames, height, width, 3)`: frame i is told by its brightness."""
    ramp = np.linspace(0, 40, WIDTH, dtype=np.uint8)
    return np.stack([np.full((HEIGHT, WIDTH, 3), 30 + 8 * i, np.uint8) + ramp[None, :, None] for i in range(NUM_FRAMES)])


@functools.cache
def content_of(name: str) -> bytes:
    """An undamaged file, the same in every process."""
    codec, options = FORMATS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        with av.open(str(path), "w", options=options | {"fflags": "+bitexact"}) as container:
            container.metadata["title"] = TAG
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.gop_size, stream.codec_context.thread_count = WIDTH, HEIGHT, 8, 1
            stream.pix_fmt = {"gif": "gray", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
            if codec in ("mpeg4", "flv"):
                stream.bit_rate = 2_000_000
            if codec == "libx265":
                stream.options = {"x265-params": "log-level=none"}
            for frame in drawn():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        return path.read_bytes()


@functools.cache
def reference(name: str, decoder: str | None) -> Tensor | ClearError:
    """The frames of an undamaged file by a decoder; torchcodec does not read all of them."""
    return _decode(content_of(name), None, decoder, f"<{len(content_of(name))} bytes>")


def make_case(random: Generator, folder: Path) -> Case:
    name = list(FORMATS)[random.integers(len(FORMATS))]
    content = content_of(name)
    often = [_damaged] * 12 + [_twice_damaged] * 4 + [_edited_atom] * 4
    make = [*often, _retagged, _retagged, _renamed, _script, _script, _hollow]
    mutation, content, suffix, due = make[random.integers(len(make))](random, content, Path(name).suffix, folder)
    path = folder / f"video{suffix}"
    path.write_bytes(content)
    as_bytes = random.random() < 0.25
    source, called = (content, f"<{len(content)} bytes>") if as_bytes else (str(path), str(path))
    some = random.integers(1 << 30, size=5).tolist()
    mutation = f"{name}{' as bytes' if as_bytes else ''}: {mutation}"
    return Case(mutation, lambda: check(source, called, name, due, some))


def _damaged(random: Generator, content: bytes, suffix: str, folder: Path) -> _Damaged:
    return _Damaged(*damage(random, content), suffix)


def _twice_damaged(random: Generator, content: bytes, suffix: str, folder: Path) -> _Damaged:
    first, content = damage(random, content)
    second, content = damage(random, content)
    return _Damaged(f"{first}, {second}", content, suffix)


def _edited_atom(random: Generator, content: bytes, suffix: str, folder: Path) -> _Damaged:
    """MP4 and MOV: a field of an atom, its size included, becomes another number. Others are damaged near their start."""
    found = [atom for atom in ATOMS if atom in content]
    value = int(random.choice([0, 1, 7, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, random.integers(1 << 32)]))
    if suffix not in (".mp4", ".mov") or not found:
        at, what = int(random.integers(min(200, len(content)))), "its start"
    else:
        atom = found[random.integers(len(found))]
        field = int(random.choice([-4, -4, *range(4, 84, 4)]))  # the size is before the name
        at, what = max(content.find(atom) + field, 0), f"{atom.decode()}{field:+}"
    return _Damaged(f"{value:#x} written to {what}", content[:at] + value.to_bytes(4, "big") + content[at + 4 :], suffix)


def _retagged(random: Generator, content: bytes, suffix: str, folder: Path) -> _Damaged:
    size = len(TAG)
    tag = [random.bytes(size), b"\xe9" * size, bytes(size), b"\n\r\x1b[2J\x07".ljust(size, b"=")][random.integers(4)]
    return _Damaged(f"a title of {tag!r}", content.replace(TAG.encode(), tag), suffix, Due.ALL_FRAMES)


def _renamed(random: Generator, content: bytes, suffix: str, folder: Path) -> _Damaged:
    other = SUFFIXES[random.integers(len(SUFFIXES))]
    return _Damaged(f"called {other or 'without a suffix'}", content, other, Due.ALL_FRAMES)


def _script(random: Generator, content: bytes, suffix: str, folder: Path) -> _Damaged:
    (folder / f"other{suffix}").write_bytes(content)
    text = SCRIPTS[random.integers(len(SCRIPTS))].format(other=f"other{suffix}", folder=folder)
    if random.random() < 0.2:
        text = "\n" + text
    suffix = [suffix, ".mp4", ".mkv", ".ts"][random.integers(4)]
    return _Damaged(f"text {text[:30]!r}", text.encode(), suffix, Due.AN_ERROR)


def _hollow(random: Generator, content: bytes, suffix: str, folder: Path) -> _Damaged:
    length = int(random.choice([0, 1, 100, 10000]))
    what = {"zeros": bytes(length), "random bytes": random.bytes(length), "text": b"not a video\n" * (length // 12)}
    name = list(what)[random.integers(3)]
    return _Damaged(f"{length} {name}", what[name], suffix, Due.AN_ERROR if name != "random bytes" else Due.ANYTHING)


def check(source: str | bytes, called: str, name: str, due: Due, some: Sequence[int]) -> ClearError | None:
    """Decodes with each decoder, and compares. `some`: numbers that, modulo their count, are the frames asked for again."""
    outcomes = {}
    for decoder in (None, "pyav", *(["torchcodec"] if torchcodec_is_usable() else [])):
        outcome = outcomes[decoder] = _decode(source, None, decoder, called)
        if isinstance(outcome, ClearError):
            if due is Due.ALL_FRAMES and not isinstance(reference(name, decoder), ClearError):
                raise Fault(f"{decoder} refuses an undamaged video: {outcome.message}")
            continue
        if due is Due.AN_ERROR:
            raise Fault(f"{decoder} returns {len(outcome)} frames of what is not a video")
        if due is Due.ALL_FRAMES and not torch.equal(outcome, reference(name, decoder)):
            raise Fault(f"{decoder} returns other frames than those of the undamaged file")
        wanted = [i % len(outcome) for i in some]
        again = _decode(source, wanted, decoder, called)
        if isinstance(again, ClearError):
            raise Fault(f"{decoder} decodes all frames, but not {wanted} alone: {again.message}")
        # In a damaged file, jumping over the damage gives other pictures than decoding through it.
        if len(again) != len(wanted) or (due is Due.ALL_FRAMES and not torch.equal(again, outcome[wanted])):
            raise Fault(f"{decoder} returns other frames for {wanted} alone than with all others")
    decoded = {decoder: frames for decoder, frames in outcomes.items() if isinstance(frames, Tensor)}
    for (a, frames_a), (b, frames_b) in itertools.combinations(decoded.items(), 2):
        if difference := _differ(frames_a, frames_b):
            raise Fault(f"{a} and {b}: {difference}")
    return next((outcome for outcome in outcomes.values() if isinstance(outcome, ClearError)), None)


def _decode(source: str | bytes, indices: list[int] | None, decoder: str | None, called: str) -> Tensor | ClearError:
    """Frames `(frames, 3, height, width)`: those of the indices, or all."""
    answer = attempt(
        lambda: decode_video(source, lambda m: range(m.total_num_frames) if indices is None else indices, decoder),
        mentions=[called],
    )
    if isinstance(answer, ClearError):
        return answer
    frames, metadata = answer
    count = metadata.total_num_frames if indices is None else len(indices)
    if frames.dtype != torch.uint8 or frames.shape != (count, 3, metadata.height, metadata.width):
        size = f"{metadata.height} x {metadata.width}"
        raise Fault(f"{frames.dtype} of shape {tuple(frames.shape)} for {count} frames of {size}")
    if list(metadata.frames_indices) != (list(range(count)) if indices is None else indices):
        raise Fault(f"the indices {metadata.frames_indices} instead of those asked for")
    for what in ("fps", "duration"):
        value = getattr(metadata, what)
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise Fault(f"{what} is {value}")
    return frames


def _differ(a: Tensor, b: Tensor) -> str | None:
    """How the frames of two decoders differ. What they make of a damaged picture may be what it likes."""
    if a.shape != b.shape:
        return f"other shapes, {tuple(a.shape)} and {tuple(b.shape)}"
    for i, pair in enumerate(zip(a, b)):
        first, second = map(_drawn_frame, pair)
        if None not in (first, second) and first != second:
            return f"other frames: at {i} what was drawn as frame {first}, and as frame {second}"
    return None


def _drawn_frame(picture: Tensor) -> int | None:
    """Which of the drawn frames a picture `(3, height, width)` shows undamaged."""
    if picture.shape != (3, HEIGHT, WIDTH):
        return None
    distances = np.abs(drawn().astype(np.int16) - picture.permute(1, 2, 0).numpy()).mean(axis=(1, 2, 3))
    return int(distances.argmin()) if distances.min() < SAME else None
