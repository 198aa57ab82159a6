"""From the scores of samples to the scores of videos.

A sample is what a model is evaluated on: a whole video, or a window of a long one. Its scores `(labels,)` are the mean over
its views, the clips and crops.
"""

from pathlib import Path

import numpy as np
from datasets import Dataset


def list_samples(videos: Dataset, labels: list[int] | list[float]) -> list[dict]:
    """What is scored, in order: `video`, `label`, and of a window `start` and `end`. Opens none of the videos.

    The name of a video that a data set holds as bytes need not be its own, so its place in the list is added to it.
    """
    if "video" in (columns := videos.flatten()).column_names:
        names = list(columns["video"])
    else:
        names = [f"{path or ''}#{i}" for i, path in enumerate(columns["video.path"])]
    samples = {"video": names, "label": labels}
    samples |= {name: list(videos[name]) for name in ("start", "end") if name in videos.column_names}
    return [dict(zip(samples, values)) for values in zip(*samples.values())]


def group(samples: list[dict], by: str) -> list[list[dict]]:
    """For every video its samples, both in the order of `samples`.

    Args:
        samples: each with `video`, a path or name, and `label`.
        by: `"path"` or `"stem"`, the file's name up to its first dot.

    Raises:
        ValueError: if samples of one video have different labels.
    """
    groups: dict[str, list[dict]] = {}
    for sample in samples:
        key = Path(sample["video"]).name.split(".")[0] if by == "stem" else sample["video"]
        groups.setdefault(key, []).append(sample)
    for first, *others in groups.values():
        for other in others:
            if other["label"] != first["label"]:
                raise ValueError(
                    f"{first['video']} and {other['video']} would count as one video (--merge {by}), "
                    f"but their labels are {first['label']} and {other['label']}."
                )
    return list(groups.values())


def merge(samples: list[dict], by: str) -> list[dict]:
    """One row, with `video`, `label` and `scores` `(labels,)`, for every video; `samples` are in the order of their list.

    By path, the scores of a video are the mean over its samples. By stem, they are those of its first sample: so the reference
    (`engines/engine_for_finetuning.py`) scores the cameras of Breakfast and the windows of LVU.
    """
    rows = []
    for samples_of_video in group(samples, by):
        first = samples_of_video[0]
        scores = [sample["scores"] for sample in (samples_of_video if by == "path" else [first])]
        rows.append({"video": first["video"], "label": first["label"], "scores": np.mean(scores, axis=0)})
    return rows
