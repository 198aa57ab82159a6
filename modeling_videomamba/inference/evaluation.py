"""The scores of labelled videos, written down one by one, and what they come to."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from .. import VideoMambaForVideoClassification, VideoMambaVideoProcessor
from ..data.clips import UNREADABLE_LABEL, EvaluationViews, UnreadableFiles, drawn_from
from ..data.outputs import check_held, replacing
from .card_results import results_card
from .classifier import classify_views
from .confusion_matrix import draw_confusion_matrix
from .score_files import add_row, open_part
from .views import merge


class ViewsToDo(torch.utils.data.Dataset):
    """`(index, views)` of the samples at `indices`; `None` in place of views that cannot be read."""

    def __init__(self, views: EvaluationViews, indices: list[int], shuffle_frames: bool):
        self.views, self.indices, self.shuffle_frames = views, indices, shuffle_frames

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> tuple[int, Tensor | None]:
        index = self.indices[i]
        item = self.views[index]
        views = item["pixel_values"]  # (views, frames, 3, height, width)
        if item["labels"][0] == UNREADABLE_LABEL:
            return index, None
        if self.shuffle_frames:
            with drawn_from(index):
                views = views[:, torch.randperm(views.shape[1])]
        return index, views


def score_samples(
    model: VideoMambaForVideoClassification,
    processor: VideoMambaVideoProcessor,
    loader: Iterable[tuple[int, Tensor | None]],
    samples: list[dict],
    files: tuple[Path, Path],
    unreadable: UnreadableFiles,
    batch_size: int,
    bf16: bool,
) -> Iterator[int]:
    """Scores what a loader of [`ViewsToDo`] gives, and writes each sample down at once; yields the index of each.

    `files` are those of answers and of errors.
    """
    with open_part(files[0]) as part, open_part(files[1]) as errors:
        for index, views in loader:
            row = {"index": index, "video": samples[index]["video"]}
            scores = None
            try:
                if views is not None:
                    [scores] = classify_views(model, processor, views, len(views), batch_size, bf16)
            except torch.AcceleratorError:  # from here on, nothing works
                raise
            except Exception as error:  # such as frames of a size that patches do not cover, or too large for the memory
                unreadable.add(row["video"], error)
            if scores is None:
                add_row(errors, row)
            else:
                add_row(part, row | {"scores": scores.tolist()})
            yield index


def write_results(
    output_dir: Path,
    samples: list[dict],
    scored: dict[int, dict],
    failed: dict[int, dict],
    model: VideoMambaForVideoClassification,
    settings: dict,
    metrics_of: Callable[[np.ndarray, np.ndarray], dict[str, float]],
) -> dict:
    """Merges the samples, writes all files but the model's own card, and returns what is in results.json.

    `scored` and `failed` are by place in `samples`. `metrics_of` takes scores `(videos, labels)` and labels.
    """
    check_held(output_dir)
    if lost := [sample["video"] for i, sample in enumerate(samples) if i not in scored and i not in failed]:
        raise ValueError(f"{output_dir} has no scores of {len(lost)} videos, such as {lost[0]}: start again.")
    is_regression = model.config.problem_type == "regression"
    has_several = model.config.problem_type == "multi_label_classification"
    names = [model.config.id2label[i] for i in range(model.config.num_labels)]
    rows = [sample | {"scores": np.float32(scored[i]["scores"])} for i, sample in enumerate(samples) if i in scored]
    if not rows:
        raise ValueError(f"None of the {len(samples)} videos could be read.")

    table = {name: [row[name] for row in rows] for name in rows[0]}
    if has_several:
        table["prediction"] = [[names[i] for i in np.flatnonzero(row["scores"] > 0.5)] for row in rows]
        table["label"] = [[names[i] for i in np.flatnonzero(row["label"])] for row in rows]
    else:
        table["prediction"] = [row["scores"][0] if is_regression else names[row["scores"].argmax()] for row in rows]
    if not is_regression and not has_several:
        table["label"] = [names[label] for label in table["label"]]
    with replacing(output_dir / "scores.parquet") as file:
        Dataset.from_dict(table).to_parquet(file)

    videos = merge(rows, settings["merge"])
    labels = [video["label"] for video in videos]
    merged_scores = np.stack([video["scores"] for video in videos])  # (videos, labels)
    if not is_regression and not has_several:
        figure = draw_confusion_matrix(labels, merged_scores.argmax(axis=1).tolist(), names)
        with replacing(output_dir / "confusion_matrix.png") as file:
            figure.savefig(file, dpi=100)
    results = metrics_of(merged_scores, np.array(labels))
    results["num_videos"], results["num_samples"], results["num_labels"] = len(videos), len(rows), len(names)
    results["unreadable_videos"] = sorted({samples[i]["video"] for i in failed if i not in scored})
    results |= settings
    with replacing(output_dir / "card_block.md") as file:
        results_card(results, Path(settings["model"]).resolve().name).save(file)
    with replacing(output_dir / "results.json") as file:
        file.write_text(json.dumps(results, indent=2, ensure_ascii=False), encoding="utf-8")
    return results
