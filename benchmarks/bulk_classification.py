"""Videos a second of bulk inference, with one process of one thread and with two.

    python -m benchmarks.bulk_classification

`videomamba classify-many` is run as a person runs it, with a VideoMamba-Ti of random weights, on copies of a rendered clip of
10 seconds (340 x 256 pixels, H.264), of which it takes 8 frames of 224 pixels. The command's own figure counts from the first
video on; "with start-up" is the whole command, which loads libraries and model in every process. Medians of runs in turn.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import RESULTS, provenance
from benchmarks.data_loading import render
from modeling_videomamba import VideoMambaConfig, VideoMambaForVideoClassification
from modeling_videomamba.checkpoints.converter import save


def classify(model: Path, videos: Path, num_processes: int) -> tuple[float, float]:
    """Videos a second as the script counts them, and of the whole command."""
    count = len(list(videos.iterdir()))
    with tempfile.TemporaryDirectory() as output_dir:
        options = {"model": model, "videos": videos, "output_dir": output_dir, "num_processes": num_processes}
        command = [sys.executable, "-m", "modeling_videomamba", "classify-many"]
        start = time.perf_counter()
        process = subprocess.run(
            [*command, *(part for name, value in options.items() for part in (f"--{name}", str(value)))],
            env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        seconds = time.perf_counter() - start
    [own] = re.findall(r"([\d.]+) a second", process.stdout)
    return float(own), count / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS / "bulk_classification.md")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as directory:
        model, videos = Path(directory) / "model", Path(directory) / "videos"
        config = VideoMambaConfig.tiny(num_frames=8, image_size=224, num_labels=400)
        save(VideoMambaForVideoClassification(config), model, card="")
        videos.mkdir()
        render(videos / "0.mp4", seconds=10)
        classify(model, videos, 1)  # kernels are compiled
        for i in range(1, args.videos):
            shutil.copy(videos / "0.mp4", videos / f"{i}.mp4")
        runs = [(classify(model, videos, 1), classify(model, videos, 2)) for _ in range(args.repeats)]

    [own_1, all_1], [own_2, all_2] = ([statistics.median(rates) for rates in zip(*pairs)] for pairs in zip(*runs))
    lines = [
        "| processes | videos/s | with start-up, videos/s |",
        "|---|---|---|",
        f"| 1 | {own_1:.2f} | {all_1:.2f} |",
        f"| 2 | {own_2:.2f} | {all_2:.2f} |",
        f"| 2 / 1 | {own_2 / own_1:.2f} | {all_2 / all_1:.2f} |",
    ]
    print(*lines, sep="\n")
    header = f"{__doc__.splitlines()[0]}\n\n{provenance()}; {args.videos} videos, medians of {args.repeats}"
    args.output.write_text(f"{header}\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
