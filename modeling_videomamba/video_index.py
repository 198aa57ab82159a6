"""Which frames a video file has, read from its packets: only those up to the picture of the first keyframe are decoded.

Where packets cannot tell, because they have no times or some are damaged, all frames are decoded and counted.
"""

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import av
import numpy as np
from av.codec.context import Flags
from av.stream import Disposition
from transformers.video_utils import VideoMetadata

from .video_orientation import is_stored_upright, orientation_of
from .video_sources import UnreadableVideoError, open_container


CONTAINERS_WITH_INDEX = {"mov", "matroska"}  # FFmpeg's demuxers, of MP4 and WebM too


class VideoFileMetadata(VideoMetadata):
    """Metadata of a video file. Where its frame rate varies, `frame_times` are those of all frames, in seconds from the first.

    `fps` is then the mean rate: the number of frames over `duration`.
    """

    frame_times: list[float] | None = None

    @property
    def timestamps(self) -> list[float]:
        if self.frame_times is None or self.frames_indices is None:
            return super().timestamps
        return [self.frame_times[i] for i in self.frames_indices]


class VideoIndex(NamedTuple):
    """Times are in the stream's time base, ascending, each once.

    There are none where frames have to be counted from the start: in containers without an index, where times are unreliable
    and jumps more so (AVI, MPEG-TS, GIF, raw streams); where times are missing, repeat or overlap; and in damaged files.
    """

    metadata: VideoFileMetadata
    stream: int
    time_base: Fraction
    is_upright: bool
    times: list[int] = []
    keyframes: list[int] = []
    num_undecodable: int = 0  # frames at the start that need others from before it
    is_counted: bool = False  # all frames have been decoded
    num_damaged: int = 0  # packets that give no frame


def read_index(source: str | bytes) -> VideoIndex:
    """The frames of a video file.

    Raises:
        UnreadableVideoError: if it has none, or is truncated. Only MP4 and MOV tell how long they should be.
    """
    with open_container(source) as container:
        stream = _video_stream(container)
        if stream.disposition & Disposition.attached_pic:
            raise UnreadableVideoError("it has no video stream, only a cover picture")
        packets, damaged, opening, is_cut_off = [], [], _Opening(stream), False
        for packet in demux(container, stream, damaged):
            packets.append(_Packet(packet.pts, packet.duration or 0, packet.is_keyframe, _is_hidden(packet)))
            is_cut_off = packet.is_corrupt
            opening.add(packet)
        opening.end()
        if all(packet.is_hidden for packet in packets):
            raise UnreadableVideoError("it has no frames")
        container_format = container.format.name.split(",")[0]
        if container_format == "mov":
            _require_whole(stream, packets, is_cut_off or bool(damaged))

        begin = next((i for i, packet in enumerate(packets) if packet.is_keyframe), 0)
        end = begin + 1
        while end < len(packets) and _is_leading(packets[end], packets[begin], container_format):
            end += 1
        doubtful = [packet for i, packet in enumerate(packets[:end]) if i != begin and not packet.is_hidden]
        certain = [packet for packet in (packets[begin], *packets[end:]) if not packet.is_hidden]
        times = [*opening.early, *(packet.pts for packet in certain)]
        is_timed = None not in times
        if opening.is_sound and not damaged and not _is_raw(container) and (is_timed or begin == 0):
            in_order = is_timed and len(set(times)) == len(times) and _groups_follow_each_other(packets[begin:])
            ordered = sorted(times) if in_order else []
            durations = {packet.pts: packet.duration for packet in certain}
            metadata = _metadata_of(stream, opening.size, len(times), ordered, durations.get(max(ordered, default=None), 0))
            index = VideoIndex(metadata, stream.index, stream.time_base, opening.is_upright)
            if in_order and container_format in CONTAINERS_WITH_INDEX:
                keyframes = sorted(packet.pts for packet in packets if packet.is_keyframe)
                num_undecodable = len(doubtful) - len(opening.early)
                index = index._replace(times=ordered, keyframes=keyframes, num_undecodable=num_undecodable)
            return index
    return count_frames(source, len(certain))


def count_frames(source: str | bytes, expected: int) -> VideoIndex:
    """The frames of a video file that can be decoded, found by decoding them all.

    `expected` is how many its packets promise. Some decoders leave out what is damaged without an error.

    Raises:
        UnreadableVideoError: if there are none.
    """
    with open_container(source) as container:
        stream = _video_stream(container)
        set_up_decoder(stream, threads=1)
        times, damaged, first = [], [], None
        for frame in decoded_frames(container, stream, damaged):
            first = first or frame
            times.append(frame.pts)
        if first is None:
            raise UnreadableVideoError("none of its frames can be decoded")
        is_timed = not _is_raw(container) and None not in times
        in_order = is_timed and all(time < later for time, later in pairwise(times))
        metadata = _metadata_of(stream, _size_of(first), len(times), times if in_order else [], last_duration=0)
        is_upright = is_stored_upright(first)
        counted = {"is_counted": True, "num_damaged": max(len(damaged), expected - len(times))}
        return VideoIndex(metadata, stream.index, stream.time_base, is_upright, **counted)


def set_up_decoder(stream: "av.VideoStream", threads: int) -> None:
    """With one thread, an error takes no other frames along, and no picture waits for later packets."""
    stream.codec_context.thread_count = threads
    stream.thread_type = "AUTO"
    if stream.codec_context.name == "hevc":  # FFmpeg 8 leaves out whatever refers to a damaged picture; earlier ones show it
        stream.codec_context.flags |= Flags.output_corrupt


def demux(
    container: "av.container.InputContainer", stream: "av.VideoStream", damaged: list[int | None] | None = None
) -> Iterator["av.Packet"]:
    """Yields the packets that have content. With `damaged`, a file that cannot be read on ends there, which is noted in it."""
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except IndexError:  # PyAV's, after the last packet, if streams have appeared on the way: in MPEG-TS, also by damage
        return
    except av.FFmpegError as error:
        if damaged is None or isinstance(error, OSError):  # of the disk
            raise
        damaged.append(None)


def decoded_frames(
    container: "av.container.InputContainer", stream: "av.VideoStream", damaged: list[int | None] | None = None
) -> Iterator["av.VideoFrame"]:
    """Yields the frames as they are shown.

    With `damaged`, packets that cannot be decoded are left out. From the first keyframe on, their times are noted in it.
    """
    has_begun = False

    def decode(packet: "av.Packet | None") -> list["av.VideoFrame"]:
        try:
            return stream.decode(packet)
        except Exception:
            if damaged is None:
                raise
            if has_begun:
                damaged.append(packet and packet.pts)
            return []

    for packet in demux(container, stream, damaged):
        has_begun = has_begun or packet.is_keyframe
        yield from decode(packet)
    yield from decode(None)


class _Packet(NamedTuple):
    """What is kept of a packet; with their content, those of a long video would take as much memory as its file."""

    pts: int | None
    duration: int
    is_keyframe: bool
    is_hidden: bool


class _Opening:
    """Decodes the first packets of a stream, until the picture of the first keyframe, or a later one, is shown.

    Pictures that need others from before the file's start come before it. The decoder leaves out most of them, not all:
    `early` are the times of those that it shows.
    """

    def __init__(self, stream: "av.VideoStream"):
        self.stream = stream
        set_up_decoder(stream, threads=1)
        self.early: list[int | None] = []
        self.is_sound = False  # the picture of the keyframe has been shown, or is cut off by an edit list
        self.is_upright, self.size = True, (stream.height, stream.width)
        self._has_keyframe, self._begin, self._begin_is_hidden = False, None, False  # with its time
        self._is_over = False

    def add(self, packet: "av.Packet") -> None:
        if self._is_over:
            return
        if packet.is_keyframe and not self._has_keyframe:
            self._has_keyframe, self._begin, self._begin_is_hidden = True, packet.pts, packet.is_discard
        self._decode(packet)

    def end(self) -> None:
        if not self._is_over:
            self._decode(None)

    def _decode(self, packet: "av.Packet | None") -> None:
        try:
            frames = self.stream.decode(packet)
        except Exception:  # before the keyframe that is no damage
            self._is_over = self._has_keyframe
            return
        for frame in frames:
            self.size, self.is_upright = _size_of(frame), is_stored_upright(frame)
            if not self._has_keyframe or (self._begin is not None and (frame.pts is None or frame.pts < self._begin)):
                self.early.append(frame.pts)
            else:
                self._is_over = True
                self.is_sound = self._begin is None or self._begin_is_hidden or frame.pts == self._begin
                break


def _video_stream(container: "av.container.InputContainer") -> "av.VideoStream":
    stream = container.streams.best("video")
    if stream is None:
        raise UnreadableVideoError("it has no video stream")
    if stream.codec_context is None:
        raise UnreadableVideoError("there is no decoder for its codec")
    return stream


def _is_raw(container: "av.container.InputContainer") -> bool:
    """Whether it is a stream without a container, whose times FFmpeg makes up."""
    return bool(container.format.flags & av.format.Flags.no_timestamps.value)


def _size_of(frame: "av.VideoFrame") -> tuple[int, int]:
    """`(height, width)`, upright."""
    size = frame.height, frame.width
    return size[::-1] if orientation_of(frame).is_transposed else size


def _is_hidden(packet: "av.Packet") -> bool:
    """Whether no frame is shown for a packet: cut off by an edit list, or in VP8 only there for others to refer to."""
    return packet.is_discard or (packet.stream.codec_context.name == "vp8" and not memoryview(packet)[0] & 0x10)


def _is_leading(packet: _Packet, keyframe: _Packet, container_format: str) -> bool:
    """Whether a packet after the first keyframe is shown before it. Matroska gives no times to what is before 0."""
    if keyframe.pts is None:
        return False
    return container_format == "matroska" if packet.pts is None else packet.pts < keyframe.pts


def _groups_follow_each_other(packets: list[_Packet]) -> bool:
    """Whether each group of pictures begins after those before it: not so where cuts are joined whose times overlap."""
    latest = bound = -math.inf
    for packet in packets:
        if packet.pts is not None:  # else leading, and never shown
            bound = latest if packet.is_keyframe else bound
            if packet.pts < bound:
                return False
            latest = max(latest, packet.pts)
    return True


def _require_whole(stream: "av.VideoStream", packets: list[_Packet], is_cut_off: bool) -> None:
    """
    Raises:
        UnreadableVideoError: if an MP4 or MOV, which tells how long it should be, is not.
    """
    if stream.duration is not None and len(packets) != stream.frames:
        frame = max(packet.duration for packet in packets)
        # Fragments promise the time of their end, other files their length, whatever the start.
        end = max(packet.pts + packet.duration for packet in packets) - min(stream.start_time or 0, 0)
        if end <= stream.duration - frame:  # at least one frame is missing
            seconds, promised = (float(time * stream.time_base) for time in (end, stream.duration))
            raise UnreadableVideoError(f"it is truncated: it ends after {seconds:.2f} of {promised:.2f} s")
    if is_cut_off:
        raise UnreadableVideoError("it is truncated: it ends within a frame")


def _metadata_of(
    stream: "av.VideoStream", size: tuple[int, int], total: int, times: list[int], last_duration: int
) -> VideoFileMetadata:
    """`times`, ascending, are those of all frames, or empty if they are not known."""
    fps = float(stream.average_rate or 0) or None
    metadata = VideoFileMetadata(
        total_num_frames=total, fps=fps, height=size[0], width=size[1], duration=total / fps if fps else None
    )
    if len(times) < 2:
        return metadata
    seconds = (np.array(times) - times[0]) * float(stream.time_base)
    if fps is None or (np.abs(seconds * fps - np.arange(total)) > 0.5).any():
        last = last_duration * float(stream.time_base) or (1 / fps if fps else seconds[-1] / (total - 1))
        metadata.duration = float(seconds[-1] + last)
        metadata.fps = total / metadata.duration
        metadata.frame_times = seconds.tolist()
    return metadata


__all__ = [
    "VideoFileMetadata",
    "VideoIndex",
    "count_frames",
    "decoded_frames",
    "demux",
    "read_index",
    "set_up_decoder",
]
