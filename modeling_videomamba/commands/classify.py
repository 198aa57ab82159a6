"""Classifies videos, and prints the five likeliest labels of each.

    videomamba classify holiday.mp4 dog.webm --model videomamba-m-k400
    videomamba classify my_videos --model my-model --num-clips 4 --num-crops 3 --picture answers.png
    videomamba classify long.mp4 --model my-model --num-frames 900

A model is the name of a released checkpoint, a directory that `videomamba convert` or a training wrote, or a repository on the
hub. The default, videomamba-demo, knows eight movements of a camera and nothing else.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModelForVideoClassification, AutoVideoProcessor
from transformers.utils import logging

from .. import VideoMambaForVideoClassification, scan_report
from ..checkpoints.by_name import check_model
from ..data.checks import check_picture, require_at_least_one
from ..data.media_files import printable, reason_of, search_folder
from .parser import DataclassParser


ESSENTIAL = ("model", "num_frames", "num_clips", "num_crops", "picture", "bf16", "device")
MOST_LABELS = 5
MOST_ROWS = 40  # of a picture
BAR = 24  # characters of a score of 100 %


def main(argv: list[str] | None = None) -> None:
    parser = DataclassParser(description=__doc__, essential=ESSENTIAL)
    parser.add_argument("videos", nargs="+", help="paths or http(s) addresses of videos; folders are searched for videos")
    parser.add_argument("--model", default="videomamba-demo", help="name, directory or hub repository of a classifier")
    parser.add_argument("--num-frames", type=int, help="frames to sample, any number, if other than the model's")
    parser.add_argument("--num-clips", type=int, default=1, help="clips over the video whose scores are averaged")
    parser.add_argument("--num-crops", type=int, default=1, help="crops along the longer side whose scores are averaged")
    parser.add_argument("--picture", help=f"file to draw frames and labels into, of the first {MOST_ROWS} videos")
    parser.add_argument("--bf16", action="store_true", help="half the precision; faster where the processor has units for it")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where the model runs")
    args = parser.parse_args(argv)
    logging.disable_progress_bar()
    require_at_least_one(args, "num_frames", "num_clips", "num_crops")
    if args.picture:
        from ..inference.answer_picture import draw_answers, frame_strip, picture_suffixes

        check_picture(args.picture, picture_suffixes())
    check_model(args.model)
    videos = list_videos(args.videos)
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    model = AutoModelForVideoClassification.from_pretrained(args.model, dtype=dtype).to(args.device).eval()
    processor = AutoVideoProcessor.from_pretrained(args.model)
    chosen = scan_report(args.device).partition(" (")[0]
    print(f"{args.model}: {model.num_parameters():,} parameters, {chosen}")

    num_frames = args.num_frames or model.config.num_frames
    views, num_views = {"num_clips": args.num_clips, "num_crops": args.num_crops}, args.num_clips * args.num_crops
    unreadable, rows = 0, []
    for video in tqdm(videos, unit="video", disable=True if len(videos) == 1 else None):
        try:
            with torch.inference_mode(), progress_bar(model, num_views) as bar:
                bar.set_description("decoding")
                inputs = processor(video, num_frames=num_frames, return_metadata=True, return_tensors="pt", **views)
                metadata, clips = inputs["video_metadata"][0], inputs["pixel_values"]  # (views, frames, 3, height, width)
                bar.set_description("classifying")
                logits = torch.cat([model(clip.to(args.device)).logits for clip in clips.split(1)])  # (views, labels)
        except Exception as error:  # of whatever type: the others get their answers
            tqdm.write(f"\nerror: {printable(reason_of(error, video))}", file=sys.stderr)
            unreadable += 1
            continue
        [scores] = processor.post_process_video_classification(logits, num_views, model.config.problem_type)
        is_regression = model.config.problem_type == "regression"
        answers, bars = describe(scores, model.config.id2label, is_regression)
        seen = f"{num_frames} frames" if num_views == 1 else f"{num_views} views of {num_frames} frames"
        size = f"{metadata.total_num_frames} of {metadata.width} x {metadata.height}"
        tqdm.write(f"\n{printable(video)}  ({seen} of {size}, decoded by {metadata.video_backend})")
        for answer, bar in zip(answers, bars):
            tqdm.write(f"  {answer}  {draw_bar(bar)}".rstrip())
        if args.picture and len(rows) < MOST_ROWS:
            clip = clips[args.num_crops // 2]  # the first one, its middle crop
            rows.append((printable(video), frame_strip(clip, processor.image_mean, processor.image_std), answers, bars))
    if rows:
        draw_answers(rows).savefig(args.picture, dpi=100)
    sys.exit(1 if unreadable else 0)


def list_videos(arguments: list[str]) -> list[str]:
    """Files and addresses as they are, and in place of a folder the videos in it."""
    videos = []
    for argument in arguments:
        videos += map(str, search_folder(Path(argument), "video")) if Path(argument).is_dir() else [argument]
    return videos


def describe(scores: Tensor, names: dict[int, str], is_regression: bool) -> tuple[list[str], list[float]]:
    """A line for each of the likeliest labels, in columns, and the lengths of their bars, from 0 to 1.

    Args:
        scores: `(labels,)`.
    """
    best = scores.topk(min(MOST_LABELS, len(scores)))
    labels = [names[label] for label in best.indices.tolist()]
    values = best.values.tolist()
    texts = [f"{value:8.3f}" if is_regression else f"{value:6.1%}" for value in values]
    width = max(map(len, labels))
    lines = [f"{text}  {label:{width}}" for text, label in zip(texts, labels)]
    return lines, [0.0] * len(lines) if is_regression else values


def draw_bar(part: float) -> str:
    block = "█" if (sys.stdout.encoding or "").lower().startswith("utf") else "#"
    return block * round(part * BAR)


@contextmanager
def progress_bar(model: VideoMambaForVideoClassification, num_views: int) -> Iterator[tqdm]:
    """Counts the layers that views have gone through; on a terminal, and not before it has taken two seconds."""
    layers = model.videomamba.layers
    with tqdm(total=num_views * len(layers), unit="layer", disable=None, delay=2, leave=False) as bar:

        def count(*_: object) -> None:
            bar.update()

        hooks = [layer.register_forward_hook(count) for layer in layers]
        try:
            yield bar
        finally:
            for hook in hooks:
                hook.remove()
