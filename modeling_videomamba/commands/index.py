"""Looks at the videos of a folder, so that sentences find them.

    videomamba index my_videos --model videomamba-m-mm --index my-index
    videomamba search "a dog runs" --index my-index

It looks at every video once, and stores a vector for each frame that it took. Started again, after it was killed or after the
folder has changed, it looks at new and changed videos only, and forgets those that are gone. What cannot be read is named, and
left alone until the file changes. A second run on the same index is refused while the first one lasts.

A model is the name of a released checkpoint, such as videomamba-m-mm, or a directory or hub repository with a
VideoMambaForVideoTextRetrieval, its video processor and its tokenizer.
"""

import argparse
import os
import time
from pathlib import Path

import torch
from transformers.utils import logging

from .. import scan_report
from ..checkpoints.by_name import locate_files
from ..data.checks import require_at_least_one
from ..data.interruption import say_when_interrupted
from ..data.media_files import printable, search_folder
from ..data.outputs import held
from ..inference.embedding_index import VideoIndex, fingerprint_of_directory, stamp
from ..inference.indexing import update_index
from ..inference.search import load_model
from .parser import DataclassParser


def main(argv: list[str] | None = None) -> None:
    parser = DataclassParser(description=__doc__, essential=("model", "index", "num_workers", "batch_size", "device"))
    parser.add_argument("videos", help="folder, whose folders are searched too")
    parser.add_argument("--model", required=True, help="directory, hub repository, or name of a released checkpoint")
    parser.add_argument("--index", required=True, help="directory of the index")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that decode; a GPU needs several")
    parser.add_argument("--batch-size", type=int, default=8 if torch.cuda.is_available() else 1, help="clips at once")
    parser.add_argument("--save-seconds", type=float, default=30.0, help="how much work is lost at most when it is killed")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where the model runs")
    args = parser.parse_args(argv)
    logging.disable_progress_bar()
    say_when_interrupted("; what was done is kept")
    require_at_least_one(args, "batch_size")
    folder = os.path.abspath(args.videos)
    found = {str(path.relative_to(folder)): stamp(path) for path in search_folder(Path(folder), "video")}
    directory = locate_files(args.model)
    name = os.path.abspath(args.model) if os.path.isdir(args.model) else args.model
    with held(args.index):
        index = VideoIndex.read_or_start(Path(args.index), folder, name, fingerprint_of_directory(Path(directory)))
        bring_up_to_date(index, found, directory, args)


def bring_up_to_date(index: VideoIndex, found: dict[str, dict], directory: str, args: argparse.Namespace) -> None:
    """Makes the index one of the files `found`, stamps by path in the folder, with the model in the directory."""
    gone, to_do = index.out_of_date(found)
    if to_do:
        model, processor = load_model(directory, args.device)
        print(f"{args.model}: {model.num_parameters():,} parameters, {scan_report(args.device)}")
    for name in gone:
        del index.videos[name]
        print(f"{printable(index.path_of(name))} is gone, and is no longer in the index")
    index.save()
    print(f"{printable(args.videos)}: {len(found)} videos, of which {len(found) - len(to_do)} are done")
    if to_do:
        start = time.perf_counter()
        stamps = {name: found[name] for name in to_do}
        update_index(index, stamps, model, processor, args.batch_size, args.num_workers, args.save_seconds)
        seconds = time.perf_counter() - start
        print(f"{len(to_do)} videos in {seconds:.1f} s, {len(to_do) / seconds:.2f} a second")
    index.check_whole()
    failed = sum("error" in video for video in index.videos.values())
    print(f"{failed} of {len(found)} cannot be read; the others are in {printable(args.index)}")
