"""Classifies video files and prints the five likeliest labels of each.

    videomamba classify examples/demo_clips
    videomamba classify holiday.mp4 dog.webm --model my-model --num-clips 4 --num-crops 3
    videomamba classify my_videos --model my-model --picture answers.png
    videomamba classify long.mp4 --model my-model --num-frames 900

A model is a directory made by `videomamba convert` or by fine-tuning, or a repository on the hub. The default is
videomamba-demo, which knows eight movements of a camera and nothing else.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoModelForVideoClassification, AutoVideoProcessor
from transformers.utils import logging

from .. import VideoMambaForVideoClassification, scan_report
from ..checkpoints.by_name import DEMO_MODEL
from ..data.media_files import printable, reason_of, search_folder
from ..training.checks import check_picture, require_at_least_one
from .parser import ArgumentParser


MOST_ROWS = 40  # of a picture


def list_videos(arguments: list[str]) -> list[str]:
    """Files and addresses as they are, and in place of a folder the videos in it."""
    videos = []
    for argument in arguments:
        videos += map(str, search_folder(Path(argument), "video")) if Path(argument).is_dir() else [argument]
    return videos


@contextmanager
def progress_bar(model: VideoMambaForVideoClassification, num_views: int) -> Iterator[tqdm]:
    """Counts the blocks that views have gone through; on a terminal, and not before it has taken two seconds."""
    layers = model.videomamba.layers
    with tqdm(total=num_views * len(layers), unit="block", disable=None, delay=2, leave=False) as bar:

        def count(*_: object) -> None:
            bar.update()

        hooks = [layer.register_forward_hook(count) for layer in layers]
        try:
            yield bar
        finally:
            for hook in hooks:
                hook.remove()


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="+", help="paths or http(s) addresses of videos; folders are searched for videos")
    parser.add_argument("--model", default=str(DEMO_MODEL), help="directory or hub repository of a VideoMamba classifier")
    parser.add_argument(
        "--num-frames", "--frames", type=int, help="frames to sample (default: what the model was trained on), any number"
    )
    parser.add_argument("--num-clips", type=int, default=1, help="clips over the video whose scores are averaged")
    parser.add_argument("--num-crops", type=int, default=1, help="crops along the longer side whose scores are averaged")
    parser.add_argument("--picture", help=f"file to draw frames and labels into, of the first {MOST_ROWS} videos")
    parser.add_argument(
        "--bf16", action="store_true", help="half the precision, and faster where the processor has units for it"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    logging.disable_progress_bar()
    try:
        require_at_least_one(args, "num_frames", "num_clips", "num_crops")
        videos = list_videos(args.videos)
    except ValueError as error:
        parser.error(str(error))
    if args.picture:
        try:
            from ..inference.answer_picture import draw_answers, frame_strip, picture_suffixes

            check_picture(args.picture, picture_suffixes())
        except ImportError as error:
            parser.error(f"--picture: {error}. It comes with `pip install '.[train]'`.")
        except ValueError as error:
            parser.error(str(error))

    dtype = torch.bfloat16 if args.bf16 else torch.float32
    model = AutoModelForVideoClassification.from_pretrained(args.model, dtype=dtype).to(args.device).eval()
    processor = AutoVideoProcessor.from_pretrained(args.model)
    print(f"{args.model}: {model.num_parameters():,} parameters, {scan_report(args.device)}")

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
        is_regression = model.config.problem_type == "regression"
        [scores] = processor.post_process_video_classification(logits, num_views, model.config.problem_type)

        size = f"{metadata.total_num_frames} frames of {metadata.width} x {metadata.height}"
        decoded = f"{num_views} view(s) of {num_frames} frames, decoded by {metadata.video_backend}"
        best = scores.topk(min(5, len(scores)))
        answers = [
            f"{f'{score:8.3f}' if is_regression else f'{score:6.1%}'}  {model.config.id2label[label]}"
            for score, label in zip(best.values.tolist(), best.indices.tolist())
        ]
        tqdm.write("\n  ".join([f"\n{printable(video)}: {size}, {decoded}", *answers]))
        if args.picture and len(rows) < MOST_ROWS:
            clip = clips[args.num_crops // 2]  # the first one, its middle crop
            bars = [0.0] * len(answers) if is_regression else best.values.tolist()
            rows.append((printable(video), frame_strip(clip, processor.image_mean, processor.image_std), answers, bars))
    if rows:
        draw_answers(rows).savefig(args.picture, dpi=100)
    sys.exit(1 if unreadable else 0)
