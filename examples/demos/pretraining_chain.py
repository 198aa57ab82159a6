"""Goes through all stages of training a VideoMamba, each from the result of the one before, on small data.

    OMP_NUM_THREADS=1 python -m examples.demos.pretraining_chain chain  # for models this small one thread is the fastest

renders handwritten digits before photographs (render_digits.py), trains a small CLIP on them, as no other is at hand
(train_small_clip.py), and then runs the commands that a person would run:

    videomamba pretrain-images   a small image model
    videomamba distill           a larger one, which the small one teaches
    videomamba pretrain-masked   a video model that starts from it and learns from CLIP, on clips without labels
    videomamba finetune          a classifier of clips that starts from that, with few labels
    videomamba evaluate          on clips of digits and photographs that nothing was trained or selected on

The loss curves of the four trainings are drawn into chain/loss_curves.png.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from matplotlib.figure import Figure

from modeling_videomamba.commands.command_line import run_command


STAGES = {
    "images": "cross-entropy",
    "distilled": "cross-entropy + distance",
    "pretrained": "distance",
    "finetuned": "cross-entropy",
}


def run(module: str, *args: object) -> None:
    """Runs a module, as `python -m` does, once more from its last checkpoint if it was interrupted."""
    print(f"\npython -m {module} {' '.join(map(str, args))}", flush=True)
    subprocess.run([sys.executable, "-m", module, *map(str, args)], check=True)


def draw_loss_curves(output: Path) -> None:
    figure = Figure(figsize=(4 * len(STAGES), 3), layout="constrained")
    for axis, (stage, loss) in zip(figure.subplots(1, len(STAGES)), STAGES.items()):
        history = json.loads((output / stage / "trainer_state.json").read_text())["log_history"]
        for name, label in (("loss", "training"), ("eval_loss", "validation")):
            points = [(entry["epoch"], entry[name]) for entry in history if name in entry]
            axis.plot(*zip(*points), label=label)
        axis.set(title=stage, xlabel="epoch", ylabel=loss)
        axis.legend()
    figure.savefig(output / "loss_curves.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUTPUT_DIR")
    parser.add_argument("--part", type=float, default=1.0, help="of the data, to try something quickly")
    parser.add_argument("--teacher", help="a CLIP, instead of one that is trained here: a directory or a hub repository")
    args, options = parser.parse_known_args()  # what it does not know is for all four training scripts
    output, digits = args.output, args.output / "digits"

    if not (digits / "few_labels/test.csv").exists():
        run("examples.demos.render_digits", digits, "--part", args.part)
    teacher = args.teacher or output / "clip"
    if args.teacher is None and not teacher.exists():
        run("examples.train_small_clip", digits / "images", teacher)

    images, distilled, pretrained, finetuned = (output / stage for stage in STAGES)
    image_data = ["--data", digits / "images"]
    pretraining = ["--recipe", "digits-images", *image_data]
    run("modeling_videomamba", "pretrain-images", *pretraining, "--output_dir", images, *options)
    distillation = ["--recipe", "digits-distillation", "--teacher", images, *image_data]
    run("modeling_videomamba", "distill", *distillation, "--output_dir", distilled, *options)
    alignment = ["--recipe", "digits-masked", "--model", distilled, "--teacher", teacher, "--data", digits / "clips"]
    run("modeling_videomamba", "pretrain-masked", *alignment, "--output_dir", pretrained, *options)
    finetuning = ["--recipe", "digits-finetuning", "--model", pretrained, "--data", digits / "few_labels"]
    run("modeling_videomamba", "finetune", *finetuning, "--output_dir", finetuned, *options)
    draw_loss_curves(output)
    evaluation = ["--model", finetuned, "--data", digits / "few_labels"]
    run("modeling_videomamba", "evaluate", *evaluation, "--output_dir", output / "results")


if __name__ == "__main__":
    run_command(main)
