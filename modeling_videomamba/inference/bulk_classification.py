"""Thousands of videos into one table: shares of processes, answers that are written down at once, and the table."""

import csv
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TextIO

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers.utils import logging

from .. import VideoMambaConfig, scan_report
from ..data.checks import require_at_least_one
from ..data.media_files import printable, reason_of, search_folder
from ..data.media_lists import read_list
from ..data.outputs import check_held, hold, release, replacing
from ..data.settings import check_settings
from .classifier import classify_views, fingerprint_of, load_classifier
from .score_files import add_row, open_part, read_parts


FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # a tab or a line end before them is escaped
MOST_WAITING = 4  # batches of clips that wait for others of their shape


@dataclass
class BulkArguments:
    model: str = field(metadata={"help": "directory, id of a released checkpoint, or hub repository of a trained classifier"})
    videos: str = field(metadata={"help": "folder, or list: a text or csv file with a path or http(s) address in each line"})
    output_dir: str = field(metadata={"help": "where the result goes; all processes and machines share it"})
    media_root: str | None = field(
        default=None, metadata={"help": "where relative paths in a list start from (default: where the list is)"}
    )
    num_processes: int = field(
        default=1, metadata={"help": "processes to start here; of several, each has one thread, or OMP_NUM_THREADS"}
    )
    num_workers: int = field(
        default=0, metadata={"help": "processes that decode for each process with a model; a GPU is to be given several"}
    )
    batch_size: int = field(
        default=8 if torch.cuda.is_available() else 1,
        metadata={"help": "clips of one shape that go through the model at once; on a CPU more are no faster"},
    )
    num_frames: int | None = field(default=None, metadata={"help": "frames of a clip, if other than the model's"})
    num_clips: int = field(default=1, metadata={"help": "clips over the video whose scores are averaged"})
    num_crops: int = field(default=1, metadata={"help": "crops along the longer side whose scores are averaged"})
    bf16: bool = field(default=False, metadata={"help": "autocast to bfloat16"})

    def __post_init__(self) -> None:
        require_at_least_one(self, "num_processes", "batch_size", "num_frames", "num_clips", "num_crops")


def list_videos(source: str, media_root: str | None) -> list[str]:
    """Paths, absolute so that they mean the same in every run, and addresses; each once."""
    path = Path(os.path.abspath(source))
    if not path.exists():
        raise FileNotFoundError(f"There is no folder or list {path}.")
    if not path.is_dir():
        root = os.path.abspath(media_root) if media_root else None
        return list(dict.fromkeys(read_list(path, root, labelled=False)["video"]))
    return list(map(str, search_folder(path, "video")))


class VideosToDo(torch.utils.data.Dataset):
    """`(video, views)`, views `(views, frames, 3, height, width)`, or the reason why a video cannot be read."""

    def __init__(self, videos: list[str], read_views: Callable[[str], dict[str, Tensor]]):
        self.videos, self.read_views = videos, read_views

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, i: int) -> tuple[str, Tensor | str]:
        video = self.videos[i]
        try:
            return video, self.read_views(video)["pixel_values"]
        except Exception as error:  # of whatever type: no file may end the run
            return video, reason_of(error, video)


def readable(items: Iterable[tuple[str, Tensor | str]], errors: TextIO) -> Iterator[tuple[str, Tensor]]:
    """Passes on the videos that have views, and writes down why the others have none."""
    for video, views in items:
        if isinstance(views, Tensor):
            yield video, views
        else:
            add_row(errors, {"video": video, "error": views})


def batches_by_shape(items: Iterable[tuple[str, Tensor]], size: int) -> Iterator[list[tuple[str, Tensor]]]:
    """Yields `size` items of one shape as soon as there are as many, and what is left in the end.

    Where there are so many shapes that clips for [`MOST_WAITING`] batches wait, the fullest goes as it is.
    """
    waiting = defaultdict(list)
    for item in items:
        waiting[item[1].shape].append(item)
        fullest = max(waiting, key=lambda shape: len(waiting[shape]))
        if len(waiting[fullest]) == size or sum(map(len, waiting.values())) == MOST_WAITING * size:
            yield waiting.pop(fullest)
    yield from waiting.values()


def columns_of(scores: Tensor, config: VideoMambaConfig) -> dict[str, str | float]:
    """What the result has of a video with these scores `(labels,)`."""
    if config.problem_type in ("regression", "multi_label_classification"):
        return {f"score_{config.id2label[i]}": score for i, score in enumerate(scores.tolist())}
    columns = {}
    best = scores.topk(min(5, len(scores)))
    for place, (label, score) in enumerate(zip(best.indices.tolist(), best.values.tolist()), start=1):
        columns |= {f"label_{place}": config.id2label[label], f"score_{place}": score}
    return columns


def cell(value: str | float | None) -> str | None:
    """A value as the table shows it: numbers stay numbers, and texts are never formulas."""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = printable(value or "")
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def write_predictions(file: Path, videos: list[str], answers: dict[str, dict], errors: dict[str, dict]) -> None:
    """Writes the result, whole or not at all."""
    check_held(file.parent)
    if lost := [video for video in videos if video not in answers and video not in errors]:
        raise ValueError(f"{file.parent} has no answer for {len(lost)} videos, such as {lost[0]}: start again.")
    rows = [{"video": video, "error": None} | answers.get(video, errors.get(video)) for video in videos]
    with replacing(file) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as table:
        writer = csv.DictWriter(table, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
        writer.writerow({name: cell(name) for name in writer.fieldnames})
        writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)


def make_plan(args: BulkArguments, output_dir: Path, settings: dict) -> tuple[list[str], list[str]]:
    """All videos, and those that are to be done."""
    videos = list_videos(args.videos, args.media_root)
    hold(output_dir)
    check_settings(output_dir / "settings.json", settings, {"model": args.model})
    for file in output_dir.glob("errors-*.jsonl"):
        file.unlink()  # they are tried again
    done = read_parts(output_dir, "video")
    return videos, [video for video in videos if video not in done]


def classify_share(args: BulkArguments) -> None:
    """What each process does: its share of the videos, and the first one the result."""
    logging.disable_progress_bar()
    timeout = timedelta(days=365)  # a process waits for the slowest
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timeout)
    with state.main_process_first():  # what is downloaded is there for the others
        model, processor = load_classifier(args.model)
    processor.num_frames = args.num_frames or model.config.num_frames

    output_dir, plan = Path(args.output_dir), [None]
    if state.is_main_process:  # the only one to look: a folder that grows is not the same to all
        settings = {  # the model is the same if its fingerprint is, whatever it is called
            "model_fingerprint": fingerprint_of(model, processor),
            "videos": os.path.abspath(args.videos),
            "num_frames": processor.num_frames,
            "num_clips": args.num_clips,
            "num_crops": args.num_crops,
            "bf16": args.bf16,
        }
        try:
            plan = [make_plan(args, output_dir, settings)]
        except (ValueError, OSError) as error:
            plan = [error]  # to all, who are waiting for a plan
    [plan] = broadcast_object_list(plan)
    if isinstance(plan, Exception):
        raise plan
    videos, to_do = plan
    state.print(f"{args.model}: {model.num_parameters():,} parameters, {scan_report(state.device)}")
    state.print(f"{printable(args.videos)}: {len(videos)} videos, of which {len(videos) - len(to_do)} are done")

    start = time.perf_counter()
    share = to_do[state.process_index :: state.num_processes]
    views = {"num_clips": args.num_clips, "num_crops": args.num_crops, "num_frames": processor.num_frames}
    loader = DataLoader(
        VideosToDo(share, partial(processor, **views, return_tensors="pt")),
        batch_size=None,
        num_workers=args.num_workers,
        in_order=False,  # a long video holds up nothing
    )
    progress = tqdm(
        loader, f"process 1 of {state.num_processes}", unit="video", disable=None if state.is_main_process else True
    )
    model.to(state.device)
    with (
        open_part(output_dir / f"part-{state.process_index}.jsonl") as answers,
        open_part(output_dir / f"errors-{state.process_index}.jsonl") as errors,
    ):
        num_views = args.num_clips * args.num_crops
        for batch in batches_by_shape(readable(progress, errors), max(args.batch_size // num_views, 1)):
            names, clips = zip(*batch)
            try:
                scores = classify_views(model, processor, torch.cat(clips), num_views, args.batch_size, args.bf16)
            except torch.AcceleratorError:  # from here on, nothing works
                raise
            except Exception as error:  # such as frames of a size that patches do not cover, or too large for the memory
                for video in names:
                    add_row(errors, {"video": video, "error": reason_of(error, video)})
                continue
            for video, scores_of_video in zip(names, scores):
                add_row(answers, {"video": video} | columns_of(scores_of_video, model.config))

    state.wait_for_everyone()
    if state.is_main_process:
        seconds = time.perf_counter() - start
        failed = read_parts(output_dir, "video", "errors")
        write_predictions(output_dir / "predictions.csv", videos, read_parts(output_dir, "video"), failed)
        print(f"{len(to_do)} videos in {seconds:.1f} s, {len(to_do) / seconds:.2f} a second")
        table = printable(str(output_dir / "predictions.csv"))
        print(f"{len(failed)} of {len(videos)} could not be classified; everything is in {table}")
        release(output_dir)
    state.destroy_process_group()
