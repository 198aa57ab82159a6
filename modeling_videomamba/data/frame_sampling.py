"""Which frames of a video make a clip, as the official data sets choose them.

Every function takes the number of frames at hand and returns indices into them: all frames of the video, or those of a window.
`train` draws one clip, with Python's or NumPy's global generator as the reference does; `views` returns the clips of an
evaluation, `(num_clips, num_frames)`. Source: the reference's `datasets/{kinetics_sparse,ssv2,lvu}.py`.
"""

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from transformers.video_utils import VideoMetadata

from .. import VideoMambaVideoProcessor


class FrameSampling(NamedTuple):
    train: Callable[[int, int], list[int]]  # (total, num_frames) -> indices
    views: Callable[[int, int, int], np.ndarray]  # (total, num_frames, num_clips) -> indices (num_clips, num_frames)


def segments_train(total: int, num_frames: int) -> list[int]:
    """A random frame of each of `num_frames` equal segments, both ends of a segment included."""
    segment = (total - 1) / num_frames
    bounds = [round(segment * i) for i in range(num_frames + 1)]
    return [min(random.randint(low, high), total - 1) for low, high in pairwise(bounds)]


def segments_views(total: int, num_frames: int, num_clips: int) -> np.ndarray:
    metadata = VideoMetadata(total_num_frames=total)
    return VideoMambaVideoProcessor().sample_frames(metadata, num_frames, num_clips).reshape(num_clips, num_frames)


def ssv2_train(total: int, num_frames: int) -> list[int]:
    """A random frame of each of `num_frames` segments of whole length; a video that is too short gives its first frame."""
    segment = total // num_frames
    if segment == 0:
        return [0] * num_frames
    return (np.arange(num_frames) * segment + np.random.randint(segment, size=num_frames)).tolist()


def ssv2_views(total: int, num_frames: int, num_clips: int) -> np.ndarray:
    """One clip: the middles of the segments. More: their interleaved parts, from the segments' starts on."""
    segment = total / num_frames
    positions = np.arange(num_frames)
    if num_clips == 1:
        return (segment / 2 + segment * positions).astype(int)[None]
    indices = [(clip * segment / num_clips + segment * positions).astype(int) for clip in range(num_clips)]
    return np.sort(np.concatenate(indices)).reshape(num_frames, num_clips).T  # (num_clips, num_frames)


FRAME_SAMPLINGS = {
    "segments": FrameSampling(segments_train, segments_views),  # Kinetics, Breakfast, COIN, LVU
    "ssv2": FrameSampling(ssv2_train, ssv2_views),  # Something-Something V2
}


def lvu_windows(duration: float, length: float, stride: float) -> list[tuple[float, float]]:
    """Windows of a long video, in seconds: `(start, end)` every `stride`; the last may be as short as half of `length`."""
    if duration < length:
        return [(0.0, duration)]
    starts = np.arange(0, max(int(duration), 1), stride)
    windows = [(float(start), min(float(start + length), float(duration))) for start in starts]
    return [(start, end) for start, end in windows if end == start + length or end - start >= length / 2]


def window_frames(
    total: int, fps: float | None, start: float | None, end: float | None, times: Sequence[float] | None = None
) -> tuple[int, int]:
    """The first frame of a window and its number of frames; without `start` and `end` the whole video.

    A window begins with the frame that is shown at `start` and ends with the one shown at `end`, in seconds from the first
    frame. Where the rate varies, `times` are those of all frames, see [`VideoFileMetadata`].
    """
    if start is None or end is None:
        return 0, total
    if times is not None:
        first, last = (max(bisect_right(times, seconds) - 1, 0) for seconds in (start, end))
        return first, last - first + 1
    if fps is None:
        raise ValueError("The video does not say how many frames it shows a second, so it cannot be cut into windows.")
    first, last = min(int(start * fps), total - 1), min(int(end * fps), total - 1)
    return first, last - first + 1
