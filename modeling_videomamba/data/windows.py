"""Windows of long videos, in seconds: as LVU cuts them, as rows of a table, and the frames that they hold.

Source: the reference's `datasets/lvu.py`.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from datasets import Dataset, Features, Value


def cut_into_windows(videos: Dataset, length: float, stride: float) -> Dataset:
    """A row for every window of every video; lengths in seconds, see [`lvu_windows`]. The videos need a `duration`."""
    if not (0 < length < math.inf and 0 < stride < math.inf):
        raise ValueError(f"Windows need a length and a stride above 0 seconds, got {length:g} and {stride:g}.")
    if "duration" not in videos.column_names:
        raise ValueError("Windows need a list whose third column is the duration of the video in seconds.")
    rows = [
        row | {"start": start, "end": end} for row in videos for start, end in lvu_windows(row["duration"], length, stride)
    ]
    return Dataset.from_list(rows, Features(videos.features | {"start": Value("float64"), "end": Value("float64")}))


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
