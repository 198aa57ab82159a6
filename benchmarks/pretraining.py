"""What self-distillation and each of the five masks do to accuracy, at equal compute, on small real data, with three seeds.

    OMP_NUM_THREADS=1 python -m benchmarks.pretraining WORK_DIR

The data are handwritten digits before photographs, none of which is in two splits (examples/demos/render_digits.py). Images: a
student is trained from scratch and distilled from a smaller model; without a teacher it also gets as many more epochs as the
teacher's forward passes cost. Clips: a student is pretrained with each mask on all clips without their labels, and fine-tuned
on few labelled ones; without pretraining it also gets as many more epochs of fine-tuning as pretraining and its teacher cost.
What the teachers know, they have from the labels of 4,000 images, and their own training is not counted; data and CLIP are the
same for all seeds. Nothing is selected on the test images and clips, which give the accuracies. Every run is a command
of `videomamba`, two at a time; what is done is kept in WORK_DIR, and a benchmark that is started again goes on.
"""

import argparse
import contextlib
import json
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers.video_utils import VideoMetadata

from benchmarks.common import RESULTS, provenance
from modeling_videomamba import VideoMambaConfig
from modeling_videomamba.commands import distill as distill_command
from modeling_videomamba.commands import finetune as finetune_command
from modeling_videomamba.commands import pretrain_images, pretrain_masked
from modeling_videomamba.data import clips
from modeling_videomamba.data.masking import MASK_TYPES
from modeling_videomamba.data.settings import check_settings
from modeling_videomamba.flop_counter import count_flops
from modeling_videomamba.training.recipe import read_recipe
from modeling_videomamba.training.teachers import load_clip
from modeling_videomamba.video_decoding import decode_video


SEEDS = (0, 1, 2)
IMAGES, DISTILLATION, MASKED, FINETUNING = (
    read_recipe(f"digits-{stage}") for stage in ("images", "distillation", "masked", "finetuning")
)
SMALL, LARGE = IMAGES["model_config"], DISTILLATION["model_config"]
CLIP_STUDENT = SMALL | {"hidden_size": 64, "num_hidden_layers": 4, "num_frames": MASKED["num_frames"]}
WITHOUT_SELECTION = {  # of all runs
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}


@cache
def decode_once(video: str) -> tuple[torch.Tensor, VideoMetadata]:
    return decode_video(video, lambda metadata: range(metadata.total_num_frames))


def decode_in_memory(video: str, choose: Callable) -> tuple[torch.Tensor, VideoMetadata]:
    """As `decode_video`; the clips are few and small, and every epoch wants them again."""
    frames, metadata = decode_once(video)
    return frames[torch.as_tensor(choose(metadata))], metadata


def run(script, **options) -> None:
    """Runs a command of `videomamba` unless its results are there. What it prints goes into a file beside them."""
    clips.decode_video = decode_in_memory
    options |= WITHOUT_SELECTION
    output_dir = Path(options["output_dir"])
    if (output_dir / "README.md").exists():
        return
    torch.set_num_threads(1)
    output_dir.mkdir(parents=True, exist_ok=True)
    values = {name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in options.items()}
    with (output_dir / "output.txt").open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        script.main([part for name, value in values.items() for part in (f"--{name}", value)])


def accuracy(output_dir: Path) -> float:
    return json.loads((output_dir / "eval_results.json").read_text())["eval_accuracy"]


def run_images(work: Path, seed: int) -> dict[str, float]:
    data = {"data": work / "images", "seed": seed}
    out = work / "runs" / f"images-{seed}"
    scratch = {"script": pretrain_images, "recipe": "digits-images"} | data
    longer = IMAGES["num_train_epochs"] * (1 + flops(SMALL, None) / (3 * flops(LARGE, None)))
    run(**scratch, output_dir=out / "small")
    run(**scratch, model_config=LARGE, output_dir=out / "large")
    run(**scratch, model_config=LARGE, num_train_epochs=longer, output_dir=out / "longer")
    distilled = {"script": distill_command, "recipe": "digits-distillation", "teacher": out / "small"} | data
    run(**distilled, output_dir=out / "distilled")
    return {
        "the teacher, small": accuracy(out / "small"),
        "large, from scratch": accuracy(out / "large"),
        "large, from scratch, longer": accuracy(out / "longer"),
        "large, self-distilled": accuracy(out / "distilled"),
    }


def run_clips(work: Path, seed: int, mask_type: str | None) -> dict[str, float]:
    out = work / "runs" / f"clips-{seed}"
    finetuning = {"script": finetune_command, "recipe": "digits-finetuning", "data": work / "few_labels"}
    finetuning["seed"] = seed
    if mask_type is None:
        run(**finetuning, model_config=CLIP_STUDENT, output_dir=out / "scratch")
        longer = finetuning_epochs_worth_pretraining(work)
        run(**finetuning, model_config=CLIP_STUDENT, num_train_epochs=longer, output_dir=out / "longer")
        return {"no pretraining": accuracy(out / "scratch"), "no pretraining, longer": accuracy(out / "longer")}
    pretrained = out / f"{mask_type}-pretrained"
    masked = {"script": pretrain_masked, "recipe": "digits-masked", "data": work / "digits/clips", "seed": seed}
    teacher = {"teacher": work / "clip", "mask_type": mask_type}
    run(**masked, **teacher, model_config=CLIP_STUDENT, output_dir=pretrained)
    run(**finetuning, model=pretrained, output_dir=out / mask_type)
    return {f"mask: {mask_type}": accuracy(out / mask_type)}


def flops(config: dict, num_frames: int | None) -> int:
    """Multiply-adds of one forward pass; with the backward pass it is three times that."""
    return count_flops(VideoMambaConfig(**config | {"num_frames": num_frames}))


def finetuning_epochs_worth_pretraining(work: Path) -> float:
    """Epochs of fine-tuning that cost as much as pretraining, its teacher and fine-tuning together."""
    frames, size = CLIP_STUDENT["num_frames"], CLIP_STUDENT["image_size"]
    patches = (size // CLIP_STUDENT["patch_size"]) ** 2
    visible = 1 + frames * (patches - int(MASKED["mask_ratio"] * patches))
    student = flops(CLIP_STUDENT, frames)
    teacher = load_clip(str(work / "clip"))
    with FlopCounterMode(display=False) as counter:
        teacher(torch.zeros(frames, 3, size, size))
    clip_pretraining = 3 * student * visible / (1 + frames * patches) + counter.get_total_flops() / 2  # it counts both
    unlabelled, labelled = len(list((work / "digits/clips/train").rglob("*.mp4"))), 200
    pretraining = MASKED["num_train_epochs"] * unlabelled * clip_pretraining
    return FINETUNING["num_train_epochs"] + pretraining / (labelled * 3 * student)


def prepare(work: Path) -> None:
    """Renders the data and trains the CLIP teacher, and puts the test split where scripts look for the validation split."""
    from examples import train_small_clip
    from examples.demos import render_digits

    for script, arguments, result in (
        (render_digits, [work / "digits"], work / "digits/few_labels/test.csv"),
        (train_small_clip, [work / "digits/images", work / "clip", "--epochs", 15], work / "clip/config.json"),
    ):
        if not result.exists():
            sys.argv = [script.__name__, *map(str, arguments)]
            script.main()
    for folder, suffix in (("images", ""), ("few_labels", ".csv")):
        (work / folder).mkdir(exist_ok=True)
        for split, source in (("train", "train"), ("val", "test")):
            link = work / folder / f"{split}{suffix}"
            if not link.exists():
                link.symlink_to((work / "digits" / folder / f"{source}{suffix}").resolve())


def table(results: list[dict[str, float]]) -> str:
    """A row for each name; `results` are in the order of the seeds."""
    lines = ["| | seed 0 | seed 1 | seed 2 | mean | standard deviation |", "|---|---|---|---|---|---|"]
    for name in {name: None for result in results for name in result}:
        values = [100 * result[name] for result in results if name in result]
        each = " | ".join(f"{value:.1f}" for value in values)
        lines.append(f"| {name} | {each} | {statistics.mean(values):.1f} | {statistics.stdev(values):.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, metavar="WORK_DIR")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, of one thread each")
    args = parser.parse_args()
    measured_on = provenance()
    args.work.mkdir(parents=True, exist_ok=True)
    check_settings(args.work / "settings.json", {"measured on": measured_on})
    prepare(args.work)
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
        images = [pool.submit(run_images, args.work, seed) for seed in SEEDS]
        kinds = [(None, seed) for seed in SEEDS] + [(mask_type, seed) for mask_type in MASK_TYPES for seed in SEEDS]
        pretrained = [pool.submit(run_clips, args.work, seed, mask_type) for mask_type, seed in kinds]
        images, pretrained = ([future.result() for future in futures] for futures in (images, pretrained))

    longer = finetuning_epochs_worth_pretraining(args.work)
    image_epochs, pretraining_epochs, epochs = (recipe["num_train_epochs"] for recipe in (IMAGES, MASKED, FINETUNING))
    text = f"""{__doc__.splitlines()[0]}

{measured_on}

Top-1 in percent on 1,000 test images (10 classes) after {image_epochs} epochs of 4,000 training images;
"longer" with the compute of the teacher added:

{table(images)}

Top-1 in percent on 600 test clips (20 classes) after {epochs} epochs of fine-tuning on 200 labelled clips, and, before it,
{pretraining_epochs} epochs of pretraining on 1,200 clips without labels; "longer" is {longer:.0f} epochs, with the compute of
pretraining and of its teacher added. The teacher was trained on the labels of the 4,000 images, which the runs without
pretraining do not get to know, and its own training is not counted:

{table(pretrained)}
"""
    (RESULTS / "pretraining.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
