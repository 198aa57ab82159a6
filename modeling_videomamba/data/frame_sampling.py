"""Which frames of a video make a clip, as the official data sets choose them.

Every function takes the number of frames at hand and returns indices into them: all frames of the video, or those of a window.
`train` draws one clip, with Python's or NumPy's global generator as the reference does; `views` returns the clips of an
evaluation, `(num_clips, num_frames)`. Source: the reference's `datasets/{kinetics_sparse,ssv2,lvu}.py`.
"""

import random
from collections.abc import Callable
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
