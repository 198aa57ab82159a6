"""Measures a video classifier, or a regressor, on labelled videos: top-1 and top-5, or the mean squared error.

    videomamba evaluate --model my-model --data my_videos --output-dir my-results
    videomamba evaluate --model videomamba-ti-ssv2-f8 --recipe videomamba-ti-ssv2-f8 ...
    torchrun --nproc_per_node 4 -m modeling_videomamba evaluate --num-clips 4 --num-crops 3 ...

The scores of a video are the mean over its views, `num_clips` times `num_crops` of them. A fine-tuning recipe may say how its
data are read, viewed and merged, all of which is in DataArguments; its other keys are left out. Above all its `model` is what
training started from: the one to evaluate is always given with --model.

The output directory, which all processes share, gets scores.parquet, results.json, confusion_matrix.png and card_block.md, a
block for a model card. Every video is written down as soon as it is scored: an interrupted evaluation that is started again
goes on where it was, with however many processes. A second evaluation on the same directory is refused while it lasts.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal

import datasets
import torch
from accelerate import PartialState
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers.utils import logging

from .. import scan_report
from ..data.checks import require_at_least_one
from ..data.clips import EvaluationViews, UnreadableFiles
from ..data.frame_sampling import FRAME_SAMPLINGS
from ..data.interruption import say_when_interrupted
from ..data.label_sets import label_vectors
from ..data.media_lists import label_ids, label_names, label_values, load_media
from ..data.outputs import hold, release
from ..data.settings import check_settings
from ..data.windows import cut_into_windows
from ..inference.card_results import update_card
from ..inference.classifier import fingerprint_of, load_classifier
from ..inference.evaluation import ViewsToDo, score_samples, write_results
from ..inference.score_files import fingerprint, read_parts
from ..inference.views import group, list_samples
from ..training.arguments import DataArguments
from ..training.metrics import metrics_of
from ..training.models import labels_of
from .parser import parse_arguments


ESSENTIAL = (
    "model",
    "data",
    "output_dir",
    "split",
    "labels",
    "num_clips",
    "num_crops",
    "num_frames",
    "merge",
    "recipe",
    "bf16",
)


@dataclass
class EvaluationArguments:
    model: str = field(
        metadata={"help": "what to evaluate: a directory, the id of a released checkpoint, or a hub repository"}
    )
    output_dir: str = field(metadata={"help": "where results go"})
    split: Literal["train", "val", "test"] | None = field(
        default=None, metadata={"help": "which videos (default: test if the data has it, else val)"}
    )
    num_frames: int | None = field(default=None, metadata={"help": "frames of a clip, if other than the model's"})
    batch_size: int = field(default=12, metadata={"help": "views that go through the model at once"})
    num_workers: int = field(default=2, metadata={"help": "processes that decode, for each process with a model"})
    bf16: bool = field(default=False, metadata={"help": "autocast to bfloat16"})
    shuffle_frames: bool = field(
        default=False, metadata={"help": "put the frames of every clip in disorder, to see whether the model uses their order"}
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": "what the model card calls the data (default: --data's name)"}
    )
    update_card: bool = field(default=False, metadata={"help": "put the results into the README.md of the model's directory"})

    def __post_init__(self) -> None:
        require_at_least_one(self, "num_frames", "batch_size")


def load_split(args: DataArguments, split: str | None) -> tuple[Dataset, str]:
    """The videos to evaluate on, and the name of their split: `"all"` of data that have none, of a single list its own name.

    Raises:
        ValueError: if there are no such videos, or a single list is not the split that was asked for.
    """
    single_list = Path(args.data).stem if Path(args.data).is_file() else None
    if single_list and split not in (None, single_list):
        raise ValueError(f"--split {split}: {args.data} is a single list, which has no splits. Leave --split out.")
    for name in [split] if split else ["test", "val", "all"]:
        videos = load_media(args.data, name, args.media_root, args.data_config)
        if videos is not None and args.window_seconds:
            videos = cut_into_windows(videos, args.window_seconds, args.window_stride)
        if videos is not None:
            return videos, single_list or name
    wanted = f"no {split} videos" if split else "neither test nor val videos; --split train takes all that it has for training"
    raise ValueError(f"{args.data} has {wanted}.")


def main(argv: list[str] | None = None) -> None:
    data_args, args = parse_arguments(
        DataArguments,
        EvaluationArguments,
        description=__doc__,
        argv=argv,
        essential=ESSENTIAL,
        in_recipe=(DataArguments,),
    )
    if args.update_card and not Path(args.model).is_dir():
        raise ValueError(f"--update_card: {args.model} is not a directory on this machine.")
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    timeout = timedelta(days=1)  # a process may have to wait long for one with slower videos
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timeout)
    with state.main_process_first():  # what is downloaded is there for the others
        model, processor = load_classifier(args.model)
        videos, split = load_split(data_args, args.split)
    processor.num_frames = args.num_frames or model.config.num_frames

    if model.config.problem_type == "regression":
        labels = label_values(videos, split)
    elif model.config.problem_type == "multi_label_classification":
        labels = label_vectors(videos, model.config.id2label, split)
    else:
        if data_args.labels and label_names(videos) is None:
            names = labels_of(videos, data_args.labels, model.config.num_labels)
            named = [names[i] for i in label_ids(videos, dict(enumerate(names)), split)]
            videos = videos.remove_columns("label").add_column("label", named)
        labels = label_ids(videos, model.config.id2label, split)
    samples = list_samples(videos, labels)
    group(samples, data_args.merge)  # an error now, rather than in the end

    settings = {  # the model is the same if its fingerprint is, whatever it is called
        "model_fingerprint": fingerprint_of(model, processor),
        "data": data_args.data,
        "data_config": data_args.data_config,
        "split": split,
        "videos_fingerprint": fingerprint(
            *(f"{row['video']} {row.get('start')} {row.get('end')}".encode() for row in samples)
        ),
        "frame_sampling": data_args.frame_sampling,
        "num_frames": processor.num_frames,
        "num_clips": data_args.num_clips,
        "num_crops": data_args.num_crops,
        "window_seconds": data_args.window_seconds,
        "window_stride": data_args.window_stride,
        "shuffle_frames": args.shuffle_frames,
        "bf16": args.bf16,
    }
    output_dir = Path(args.output_dir)
    unreadable = UnreadableFiles(output_dir / "unreadable_files.txt", data_args.strict)
    with state.main_process_first():
        if state.is_main_process:
            hold(output_dir)
        check_settings(output_dir / "settings.json", settings, {"model": args.model})
        if state.is_main_process:
            for file in (unreadable.file, *output_dir.glob("errors-*.jsonl")):
                file.unlink(missing_ok=True)  # they are tried again
    done = read_parts(output_dir, "index")
    state.wait_for_everyone()  # nobody writes before all have read

    to_do = [i for i in range(len(samples)) if i not in done][state.process_index :: state.num_processes]
    views = EvaluationViews(
        videos,
        [0] * len(videos),  # no labels are needed here
        FRAME_SAMPLINGS[data_args.frame_sampling],
        processor,
        unreadable,
        data_args.num_clips,
        data_args.num_crops,
    )
    loader = DataLoader(ViewsToDo(views, to_do, args.shuffle_frames), batch_size=None, num_workers=args.num_workers)
    model.to(state.device)
    state.print(f"{args.model}: {model.num_parameters():,} parameters, {scan_report(state.device)}")
    state.print(
        f"{data_args.data}, {split if split != 'all' else 'all of it, since it has no splits'}: "
        f"{len(samples)} videos or windows, of which {len(done)} are done; "
        f"{data_args.num_clips} clips x {data_args.num_crops} crops of {processor.num_frames} frames"
    )
    say_when_interrupted(": the same command goes on from here")
    hidden = None if state.is_main_process else True  # None: out of a terminal
    progress = tqdm(total=len(samples), initial=len(done), unit="video", disable=hidden)
    files = output_dir / f"part-{state.process_index}.jsonl", output_dir / f"errors-{state.process_index}.jsonl"
    with progress:
        for _ in score_samples(model, processor, loader, samples, files, unreadable, args.batch_size, args.bf16):
            progress.update(min(state.num_processes, progress.total - progress.n))  # the others are about as far

    state.wait_for_everyone()
    if state.is_main_process:
        dataset_name = args.dataset_name or Path(data_args.data).resolve().name
        settings = {"model": args.model} | settings | {"merge": data_args.merge, "dataset_name": dataset_name}
        scored, failed = read_parts(output_dir, "index"), read_parts(output_dir, "index", "errors")
        metrics = metrics_of(model.config.problem_type)
        results = write_results(output_dir, samples, scored, failed, model, settings, metrics)
        if args.update_card:
            update_card(Path(args.model) / "README.md", results)
        for name in ("accuracy", "top5_accuracy", "map", "micro_f1"):
            if name in results:
                print(f"{name}: {results[name]:.2%}")
        if "mse" in results:
            print(f"mse: {results['mse']:.4f}")
        print(f"{results['num_videos']} videos; everything is in {output_dir}")
        if names := results["unreadable_videos"]:
            print(f"{len(names)} video(s) could not be read and do not count, see {unreadable.file}")
        release(output_dir)
    state.destroy_process_group()
