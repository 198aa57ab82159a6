"""Classifies thousands of videos, with several processes or machines, and goes on where it was killed.

    videomamba classify-many --model my-model --videos my_videos --output-dir answers --num-processes 2
    torchrun --nproc_per_node 8 -m modeling_videomamba classify-many --model my-model --videos list.csv ...

The videos are those of a folder, at whatever depth, or of a list with a path or http(s) address in each line. The result is
predictions.csv: the videos in their order, each once, with its five likeliest labels and their scores, the mean over
`num_clips` times `num_crops` views; of a regressor, or where labels do not exclude each other, with the score of every label.
What cannot be read has the reason in the column `error`.

Texts in the table are for people and spreadsheets: control characters and what is not UTF-8 in a file name are escaped, and
a text that a spreadsheet would take for a formula, which begins with =, +, - or @, has an apostrophe before it. Scores are
numbers. The names as they are, with the same answers, are in the files part-0.jsonl and so on.

Every video is written down as soon as it is classified. Started again, on however many processes, the run leaves out what is
done, and tries again what could not be read; the folder or list may have grown. The processes share the videos out before the
first and wait for each other after the last; in between they know nothing of each other. A second run on the same directory
is refused while the first one lasts.
"""

import os
from logging import getLogger

import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ..data.interruption import say_when_interrupted
from ..inference.bulk_classification import BulkArguments, classify_share
from .command_line import run_command
from .parser import DataclassParser


ESSENTIAL = (
    *("model", "videos"),
    *("output_dir", "num_processes", "num_workers", "num_frames", "num_clips", "num_crops", "bf16"),
)


def main(argv: list[str] | None = None) -> None:
    parser = DataclassParser(BulkArguments, __doc__, ESSENTIAL)
    [args] = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    say_when_interrupted(": the same command goes on from here")
    if args.num_processes == 1:
        classify_share(args)
        return
    if torch.distributed.is_torchelastic_launched():
        parser.error("a launcher such as torchrun has started the processes already: leave out --num_processes")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=args.num_processes,
        max_restarts=0,
        run_id="bulk",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # any free port
    )
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        getLogger(name).setLevel("CRITICAL")  # processes say what is wrong themselves
    elastic_launch(config, run_command)(classify_share, args)
