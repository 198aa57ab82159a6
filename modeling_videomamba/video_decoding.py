"""Decodes the sampled frames of a video file and no others: with torchcodec where it works, else with PyAV.

Both decoders return the same pictures, but for the rounding of chroma in 10-bit video and in 4:2:0 or 4:2:2 of odd sizes (0.7
to 2.8 grey levels in the mean). torchcodec, which needs FFmpeg's libraries on the system, is the faster one; it decodes files
with reliable times and pictures that are stored upright. PyAV decodes all others, and those that torchcodec misreads.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import av
import numpy as np
import torch
from torch import Tensor
from transformers.utils import logging

from .video_download import FETCH_BYTES, FETCH_SECONDS
from .video_index import (
    VideoFileMetadata,
    VideoIndex,
    count_frames,
    decoded_frames,
    read_index,
    set_up_decoder,
)
from .video_orientation import orientation_of, turn
from .video_sources import UnreadableVideoError, VideoSource, encoded_source, load_source, open_container


FRAMES_AT_A_TIME = 16

logger = logging.get_logger(__name__)


def decode_video(
    source: VideoSource,
    choose_frames: Callable[[VideoFileMetadata], Sequence[int]],
    decoder: str | None = None,
    shrink: Callable[[Tensor], Tensor] | None = None,
    fetch_seconds: float = FETCH_SECONDS,
    fetch_bytes: int = FETCH_BYTES,
) -> tuple[Tensor, VideoFileMetadata]:
    """Decodes the frames that `choose_frames` asks for.

    Of a damaged file, the frames that can be decoded count; the others are left out with a warning. If damage only shows in
    decoding, `choose_frames` is called again with the new number of frames. Damage that is jumped over stays unnoticed.

    Args:
        source: path, http(s) address, the bytes of a video file, a binary file that is open, or an item of `datasets.Video`: a
            decoder of torchcodec, or `{"path": ..., "bytes": ...}`.
        choose_frames: given the video's metadata, returns indices of frames, in any order; repeats are fine.
        decoder (`"torchcodec"` or `"pyav"`, *optional*): by default torchcodec where it is usable. What it does not read
            correctly is decoded by PyAV in any case; the metadata's `video_backend` names the one that was used.
        shrink (*optional*): called with some decoded frames after the other, `(frames, 3, height, width)`, uint8; its results
            are put together. Resizing here keeps a long video from being in memory at full size.
        fetch_seconds, fetch_bytes: limits for all of the download from an address. Its content is held in memory.

    Returns:
        Frames `(len(indices), 3, height, width)`, uint8 RGB, upright, or what `shrink` makes of them; metadata with
        `frames_indices`. Pixels that are not square stay as they are stored, as with ffmpeg and torchcodec: the frames are not
        stretched to the shape in which a player shows them.

    Raises:
        FileNotFoundError, PermissionError: if there is no such file, or it may not be read.
        ValueError: if it cannot be fetched or decoded, whatever the decoder raises: empty, not a video, a playlist, truncated.
            Only MP4 and MOV tell how long they should be; what is left of other files (MKV, WebM, MPEG-TS, AVI, GIF) is taken
            for a shorter video.
            Errors of `choose_frames` and `shrink` are passed on as they are.
    """
    if decoder not in (None, "torchcodec", "pyav"):
        raise ValueError(f"Unknown decoder {decoder!r}: choose 'torchcodec' or 'pyav'.")
    if decoder == "torchcodec" and not torchcodec_is_usable():
        raise ImportError("torchcodec is not installed, or does not work here: `pip install torchcodec`, and FFmpeg.")
    source = encoded_source(source)
    if hasattr(source, "get_frames_at"):
        return _decode_open(source, choose_frames, shrink)
    source, name = load_source(source, fetch_seconds, fetch_bytes)
    with _named_errors(name):
        index = read_index(source)
    while True:
        metadata = index.metadata
        indices = metadata.frames_indices = [int(i) for i in choose_frames(metadata)]
        if not indices or min(indices) < 0 or max(indices) >= metadata.total_num_frames:
            have = metadata.total_num_frames
            raise ValueError(f"Cannot decode the video {name}: frames {indices} asked for, it has {have}.")
        wanted = sorted(set(indices))
        try:
            frames = _decode(source, index, wanted, decoder, shrink)
            break
        except UnreadableVideoError as error:
            if index.is_counted:
                raise ValueError(f"Cannot decode the video {name}: {error}.") from error
        with _named_errors(name):
            index = count_frames(source, metadata.total_num_frames)
    if index.num_damaged:
        packets = "1 packet gives" if index.num_damaged == 1 else f"{index.num_damaged} packets give"
        logger.warning_once(
            f"The video {name} seems damaged: {packets} no frame. The other {metadata.total_num_frames} frames are used."
        )
    return frames if indices == wanted else frames[np.searchsorted(wanted, indices)], metadata


def torchcodec_is_usable() -> bool:
    """Whether torchcodec is installed, fits the installed torch, and found FFmpeg."""
    try:
        import torchcodec.decoders
    except Exception:  # a build for another torch fails with errors of several types
        return False
    return getattr(torchcodec, "ffmpeg_major_version", True) is not None


@contextmanager
def _named_errors(name: str) -> Iterator[None]:
    """Makes one error that names the file of whatever FFmpeg and PyAV raise inside."""
    try:
        yield
    except UnreadableVideoError as error:
        raise ValueError(f"Cannot decode the video {name}: {error}.") from error
    except (FileNotFoundError, PermissionError) as error:  # PyAV's own are these, too
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else PermissionError
        raise kind(error.errno, error.strerror, name) from error
    except Exception as error:
        message = f"Cannot decode the video {name}: it is empty, truncated or no video ({_reason(error)})."
        raise ValueError(message) from error


def _reason(error: Exception) -> str:
    """One line that says what happened."""
    line = next(iter(str(error).splitlines()), "")
    return line if line and isinstance(error, (av.FFmpegError, RuntimeError)) else f"{type(error).__name__}: {line}"


def _decode(
    source: str | bytes,
    index: VideoIndex,
    wanted: list[int],
    decoder: str | None,
    shrink: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """The frames of the ascending indices `wanted`, `(frames, 3, height, width)`, by the first way that succeeds.

    Raises:
        UnreadableVideoError: if none does.
    """
    ways = [("pyav", _decode_from_start)]
    if index.times:  # in fragments, a jump may land behind the keyframe: then, too, from the start
        ways.insert(0, ("pyav", _decode_at_times))
        if decoder != "pyav" and index.is_upright and torchcodec_is_usable():  # it would turn, but not mirror
            ways.insert(0, ("torchcodec", _decode_torchcodec))
    for index.metadata.video_backend, decode in ways:
        parts = _in_parts(decode(source, index, wanted), index.metadata)
        try:
            return torch.cat([part if shrink is None else shrink(part) for part in parts])
        except UnreadableVideoError as error:
            reason = error
    raise reason


def _in_parts(frames: Iterator[Tensor], metadata: VideoFileMetadata) -> Iterator[Tensor]:
    """Yields some frames `(3, height, width)` at a time as one tensor, and notes their size.

    Raises:
        UnreadableVideoError: whatever the decoder raises.
    """
    size = None
    try:
        while part := list(islice(frames, FRAMES_AT_A_TIME)):
            for frame in part:
                if size not in (None, frame.shape[1:]):
                    before, after = (f"{height} x {width}" for height, width in (size, frame.shape[1:]))
                    raise UnreadableVideoError(f"the frame size changes from {before} to {after} within the video")
                size = metadata.height, metadata.width = tuple(frame.shape[1:])
            yield torch.stack(part)
    except UnreadableVideoError:
        raise
    except Exception as error:
        raise UnreadableVideoError(_reason(error)) from error


def _decode_torchcodec(source: str | bytes, index: VideoIndex, wanted: list[int]) -> Iterator[Tensor]:
    """Yields the frames `(3, height, width)` of the ascending indices `wanted`."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(source, stream_index=index.stream, seek_mode="exact", num_ffmpeg_threads=_threads())
    for start in range(0, len(wanted), FRAMES_AT_A_TIME):
        part = wanted[start : start + FRAMES_AT_A_TIME]
        frames = decoder.get_frames_at([i + index.num_undecodable for i in part])  # which it counts
        times = (frames.pts_seconds / float(index.time_base)).round().long().tolist()
        if times != [index.times[i] for i in part]:
            raise UnreadableVideoError("torchcodec returned other frames than those asked for")
        yield from frames.data


def _decode_at_times(source: str | bytes, index: VideoIndex, wanted: list[int]) -> Iterator[Tensor]:
    """Yields the frames `(3, height, width)` of the ascending indices `wanted`, jumping ahead where a keyframe allows it."""
    with _open_for_threads(source, index) as (container, stream):
        decoded, position = iter(()), None
        for time in (index.times[i] for i in wanted):
            keyframe = index.keyframes[max(bisect_right(index.keyframes, time) - 1, 0)]
            if position is None or keyframe > position:
                container.seek(keyframe, stream=stream)
                decoded = decoded_frames(container, stream)
            for frame in decoded:
                position = frame.pts
                if position == time:
                    yield _picture(frame)
                    break
            else:
                raise UnreadableVideoError(f"it has no frame at {float(time * stream.time_base):.2f} s")


def _decode_from_start(source: str | bytes, index: VideoIndex, wanted: list[int]) -> Iterator[Tensor]:
    """Yields the frames `(3, height, width)` of the ascending indices `wanted`, counted as they are shown."""
    with _open_for_threads(source, index) as (container, stream):
        decoded = enumerate(decoded_frames(container, stream, [] if index.is_counted else None))
        position = -1
        for i in wanted:
            for position, frame in decoded:
                if position == i:
                    if index.times and frame.pts != index.times[i]:
                        raise UnreadableVideoError("some of its frames cannot be decoded")
                    yield _picture(frame)
                    break
            else:
                total = index.metadata.total_num_frames
                raise UnreadableVideoError(f"only {position + 1} of its {total} frames can be decoded")


@contextmanager
def _open_for_threads(
    source: str | bytes, index: VideoIndex
) -> Iterator[tuple["av.container.InputContainer", "av.VideoStream"]]:
    """The file and its stream, which several threads decode. They rest before it is closed.

    Closing waits for them and keeps Python's lock, which they wait for to log an error if PyAV's logging is on, as it is where
    torchvision 0.24 has been imported.
    """
    with open_container(source) as container:
        stream = container.streams[index.stream]
        set_up_decoder(stream, threads=1 if index.is_counted else _threads())  # counted with one
        try:
            yield container, stream
        finally:
            stream.codec_context.flush_buffers()


def _threads() -> int:
    """Of FFmpeg: as many as PyTorch's, so 1 in a worker of a data loader, and at most 16: more do not pay."""
    return min(16, torch.get_num_threads())


def _decode_open(
    decoder: "torchcodec.decoders.VideoDecoder",  # noqa: F821
    choose_frames: Callable[[VideoFileMetadata], Sequence[int]],
    shrink: Callable[[Tensor], Tensor] | None,
) -> tuple[Tensor, VideoFileMetadata]:
    """As [`decode_video`], from a decoder of torchcodec whose file is not at hand. Its count of frames is taken."""
    stream = decoder.metadata
    metadata = VideoFileMetadata(
        stream.num_frames, stream.average_fps, stream.width, stream.height, stream.duration_seconds, "torchcodec"
    )
    indices = metadata.frames_indices = [int(i) for i in choose_frames(metadata)]

    def frames() -> Iterator[Tensor]:
        for start in range(0, len(indices), FRAMES_AT_A_TIME):
            part = decoder.get_frames_at(indices[start : start + FRAMES_AT_A_TIME]).data
            if part.shape[1] != 3:  # dimension_order="NHWC"
                part = part.permute(0, 3, 1, 2)
            yield from part if part.dtype == torch.uint8 else (part * 255).round().to(torch.uint8)

    parts = _in_parts(frames(), metadata)
    try:
        return torch.cat([part if shrink is None else shrink(part) for part in parts]), metadata
    except UnreadableVideoError as error:
        raise ValueError(f"Cannot decode the video of {decoder}: {error}.") from error


def _picture(frame: "av.VideoFrame") -> Tensor:
    picture = turn(frame.to_ndarray(format="rgb24"), orientation_of(frame))  # (height, width, 3), upright
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)  # (3, height, width)


__all__ = ["decode_video", "torchcodec_is_usable"]
