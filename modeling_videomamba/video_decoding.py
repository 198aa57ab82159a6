"""Decodes the sampled frames of a video file and no others: with torchcodec where it works, else with PyAV.

PyAV, which brings its own FFmpeg, reads the file's packets and so counts the frames exactly. Both decoders then return the
same pictures, but for the rounding of chroma in 10-bit video and in 4:2:0 or 4:2:2 of odd sizes (0.7 to 2.8 grey levels in the
mean); torchcodec, which needs FFmpeg's libraries on the system, is the faster one. In containers without an index (AVI,
MPEG-TS, GIF, raw streams) times are unreliable and jumps more so: PyAV decodes these from the start, and counts.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice, takewhile
from typing import NamedTuple

import av
import numpy as np
import torch
from torch import Tensor
from transformers.video_utils import VideoMetadata

from .video_download import FETCH_BYTES, FETCH_SECONDS
from .video_sources import VideoSource, encoded_source, load_source, open_container


FRAMES_AT_A_TIME = 16
CONTAINERS_WITH_INDEX = {"mov", "mp4", "matroska", "webm"}


def decode_video(
    source: VideoSource,
    choose_frames: Callable[[VideoMetadata], Sequence[int]],
    decoder: str | None = None,
    shrink: Callable[[Tensor], Tensor] | None = None,
    fetch_seconds: float = FETCH_SECONDS,
    fetch_bytes: int = FETCH_BYTES,
) -> tuple[Tensor, VideoMetadata]:
    """Decodes the frames that `choose_frames` asks for.

    Args:
        source: path, http(s) address, the bytes of a video file, a binary file that is open, or an item of `datasets.Video`: a
            decoder of torchcodec, or `{"path": ..., "bytes": ...}`.
        choose_frames: given the video's metadata, returns indices of frames, in any order; repeats are fine.
        decoder (`"torchcodec"` or `"pyav"`, *optional*): by default torchcodec where it is usable.
        shrink (*optional*): called with some decoded frames after the other, `(frames, 3, height, width)`, uint8; its results
            are put together. Resizing here keeps a long video from being in memory at full size.
        fetch_seconds, fetch_bytes: limits for all of the download from an address. Its content is held in memory.

    Returns:
        Frames `(len(indices), 3, height, width)`, uint8 RGB, upright, or what `shrink` makes of them; metadata with
        `frames_indices`. Pixels that are not square stay as they are stored, as with ffmpeg and torchcodec: the frames are not
        stretched to the shape in which a player shows them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be fetched, or decoded: empty, not a video, a playlist, truncated. Only MP4 and MOV tell how
            long they should be; what is left of other files (MKV, WebM, MPEG-TS, AVI, GIF) is taken for a shorter video.
    """
    if decoder not in (None, "torchcodec", "pyav"):
        raise ValueError(f"Unknown decoder {decoder!r}: choose 'torchcodec' or 'pyav'.")
    source = encoded_source(source)
    if hasattr(source, "get_frames_at"):
        return _decode_open(source, choose_frames, shrink)
    source, name = load_source(source, fetch_seconds, fetch_bytes)
    try:
        index = _read_index(source)
        metadata = index.metadata
        indices = metadata.frames_indices = [int(i) for i in choose_frames(metadata)]
        if not indices or min(indices) < 0 or max(indices) >= metadata.total_num_frames:
            raise EOFError(f"frames {indices} asked for, it has {metadata.total_num_frames}")
        wanted = sorted(set(indices))
        frames = _decode(source, index, wanted, decoder, shrink)
    except (av.FFmpegError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"Cannot decode the video {name}: it is empty, truncated or no video ({reason}).") from error
    except EOFError as error:
        raise ValueError(f"Cannot decode the video {name}: {error}.") from error
    return frames if indices == wanted else frames[np.searchsorted(wanted, indices)], metadata


def torchcodec_is_usable() -> bool:
    """Whether torchcodec is installed, fits the installed torch, and found FFmpeg."""
    try:
        import torchcodec.decoders
    except Exception:  # a build for another torch fails with errors of several types
        return False
    return getattr(torchcodec, "ffmpeg_major_version", True) is not None


def _threads() -> int:
    """Of FFmpeg: as many as PyTorch's, so 1 in a worker of a data loader, and at most 16: more do not pay."""
    return min(16, torch.get_num_threads())


class _Packet(NamedTuple):
    """What is kept of a packet; with their content, those of a long video would take as much memory as its file."""

    pts: int | None
    duration: int
    is_keyframe: bool
    is_discard: bool  # cut off by an edit list


class _Index(NamedTuple):
    """Times are in the stream's time base, ascending; without an index in the container there are none."""

    metadata: VideoMetadata
    stream: int
    time_base: Fraction
    times: list[int]
    keyframes: list[int]
    num_undecodable: int


def _read_index(source: str | bytes) -> _Index:
    with open_container(source) as container:
        stream = container.streams.best("video")
        if stream is None:
            raise EOFError("it has no video stream")
        if stream.codec_context is None:
            raise EOFError("there is no decoder for its codec")
        packets = [
            _Packet(packet.pts, packet.duration or 0, packet.is_keyframe, packet.is_discard)
            for packet in _demux(container, stream)
            if packet.size
        ]
        shown = [packet for packet in packets if not packet.is_discard]
        if not shown:
            raise EOFError("it has no frames")
        has_index = bool(CONTAINERS_WITH_INDEX & set(container.format.name.split(",")))
        has_index = has_index and all(packet.pts is not None for packet in packets)
        if has_index and stream.duration is not None:
            frame = max(packet.duration for packet in packets)
            # Fragments promise the time of their end, other files their length, whatever the start.
            end = max(packet.pts + packet.duration for packet in packets) - min(stream.start_time or 0, 0)
            if end <= stream.duration - frame:  # at least one frame is missing
                seconds, promised = (float(time * stream.time_base) for time in (end, stream.duration))
                raise EOFError(f"it is truncated: it ends after {seconds:.2f} of {promised:.2f} s")
        num_undecodable = _count_undecodable(source, stream.index, packets)
        total = len(shown) - num_undecodable
        fps = float(stream.average_rate or 0) or None
        metadata = VideoMetadata(
            total_num_frames=total,
            fps=fps,
            width=stream.width,
            height=stream.height,
            duration=total / fps if fps else None,
        )
        return _Index(
            metadata,
            stream.index,
            stream.time_base,
            times=sorted(packet.pts for packet in shown)[num_undecodable:] if has_index else [],
            keyframes=sorted(packet.pts for packet in packets if packet.is_keyframe) if has_index else [],
            num_undecodable=num_undecodable,
        )


def _count_undecodable(source: str | bytes, stream: int, packets: list[_Packet]) -> int:
    """Of the frames at the start, those that need others from before it: of a recording, or a cut, inside a group of pictures.

    They come before the first keyframe, or right after it with earlier times. The decoder leaves out most of them, not all.
    """
    if any(packet.pts is None for packet in packets):
        return 0
    first = next((i for i, packet in enumerate(packets) if packet.is_keyframe), 0)
    leading = takewhile(lambda packet: packet.pts < packets[first].pts, packets[first + 1 :])
    doubtful = [packet.pts for packet in (*packets[:first], *leading) if not packet.is_discard]
    if not doubtful:
        return 0
    with open_container(source) as container:
        frame = next(_frames(container, container.streams[stream]), None)
    if frame is None:
        raise EOFError("none of its frames can be decoded")
    return sum(time < frame.pts for time in doubtful)


def _demux(container: "av.container.InputContainer", stream: "av.VideoStream") -> Iterator["av.Packet"]:
    try:
        yield from container.demux(stream)
    except IndexError:  # PyAV's, after the last packet, if streams have appeared on the way: in MPEG-TS, also by damage
        return


def _frames(container: "av.container.InputContainer", stream: "av.VideoStream") -> Iterator["av.VideoFrame"]:
    for packet in _demux(container, stream):
        yield from packet.decode()


@contextmanager
def _open_for_threads(source: str | bytes, index: _Index) -> Iterator[tuple["av.container.InputContainer", "av.VideoStream"]]:
    """The file and its stream, which several threads decode. They rest before it is closed.

    Closing waits for them and keeps Python's lock, which they wait for to log an error if PyAV's logging is on, as it is where
    torchvision 0.24 has been imported.
    """
    with open_container(source) as container:
        stream = container.streams[index.stream]
        stream.codec_context.thread_count = _threads()
        stream.thread_type = "AUTO"
        try:
            yield container, stream
        finally:
            stream.codec_context.flush_buffers()


def _decode(
    source: str | bytes,
    index: _Index,
    wanted: list[int],
    decoder: str | None,
    shrink: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """The frames of the ascending indices `wanted`."""

    def put_together(frames: Iterator[Tensor]) -> Tensor:
        return _put_together(_of_one_size(frames, index.metadata), shrink)

    if decoder == "torchcodec" or (decoder is None and index.keyframes and torchcodec_is_usable()):
        index.metadata.video_backend = "torchcodec"
        try:
            return put_together(_decode_torchcodec(source, index, wanted))
        except (EOFError, RuntimeError):  # PyAV reads some files that it does not: edit lists that start before a keyframe
            if decoder == "torchcodec":
                raise
    index.metadata.video_backend = "pyav"
    if index.keyframes:
        try:
            return put_together(_decode_at_times(source, index, wanted))
        except EOFError:  # in files with several edits, or in fragments, a jump may land behind the keyframe
            pass
    return put_together(_decode_from_start(source, index, wanted))


def _of_one_size(frames: Iterator[Tensor], metadata: VideoMetadata) -> Iterator[Tensor]:
    """Yields the frames, and notes their size, which is that of the pictures upright."""
    size = None
    for frame in frames:
        if size not in (None, frame.shape[1:]):
            before, after = (f"{height} x {width}" for height, width in (size, frame.shape[1:]))
            raise EOFError(f"the frame size changes from {before} to {after} within the video")
        size = metadata.height, metadata.width = tuple(frame.shape[1:])
        yield frame


def _put_together(frames: Iterator[Tensor], shrink: Callable[[Tensor], Tensor] | None) -> Tensor:
    """One tensor of frames `(3, height, width)`."""
    parts = []
    while part := list(islice(frames, FRAMES_AT_A_TIME)):
        parts.append(torch.stack(part))
        if shrink is not None:
            parts[-1] = shrink(parts[-1])
    return torch.cat(parts)


def _decode_torchcodec(source: str | bytes, index: _Index, wanted: list[int]) -> Iterator[Tensor]:
    """Yields the frames `(3, height, width)` of the ascending indices `wanted`."""
    try:
        from torchcodec.decoders import VideoDecoder
    except ImportError as error:
        raise ImportError("torchcodec is not installed: `pip install torchcodec`.") from error

    decoder = VideoDecoder(source, stream_index=index.stream, seek_mode="exact", num_ffmpeg_threads=_threads())
    for start in range(0, len(wanted), FRAMES_AT_A_TIME):
        part = wanted[start : start + FRAMES_AT_A_TIME]
        frames = decoder.get_frames_at([i + index.num_undecodable for i in part])  # which it counts
        times = (frames.pts_seconds / float(index.time_base)).round().long().tolist()
        if index.times and times != [index.times[i] for i in part]:
            raise EOFError("torchcodec returned other frames than those asked for")
        yield from frames.data


def _decode_at_times(source: str | bytes, index: _Index, wanted: list[int]) -> Iterator[Tensor]:
    """Yields the frames `(3, height, width)` of the ascending indices `wanted`, jumping ahead where a keyframe allows it."""
    with _open_for_threads(source, index) as (container, stream):
        decoded, position = iter(()), None
        for time in (index.times[i] for i in wanted):
            keyframe = index.keyframes[max(bisect_right(index.keyframes, time) - 1, 0)]
            if position is None or keyframe > position:
                container.seek(keyframe, stream=stream)
                decoded = _frames(container, stream)
            for frame in decoded:
                position = frame.pts
                if position == time:
                    yield _picture(frame)
                    break
            else:
                raise EOFError(f"it has no frame at {float(time * stream.time_base):.2f} s")


def _decode_from_start(source: str | bytes, index: _Index, wanted: list[int]) -> Iterator[Tensor]:
    """Yields the frames `(3, height, width)` of the ascending indices `wanted`, counted as they are shown."""
    with _open_for_threads(source, index) as (container, stream):
        decoded = enumerate(_frames(container, stream))
        position = -1
        for i in wanted:
            for position, frame in decoded:
                if position == i:
                    yield _picture(frame)
                    break
            else:
                raise EOFError(f"only {position + 1} of its {index.metadata.total_num_frames} frames can be decoded")


def _decode_open(
    decoder: "torchcodec.decoders.VideoDecoder",  # noqa: F821
    choose_frames: Callable[[VideoMetadata], Sequence[int]],
    shrink: Callable[[Tensor], Tensor] | None,
) -> tuple[Tensor, VideoMetadata]:
    """As [`decode_video`], from a decoder of torchcodec whose file is not at hand. Its count of frames is taken."""
    stream = decoder.metadata
    metadata = VideoMetadata(
        stream.num_frames, stream.average_fps, stream.width, stream.height, stream.duration_seconds, "torchcodec"
    )
    indices = metadata.frames_indices = [int(i) for i in choose_frames(metadata)]

    def frames() -> Iterator[Tensor]:
        for start in range(0, len(indices), FRAMES_AT_A_TIME):
            part = decoder.get_frames_at(indices[start : start + FRAMES_AT_A_TIME]).data
            if part.shape[1] != 3:  # dimension_order="NHWC"
                part = part.permute(0, 3, 1, 2)
            yield from part if part.dtype == torch.uint8 else (part * 255).round().to(torch.uint8)

    try:
        return _put_together(frames(), shrink), metadata
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"Cannot decode the video of {decoder}: {error}.") from error


def _picture(frame: "av.VideoFrame") -> Tensor:
    picture = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)  # (height, width, 3), upright
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)  # (3, height, width)


__all__ = ["decode_video", "torchcodec_is_usable"]
