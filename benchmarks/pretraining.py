"""What self-distillation and each of the five masks do to accuracy, at equal compute, on small real data, with three seeds.

    OMP_NUM_THREADS=1 python benchmarks/pretraining.py WORK_DIR

The data are handwritten digits before photographs, none of which is in two splits (examples/render_digits.py). Images: a
student is trained from scratch and distilled from a smaller model; without a teacher it also gets as many more epochs as the
teacher's forward passes cost. Clips: a student is pretrained with each mask on all clips without their labels, and fine-tuned
on few labelled ones; without pretraining it also gets as many more epochs of fine-tuning as pretraining and its teacher cost.
Nothing is selected on the test images and clips, which give the accuracies. Every run is a call of the scripts in examples/,
two at a time; what is done is kept in WORK_DIR, and a benchmark that is started again goes on.
"""

import argparse
import contextlib
import json
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from a clone, installed or not

from benchmarks.common import RESULTS, provenance
from examples import finetune_video_classification, masked_pretraining, pretrain_image_classification, self_distillation
from examples.common.masking import MASK_TYPES
from examples.common.teachers import ClipImageTower
from modeling_videomamba import VideoMambaConfig
from modeling_videomamba.flop_counter import count_flops


SEEDS = (0, 1, 2)
MASK_RATIO = 0.8
SIZES = {"image_size": 32, "patch_size": 8, "state_size": 4, "initializer_range": 0.1}
SMALL = {"hidden_size": 48, "num_hidden_layers": 3, **SIZES}
LARGE = {"hidden_size": 96, "num_hidden_layers": 6, **SIZES}
CLIP_STUDENT = {"hidden_size": 64, "num_hidden_layers": 4, "num_frames": 4, **SIZES}
IMAGE_EPOCHS, PRETRAINING_EPOCHS, FINETUNING_EPOCHS = 5, 6, 20

QUICK = {  # of all runs
    "lr_reference": 0,
    "learning_rate": 2e-3,
    "min_learning_rate": 1e-5,
    "warmup_epochs": 1,
    "max_grad_norm": 1,
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "dataloader_num_workers": 0,
    "report_to": "none",
    "logging_steps": 1000,
    "disable_tqdm": True,
    "use_cpu": True,
}
PLAIN = {  # of all runs with labels
    "auto_augment": "none",
    "min_crop_area": 0.8,
    "horizontal_flip": False,
    "random_erasing": 0,
    "repeated_augmentation": 1,
    "mixup": 0,
    "cutmix": 0,
    "layer_decay": 1,
}
IMAGES = QUICK | PLAIN | {"lr_schedule": "step", "per_device_train_batch_size": 64}
MASKED = QUICK | {"per_device_train_batch_size": 32, "horizontal_flip": False, "frame_sampling": "segments"}
FINETUNING = QUICK | PLAIN | {"per_device_train_batch_size": 16}


def run(script, **options) -> None:
    """Calls a script of examples/ unless its results are there. What it prints goes into a file beside them."""
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
    longer = IMAGE_EPOCHS * (1 + flops(SMALL, None) / (3 * flops(LARGE, None)))
    scratch = {"script": pretrain_image_classification, "model_config": LARGE} | data | IMAGES
    run(**scratch | {"model_config": SMALL}, num_train_epochs=IMAGE_EPOCHS, output_dir=out / "small")
    run(**scratch, num_train_epochs=IMAGE_EPOCHS, output_dir=out / "large")
    run(**scratch, num_train_epochs=longer, output_dir=out / "longer")
    distilled = scratch | {"script": self_distillation, "teacher": out / "small"}
    run(**distilled, num_train_epochs=IMAGE_EPOCHS, output_dir=out / "distilled")
    return {
        "the teacher, small": accuracy(out / "small"),
        "large, from scratch": accuracy(out / "large"),
        "large, from scratch, longer": accuracy(out / "longer"),
        "large, self-distilled": accuracy(out / "distilled"),
    }


def run_clips(work: Path, seed: int, mask_type: str | None) -> dict[str, float]:
    out = work / "runs" / f"clips-{seed}"
    finetuning = {"script": finetune_video_classification, "data": work / "few_labels", "seed": seed} | FINETUNING
    if mask_type is None:
        longer = finetuning_epochs_worth_pretraining(work)
        scratch = finetuning | {"model_config": CLIP_STUDENT}
        run(**scratch, num_train_epochs=FINETUNING_EPOCHS, output_dir=out / "scratch")
        run(**scratch, num_train_epochs=longer, output_dir=out / "longer")
        return {"no pretraining": accuracy(out / "scratch"), "no pretraining, longer": accuracy(out / "longer")}
    run(
        masked_pretraining,
        **{"data": work / "digits/clips", "teacher": work / "clip", "model_config": CLIP_STUDENT, "seed": seed},
        **MASKED,
        mask_type=mask_type,
        mask_ratio=MASK_RATIO,
        num_train_epochs=PRETRAINING_EPOCHS,
        output_dir=out / f"{mask_type}-pretrained",
    )
    finetuning["model"] = out / f"{mask_type}-pretrained"
    run(**finetuning, num_train_epochs=FINETUNING_EPOCHS, output_dir=out / mask_type)
    return {f"mask: {mask_type}": accuracy(out / mask_type)}


def flops(config: dict, num_frames: int | None) -> int:
    """Multiply-adds of one forward pass; with the backward pass it is three times that."""
    return count_flops(VideoMambaConfig(**config | {"num_frames": num_frames}))


def finetuning_epochs_worth_pretraining(work: Path) -> float:
    """Epochs of fine-tuning that cost as much as pretraining, its teacher and fine-tuning together."""
    frames, patches = CLIP_STUDENT["num_frames"], (SIZES["image_size"] // SIZES["patch_size"]) ** 2
    visible = 1 + frames * (patches - int(MASK_RATIO * patches))
    student = flops(CLIP_STUDENT, frames)
    teacher = ClipImageTower.from_pretrained(work / "clip")
    with FlopCounterMode(display=False) as counter:
        teacher(torch.zeros(frames, 3, SIZES["image_size"], SIZES["image_size"]))
    clip_pretraining = 3 * student * visible / (1 + frames * patches) + counter.get_total_flops() / 2  # it counts both
    unlabelled, labelled = len(list((work / "digits/clips/train").rglob("*.mp4"))), 200
    return FINETUNING_EPOCHS + PRETRAINING_EPOCHS * unlabelled * clip_pretraining / (labelled * 3 * student)


def prepare(work: Path) -> None:
    """Renders the data and trains the CLIP teacher, and puts the test split where scripts look for the validation split."""
    from examples import render_digits, train_small_clip

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
    prepare(args.work)
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
        images = [pool.submit(run_images, args.work, seed) for seed in SEEDS]
        kinds = [(None, seed) for seed in SEEDS] + [(mask_type, seed) for mask_type in MASK_TYPES for seed in SEEDS]
        clips = [pool.submit(run_clips, args.work, seed, mask_type) for mask_type, seed in kinds]
        images, clips = ([future.result() for future in futures] for futures in (images, clips))

    longer = finetuning_epochs_worth_pretraining(args.work)
    text = f"""Top-1 in percent on 1,000 test images (10 classes) after {IMAGE_EPOCHS} epochs of 4,000 training images;
"longer" with the compute of the teacher added:

{table(images)}

Top-1 in percent on 600 test clips (20 classes) after {FINETUNING_EPOCHS} epochs of fine-tuning on 200 labelled clips, and,
before it, {PRETRAINING_EPOCHS} epochs of pretraining on 1,200 clips without labels; "longer" is {longer:.0f} epochs, with the
compute of pretraining and its teacher added:

{table(clips)}

{measured_on}
"""
    (RESULTS / "pretraining.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
