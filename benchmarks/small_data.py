"""What fine-tuning on a small folder of one's own reaches: the command's defaults, and those of the paper's recipes.

    pip install ".[demo]" && OMP_NUM_THREADS=1 python -m benchmarks.small_data WORK_DIR

Eight movements of a camera are to be told apart (examples/demos/render_demo_clips.py) from 10, 20 and 40 clips each. Training
starts from a small model that never saw them: it was pretrained on movements of two kinds at once, 24 of them, of the same
camera. Each run is a call of `videomamba finetune` that says model, data and seed, and for the paper `--recipe
base/finetuning`, which holds what all its recipes share. The test clips are of photographs that nothing was trained on. What
is done is kept in WORK_DIR, and a benchmark that is started again goes on.
"""

import argparse
import contextlib
import json
from collections.abc import Callable
from itertools import combinations, product
from pathlib import Path

import numpy as np

from benchmarks.common import RESULTS, provenance
from examples.demos.render_demo_clips import (
    CLASSES,
    NARROWEST,
    NUM_FRAMES,
    PHOTOGRAPHS,
    WIDEST_RANGE,
    cut,
    draw_path,
    load,
    vary,
)
from examples.demos.render_demo_clips import render as render_frames
from examples.demos.render_demo_clips import write as write_clip
from modeling_videomamba.commands import evaluate as evaluate_command
from modeling_videomamba.commands import finetune as finetune_command


SIZES = (10, 20, 40)  # clips of a class
DEFAULTS = {"the script's": [], "the paper's": ["--recipe", "base/finetuning"]}
SEED = 0
PRETRAINING_CLIPS, PRETRAINING_EPOCHS, TEST_CLIPS = 40, 10, 40  # clips of a class
HEIGHT = 48  # of a clip in pixels; the model sees 32


def draw_two(first: str, second: str, random: np.random.Generator) -> np.ndarray:
    """As [`draw_path`], of a camera that does two movements at once."""
    path = draw_path(first, random)
    axis, direction = CLASSES[second]
    ramp = np.linspace(-0.5, 0.5, NUM_FRAMES)
    path[:, axis] = direction * ramp * WIDEST_RANGE[axis] * random.uniform(NARROWEST, 1)
    return path


def render(folder: Path, paths: dict[str, Callable], count: int, split: str, part: int) -> Path:
    """A folder of classes, `count` clips each of the photographs of a split; `part` keeps clips of one split apart."""
    photographs = {name: load(name) for name in PHOTOGRAPHS[split]}
    for index, (label, draw) in enumerate(paths.items()):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            file = folder / label / f"{number:03}.mp4"
            if file.exists():
                continue
            random = np.random.default_rng([part, index, number])
            picture = cut(photographs[PHOTOGRAPHS[split][number % len(photographs)]], random)
            picture = vary(picture, random) if split == "train" else picture
            frames = render_frames(draw(random), picture, HEIGHT, random)
            write_clip(frames, file.with_suffix(".tmp.mp4"))
            file.with_suffix(".tmp.mp4").rename(file)
    return folder


def call(main: Callable, log: Path, *options: object) -> None:
    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        main([*map(str, options)])


def accuracy(work: Path, start: Path, data: Path, test: Path, options: list[str]) -> float:
    """Of the test clips, after a run on `data`."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "results/results.json").exists():
        same = ["--dataloader_num_workers", 0, "--report_to", "none", "--save_total_limit", 1]  # as fast as it gets here
        model = ["--model", start, "--data", data, "--output_dir", work / "model", "--seed", SEED]
        call(finetune_command.main, work / "log.txt", *model, *options, *same)
        evaluation = ["--model", work / "model", "--data", test, "--output_dir", work / "results", "--num_workers", 0]
        call(evaluate_command.main, work / "log.txt", *evaluation)
    return json.loads((work / "results/results.json").read_text())["accuracy"]


def table(accuracies: dict[tuple[str, int], float]) -> str:
    lines = [f"| clips of a class | {' | '.join(f'{name} defaults' for name in DEFAULTS)} |", "|---|---|---|"]
    for size in SIZES:
        lines.append(f"| {size} | {' | '.join(f'{100 * accuracies[name, size]:.1f}' for name in DEFAULTS)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, metavar="WORK_DIR")
    work = parser.parse_args().work

    one = {label: lambda random, label=label: draw_path(label, random) for label in CLASSES}
    two = {}
    for first, second in combinations(CLASSES, 2):
        if CLASSES[first][0] != CLASSES[second][0]:
            two[f"{first}_{second}"] = lambda random, pair=(first, second): draw_two(*pair, random)
    test = render(work / "test", one, TEST_CLIPS, "test", part=0)
    start = work / "start"
    if not (start / "model.safetensors").exists():
        pretraining = render(work / "pretraining", two, PRETRAINING_CLIPS, "train", part=1)
        options = ["--recipe", "demo", "--num_train_epochs", PRETRAINING_EPOCHS, "--data", pretraining, "--output_dir", start]
        call(finetune_command.main, work / "log.txt", *options, "--dataloader_num_workers", 0)

    accuracies = {}
    for size, name in product(SIZES, DEFAULTS):
        data = render(work / f"{size}_clips", one, size, "train", part=2)
        run = work / f"{size}_clips_{'paper' if DEFAULTS[name] else 'script'}_{SEED}"
        accuracies[name, size] = accuracy(run, start, data, test, DEFAULTS[name])
        print(f"{size} clips of a class, {name} defaults: {accuracies[name, size]:.1%}", flush=True)
    text = (
        f"Top-1 in percent on {TEST_CLIPS * len(CLASSES)} test clips of {len(CLASSES)} classes, one run each, "
        f"chance is {100 / len(CLASSES):.1f}:"
    )
    (RESULTS / "small_data.md").write_text(f"{provenance()}\n\n{text}\n\n{table(accuracies)}\n")


if __name__ == "__main__":
    main()
