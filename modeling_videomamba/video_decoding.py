"""Decodes the sampled frames of a video file and no others: with torchcodec where it works, else with PyAV.

PyAV, which brings its own FFmpeg, reads the file's packets and so counts the frames exactly. Both decoders then return the
same pictures; torchcodec, which needs FFmpeg's libraries on the system, is the faster one. In containers without an index
(AVI, MPEG-TS, GIF) jumping to a frame is unreliable in either, so these are decoded by PyAV from the start.
"""

import io
import os
import urllib.request
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence

import av
import numpy as np
import torch
from torch import Tensor
from transformers.video_utils import VideoMetadata


VideoSource = str | os.PathLike | bytes

CONTAINERS_WITH_INDEX = {"mov", "mp4", "matroska", "webm"}


def decode_video(
    source: VideoSource, choose_frames: Callable[[VideoMetadata], Sequence[int]], decoder: str | None = None
) -> tuple[Tensor, VideoMetadata]:
    """Decodes the frames that `choose_frames` asks for.

    Args:
        source: path, http(s) address, or the bytes of a video file.
        choose_frames: given the video's metadata, returns indices of frames, in any order; repeats are fine.
        decoder (`"torchcodec"` or `"pyav"`, *optional*): by default torchcodec where it is usable.

    Returns:
        Frames `(len(indices), 3, height, width)`, uint8 RGB, upright; metadata with `frames_indices`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be decoded: empty, not a video, truncated.
    """
    if isinstance(source, bytes):
        name = f"<{len(source)} bytes>"
    else:
        source = name = os.fspath(source)
        if name.startswith(("http://", "https://")):
            with urllib.request.urlopen(name) as response:
                source = response.read()
        elif not os.path.isfile(name):
            raise FileNotFoundError(f"No such video file: {name}")
    try:
        metadata, times, keyframes = _read_index(source)
        indices = metadata.frames_indices = [int(i) for i in choose_frames(metadata)]
        wanted = sorted(set(indices))
        metadata.video_backend = decoder or ("torchcodec" if keyframes and torchcodec_is_usable() else "pyav")
        if metadata.video_backend == "torchcodec":
            frames = _decode_torchcodec(source, wanted)
        else:
            frames = torch.stack(list(_decode_pyav(source, keyframes, [times[i] for i in wanted])))
    except (av.FFmpegError, EOFError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"Cannot decode the video {name}: it is empty, truncated or no video ({reason}).") from error
    return frames[np.searchsorted(wanted, indices)], metadata


def torchcodec_is_usable() -> bool:
    """Whether torchcodec is installed, fits the installed torch, and found FFmpeg."""
    try:
        import torchcodec.decoders
    except Exception:  # a build for another torch fails with errors of several types
        return False
    return getattr(torchcodec, "ffmpeg_major_version", True) is not None


def _open(source: str | bytes) -> "av.container.InputContainer":
    return av.open(io.BytesIO(source) if isinstance(source, bytes) else source)


def _read_index(source: str | bytes) -> tuple[VideoMetadata, list[int], list[int]]:
    """Metadata, the times of all frames, and those of keyframes that one can jump to, ascending, in the stream's time base."""
    with _open(source) as container:
        if not container.streams.video:
            raise EOFError("no video stream")
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        if len(packets) < stream.frames:
            raise EOFError(f"{len(packets)} of {stream.frames} frames are left")
        packets = [packet for packet in packets if not packet.is_discard]  # cut off by an edit list
        if not packets:
            raise EOFError("no frames")
        has_index = CONTAINERS_WITH_INDEX & set(container.format.name.split(","))
        times = sorted(packet.pts for packet in packets)
        keyframes = sorted(packet.pts for packet in packets if packet.is_keyframe) if has_index else []
        fps = float(stream.average_rate or 0) or None
        metadata = VideoMetadata(
            total_num_frames=len(times),
            fps=fps,
            width=stream.width,
            height=stream.height,
            duration=len(times) / fps if fps else None,
        )
    return metadata, times, keyframes


def _decode_torchcodec(source: str | bytes, indices: list[int]) -> Tensor:
    try:
        from torchcodec.decoders import VideoDecoder
    except ImportError as error:
        raise ImportError("torchcodec is not installed: `pip install torchcodec`.") from error

    return VideoDecoder(source, seek_mode="exact", num_ffmpeg_threads=0).get_frames_at(indices).data


def _decode_pyav(source: str | bytes, keyframes: list[int], times: list[int]) -> Iterator[Tensor]:
    """Yields the frames `(3, height, width)` at the ascending `times`, jumping ahead wherever a keyframe allows it."""
    with _open(source) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        decoded, position = container.decode(stream), None
        for time in times:
            passed = bisect_right(keyframes, time)
            if passed and (position is None or keyframes[passed - 1] > position):
                container.seek(keyframes[passed - 1], stream=stream)
                decoded = container.decode(stream)
            for frame in decoded:
                position = frame.pts
                if position == time:
                    picture = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)  # (height, width, 3)
                    yield torch.from_numpy(picture.copy()).permute(2, 0, 1)
                    break
            else:
                raise EOFError(f"no frame at {float(time * stream.time_base):.2f} s")


__all__ = ["VideoSource", "decode_video", "torchcodec_is_usable"]
