"""The released checkpoints: what the authors published, what they claim of it, and what to know before trusting it.

`released_checkpoints.csv` has a row for each, with an id of ours; `zero_shot_retrieval.csv` the recalls of video-text ones.
"""

import csv
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .. import VideoMambaConfig


REPOSITORY = "OpenGVLab/VideoMamba"  # on the Hugging Face hub

TABLE = Path(__file__).with_name("released_checkpoints.csv")

NUM_LABELS = {
    "imagenet-1k": 1000,
    "kinetics-400": 400,
    "something-something-v2": 174,
    "breakfast": 10,
    "coin": 180,
}

# shorter name -> id: 16 frames of short actions, 32 of long activities, supervised unless it says otherwise
ALIASES: dict[str, str] = {
    f"videomamba-{size}-{dataset}": f"videomamba-{size}-{dataset}-{frames}"
    for dataset, frames in (("k400", "f16"), ("ssv2", "f16"), ("breakfast", "f32"), ("coin", "f32"))
    for size in ("ti", "s", "m")
} | {
    "videomamba-m-k400-best": "videomamba-m-k400-mask-f64-res384",
    "videomamba-m-mm": "videomamba-m-mm-25m",
}


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """One row of the table. Accuracies and GFLOPs are the authors' claims, `None` where they make none."""

    id: str
    file: str  # in REPOSITORY
    task: Literal["image-classification", "video-classification", "masked-pretraining", "video-text"]
    dataset: str  # a key of NUM_LABELS; for video-text its corpus: "5m", "17m", "25m"
    size: Literal["tiny", "small", "middle", "base"]
    resolution: int  # pixels, square
    frames: int | None  # None: an image model
    clips: int | None  # the model zoo's test views: clips in time times crops in space
    crops: int | None
    top1: float | None  # percent, averaged over the views
    top5: float | None
    parameters: int | None  # computed from the architecture; the authors round to millions
    gflops: float | None  # of one view, as printed: see count_flops(..., paper=True)
    gflops_with_scan: float | None  # of one view, ours: see count_flops
    parent: str | None  # id of the checkpoint that training started from; None: from scratch
    quirks: tuple[str, ...]  # a sentence each, without its full stop


def load_released() -> dict[str, ReleasedCheckpoint]:
    """All released checkpoints by id: images, masked pretraining, videos by data set, video-text."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = [_parse(row) for row in csv.DictReader(file)]
    return {row.id: row for row in rows}


def find_released(name: str) -> ReleasedCheckpoint:
    """The released checkpoint of that id or alias.

    Raises:
        ValueError: if there is none; the message names the closest ones.
    """
    released = load_released()
    if (row := released.get(ALIASES.get(name, name))) is not None:
        return row
    closest = difflib.get_close_matches(name, [*released, *ALIASES])
    hint = f"The closest names are {', '.join(closest)}." if closest else "Names look like videomamba-m-k400-f16."
    raise ValueError(f"There is no released checkpoint {name!r}. {hint}")


def expected_config(row: ReleasedCheckpoint) -> VideoMambaConfig:
    """The configuration that the tensors of a released checkpoint must fit; of a video-text one, that of its video side.

    Checkpoints of pretraining have no labels.
    """
    num_labels = 0 if row.task in ("masked-pretraining", "video-text") else NUM_LABELS[row.dataset]
    size = getattr(VideoMambaConfig, row.size)
    return size(image_size=row.resolution, num_frames=row.frames, num_labels=num_labels)


def _parse(row: dict[str, str]) -> ReleasedCheckpoint:
    strings = {name: row[name] for name in ("id", "file", "task", "dataset", "size")}
    integers = {
        name: int(row[name]) if row[name] else None for name in ("resolution", "frames", "clips", "crops", "parameters")
    }
    floats = {name: float(row[name]) if row[name] else None for name in ("top1", "top5", "gflops", "gflops_with_scan")}
    quirks = tuple(row["quirks"].split("; ")) if row["quirks"] else ()
    return ReleasedCheckpoint(**strings, **integers, **floats, parent=row["parent"] or None, quirks=quirks)
