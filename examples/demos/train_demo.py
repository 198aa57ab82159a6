"""Makes videomamba-demo again: renders the clips, trains, and evaluates what the model does and does not know.

    OMP_NUM_THREADS=1 python -m examples.demos.train_demo demo  # for a model this small one thread is the fastest

It runs what a person would run: `render_demo_clips`, `videomamba finetune --recipe demo`, and `videomamba evaluate` on clips
of photographs that were not trained on: as they are; with their frames in disorder; and with a second model, the same but for
seeing one frame at a time, whose scores for eight frames are averaged.
"""

import csv
import json
import os
import shutil
from pathlib import Path

import yaml

from examples.demos.demo import copy_settings, count_parameters, run
from modeling_videomamba.commands.command_line import run_command
from modeling_videomamba.commands.parser import DataclassParser
from modeling_videomamba.training.recipe import RECIPES


RECIPE = RECIPES / "demo.yaml"
ONE_FRAME = {"num_frames": 1, "tubelet_size": 1}

CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: video-classification
tags:
- video
- videomamba
---

# VideoMamba demo

A [VideoMamba](https://arxiv.org/abs/2403.06977) of {parameters:,} parameters that names the movement of a camera before a
picture on a wall: left, right, up, down, in, out, or a turn that makes the picture turn left or right. The clips it was
trained on move along all axes at once, and only along one of them from one end to the other, so the answer is in the ORDER of
the frames. It is here to be run, tested and fine-tuned in seconds, not to be useful: expect nothing of it on other videos.

```python
import modeling_videomamba
from transformers import pipeline

classify = pipeline("video-classification", model="videomamba-demo")
print(classify("examples/demo_clips/zoom_in.mp4"))
```

## Accuracy

{clips:,} clips of 5 photographs of which none was trained or selected on; chance is {chance:.1%}.

| | top-1 |
|---|---|
| this model | {ordered:.1%} |
| this model, frames of every clip in disorder | {shuffled:.1%} |
| the same architecture on single frames, scores of 8 frames averaged | {one_frame:.1%} |

{margin:.1f} percentage points lie between this model and the one that does not know the order.

## Training

`examples/demos/train_demo.py` renders {training_clips:,} clips of 9 photographs from scikit-image and scikit-learn, and trains
with `recipe.yaml`; the best of its epochs was chosen on clips of 3 others. Rendering took {rendering:.0f} minutes, training
{training:.0f}, on {cores} CPU cores. `training_log.csv` has the curves.

The photographs themselves are not in this directory. They come with scikit-image (its documentation names their sources and
licences) and with scikit-learn (china by danielbuechele and flower by vultilion, both CC BY 2.0).
"""


def evaluate(model: Path, clips: Path, output_dir: Path, *args: object) -> dict:
    run("modeling_videomamba", "evaluate", "--model", model, "--data", clips, "--output_dir", output_dir, *args)
    return json.loads((output_dir / "results.json").read_text())


def write_log(state: Path, log: Path) -> None:
    """The Trainer's history as a table."""
    entries = json.loads(state.read_text())["log_history"]
    names = ["step", "epoch", "learning_rate", "loss", "grad_norm", "eval_loss", "eval_accuracy"]
    with log.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(entry for entry in entries if "loss" in entry or "eval_loss" in entry)


def main() -> None:
    parser = DataclassParser(description=__doc__)
    parser.add_argument("output", type=Path, metavar="OUTPUT_DIR")
    parser.add_argument("--clips-per-class", type=int, default=500)
    parser.add_argument("--epochs", type=float, help="other than the recipe's")
    args = parser.parse_args()
    output, clips = args.output, args.output / "clips"
    epochs = ["--num_train_epochs", args.epochs, "--warmup_epochs", args.epochs / 10] if args.epochs else []

    rendering = run("examples.demos.render_demo_clips", clips, "--clips-per-class", args.clips_per_class)
    train = ["modeling_videomamba", "finetune", "--recipe", RECIPE, "--data", clips, *epochs]
    training = run(*train, "--output_dir", output / "training")
    one_frame_config = yaml.safe_load(RECIPE.read_text())["model_config"] | ONE_FRAME
    run(*train, "--output_dir", output / "one_frame", "--model_config", json.dumps(one_frame_config))

    ordered = evaluate(output / "training", clips, output / "results/ordered")
    shuffled = evaluate(output / "training", clips, output / "results/shuffled", "--shuffle_frames")
    one_frame = evaluate(output / "one_frame", clips, output / "results/one_frame", "--num_clips", 8)

    demo = output / "videomamba-demo"
    demo.mkdir(exist_ok=True)
    shutil.copy(output / "training/model.safetensors", demo)
    copy_settings(output / "training", demo, "config.json", "video_preprocessor_config.json")
    shutil.copy(RECIPE, demo / "recipe.yaml")
    shutil.copy(output / "results/ordered/confusion_matrix.png", demo)
    write_log(output / "training/trainer_state.json", demo / "training_log.csv")
    accuracies = {
        "ordered": ordered["accuracy"],
        "shuffled": shuffled["accuracy"],
        "one_frame": one_frame["accuracy"],
        "chance": 1 / ordered["num_labels"],
    }
    (demo / "results.json").write_text(json.dumps(accuracies | {"clips": ordered["num_videos"]}, indent=2) + "\n")
    card = CARD.format(
        **accuracies,
        parameters=count_parameters(demo),
        clips=ordered["num_videos"],
        margin=100 * (ordered["accuracy"] - one_frame["accuracy"]),
        training_clips=args.clips_per_class * ordered["num_labels"],
        rendering=rendering,
        training=training,
        cores=len(os.sched_getaffinity(0)),
    )
    (demo / "README.md").write_text(card)
    print(card.split("## Accuracy")[1].split("## Training")[0])


if __name__ == "__main__":
    run_command(main)
