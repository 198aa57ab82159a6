"""The card of a model that was trained here: what was trained, from what, on what, how, and what validation said."""

from pathlib import Path

import torch
import transformers
from huggingface_hub import ModelCardData

from .arguments import (
    AlignmentArguments,
    AugmentationArguments,
    BackboneArguments,
    DataArguments,
    DistillationArguments,
    MediaArguments,
    ModelArguments,
)
from .trainer import VideoMambaTrainer


METRIC_NAMES = {"accuracy": "top-1", "top5_accuracy": "top-5", "map": "mean average precision", "micro_f1": "micro F1"}
METRIC_NAMES |= {"mse": "mean squared error", "loss": "loss"}

USE = """```python
from transformers import pipeline

classify = pipeline("{media}-classification", model="{name}", trust_remote_code=True)
print(classify("{file}"))
```"""
USE_PRETRAINED = """```python
from transformers import AutoModelForVideoClassification

model = AutoModelForVideoClassification.from_pretrained("{name}", num_labels=10, trust_remote_code=True)  # to fine-tune
```"""


def write_classification_card(
    trainer: VideoMambaTrainer,
    model_args: ModelArguments,
    data_args: DataArguments,
    augmentation: AugmentationArguments,
    metrics: dict[str, float],
    distillation: DistillationArguments | None = None,
) -> None:
    """Writes README.md into the output directory. `metrics` are those of the last validation."""
    config = trainer.model.config
    media = "image" if config.num_frames is None else "video"
    task = "regressor" if config.problem_type == "regression" else "classifier"
    mixing = f"Mixup {augmentation.mixup}, CutMix {augmentation.cutmix}, label smoothing {augmentation.label_smoothing}"
    flip = "with" if augmentation.horizontal_flip else "no"
    rows = _training_rows(trainer, model_args, data_args) | {
        "copies": f"every {media} {augmentation.repeated_augmentation} time(s)",
        "augmentation": f"{augmentation.auto_augment}, crops from {augmentation.min_crop_area:.0%} of the area, "
        f"{flip} horizontal flips, random erasing {augmentation.random_erasing:g}",
        "labels": "values" if config.problem_type == "regression" else mixing,
    }
    if model_args.class_weights is not None:
        rows["class weights"] = model_args.class_weights
    if model_args.freeze_backbone:
        rows["trained"] = "the head alone"
    if distillation is not None:
        until = (
            f"for {distillation.distillation_epochs:g} epochs" if distillation.distillation_epochs is not None else "all along"
        )
        rows["self-distillation"] = f"its tokens were aligned with those of {without_place(distillation.teacher)}, {until}"
    results = {label: metrics[f"eval_{key}"] for key, label in METRIC_NAMES.items() if f"eval_{key}" in metrics}
    results = {label: f"{value:.1%}" if label.startswith("top") else f"{value:.4f}" for label, value in results.items()}
    sections = [
        f"A [VideoMamba](https://arxiv.org/abs/2403.06977) {media} {task}: {config.num_hidden_layers} blocks of width "
        f"{config.hidden_size}, {config.num_labels} label(s).",
        "## Use",
        USE.format(media=media, name=_name(trainer), file="video.mp4" if media == "video" else "image.jpg"),
        "## Training",
        _table(rows),
        "## Validation",
        f"One view of each {media}.",
        _table(results),
    ]
    _write(trainer, sections, f"{media}-classification", media)


def write_pretraining_card(
    trainer: VideoMambaTrainer,
    model_args: BackboneArguments,
    data_args: MediaArguments,
    alignment: AlignmentArguments,
    metrics: dict[str, float],
) -> None:
    """Writes README.md into the output directory. `metrics` are those of the last validation, if there was one."""
    config = trainer.model.config
    rows = _training_rows(trainer, model_args, data_args) | {
        "teacher": f"{without_place(alignment.teacher)}, {alignment.teacher_normalization} statistics",
        "mask": f"{alignment.mask_type}, {alignment.mask_ratio:.0%}",
        "aligned": f"{config.num_aligned_layers} layer(s) every {config.aligned_layer_interval:g}, {config.alignment_tap}, "
        f"{config.alignment_loss}",
        "augmentation": f"multi-scale crops, {'with' if alignment.horizontal_flip else 'no'} horizontal flips",
    }
    sections = [
        f"A [VideoMamba](https://arxiv.org/abs/2403.06977) without a head: {config.num_hidden_layers} blocks of width "
        f"{config.hidden_size}, whose visible tokens were aligned with those of a CLIP teacher.",
        "## Use",
        USE_PRETRAINED.format(name=_name(trainer)),
        "## Training",
        _table(rows),
    ]
    if metrics:
        sections += ["## Validation", f"The loss, with masks that stay the same: {metrics['eval_loss']:.4f}."]
    _write(trainer, sections, "feature-extraction", "video")


def without_place(name: str) -> str:
    """The last part of the path of a local file or folder: its place says nothing to others. Names on the hub stay."""
    path = Path(name)
    return path.resolve().name if path.is_absolute() or path.exists() else name


def _name(trainer: VideoMambaTrainer) -> str:
    return trainer.args.hub_model_id or Path(trainer.args.output_dir).name


def _training_rows(trainer: VideoMambaTrainer, model_args: BackboneArguments, data_args: MediaArguments) -> dict[str, str]:
    args, config = trainer.args, trainer.model.config
    media = "images" if config.num_frames is None else "videos"
    num_validation = len(trainer.eval_dataset) if trainer.eval_dataset else 0
    peak, start, end = trainer.learning_rates
    clip = f"{config.num_frames} frames of {config.image_size} pixels, sampled over the whole video or window"
    return {
        "started from": without_place(model_args.model) if model_args.model else "random weights",
        "data": f"{without_place(data_args.data)}: {len(trainer.train_dataset):,} {media} to train on, "
        f"{num_validation:,} to validate on",
        "input": clip if config.num_frames else f"{config.image_size} pixels",
        "epochs": f"{args.num_train_epochs:g}, of them {args.warmup_epochs:g} to warm up",
        "clips a step": f"{trainer.clips_per_step}",
        "learning rate": f"{start:.3g} to {peak:.3g}, by a cosine to {end:.3g} ({args.lr_schedule}); "
        f"layer decay {args.layer_decay:g} ({args.layer_decay_mode})",
        "optimizer": f"{args.optim.value}, betas {args.adam_beta1:g} and {args.adam_beta2:g}, "
        f"weight decay {args.weight_decay:g}",
        "drop path": f"{config.drop_path_rate:g}",
        "precision": "bf16 autocast" if args.bf16 else "fp32",
        "seed": f"{args.seed}",
        "versions": f"PyTorch {torch.__version__}, transformers {transformers.__version__}",
    }


def _table(rows: dict[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _write(trainer: VideoMambaTrainer, sections: list[str], pipeline_tag: str, tag: str) -> None:
    if trainer.is_world_process_zero():
        metadata = ModelCardData(library_name="transformers", pipeline_tag=pipeline_tag, tags=[tag, "videomamba"])
        text = "\n\n".join([f"---\n{metadata}\n---", f"# {_name(trainer)}", *sections]) + "\n"
        (Path(trainer.args.output_dir) / "README.md").write_text(text, encoding="utf-8")
