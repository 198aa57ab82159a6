"""The model card of a fine-tuned classifier: what was trained, from what, on what, how, and what validation said."""

from pathlib import Path

import torch
import transformers
from huggingface_hub import ModelCardData

from modeling_videomamba import VideoMambaConfig

from .arguments import AugmentationArguments, DataArguments, FinetuningArguments, ModelArguments


METRIC_NAMES = {"accuracy": "top-1", "top5_accuracy": "top-5", "mse": "mean squared error", "loss": "loss"}

USE = """```python
from transformers import pipeline

classify = pipeline("video-classification", model="NAME", trust_remote_code=True)
print(classify("video.mp4"))
```"""


def finetuning_card(
    config: VideoMambaConfig,
    model_args: ModelArguments,
    data_args: DataArguments,
    augmentation: AugmentationArguments,
    args: FinetuningArguments,
    clips_per_step: int,
    num_videos: tuple[int, int],
    metrics: dict[str, float],
) -> str:
    """The text of README.md.

    Args:
        clips_per_step: what the learning rates were scaled with.
        num_videos: of training and of validation.
        metrics: of the last validation, named `eval_accuracy` and so on.
    """
    name = args.hub_model_id or Path(args.output_dir).name
    task = "regressor" if config.problem_type == "regression" else "classifier"
    scaled = clips_per_step / args.lr_reference if args.lr_reference else 1
    mixing = f"Mixup {augmentation.mixup}, CutMix {augmentation.cutmix}, label smoothing {augmentation.label_smoothing}"
    flip = "with" if augmentation.horizontal_flip else "no"
    training = {
        "started from": model_args.model or "random weights",
        "data": f"{data_args.data}: {num_videos[0]:,} videos to train on, {num_videos[1]:,} to validate on",
        "clip": f"{config.num_frames} frames of {config.image_size} pixels, sampled over the whole video or window",
        "epochs": f"{args.num_train_epochs:g}, of them {args.warmup_epochs:g} to warm up",
        "clips a step": f"{clips_per_step}, every video {augmentation.repeated_augmentation} time(s)",
        "learning rate": f"{args.warmup_learning_rate * scaled:.3g} to {args.learning_rate * scaled:.3g}, by a cosine to "
        f"{args.min_learning_rate * scaled:.3g}; layer decay {args.layer_decay:g} ({args.layer_decay_mode})",
        "optimizer": f"{args.optim.value}, betas {args.adam_beta1:g} and {args.adam_beta2:g}, "
        f"weight decay {args.weight_decay:g}",
        "drop path": f"{config.drop_path_rate:g}",
        "augmentation": f"RandAugment {augmentation.rand_augment}, crops from {augmentation.min_crop_area:.0%} of the area, "
        f"{flip} horizontal flips, random erasing {augmentation.random_erasing:g}",
        "labels": "values" if config.problem_type == "regression" else mixing,
        "precision": "bf16 autocast" if args.bf16 else "fp32",
        "seed": f"{args.seed}",
        "versions": f"PyTorch {torch.__version__}, transformers {transformers.__version__}",
    }
    results = {label: metrics[f"eval_{key}"] for key, label in METRIC_NAMES.items() if f"eval_{key}" in metrics}
    metadata = ModelCardData(library_name="transformers", pipeline_tag="video-classification", tags=["video", "videomamba"])
    sections = [
        f"# {name}",
        f"A [VideoMamba](https://arxiv.org/abs/2403.06977) video {task}: {config.num_hidden_layers} blocks of width "
        f"{config.hidden_size}, {config.num_labels} label(s).",
        "## Use",
        USE.replace("NAME", name),
        "## Training",
        _table(training),
        "## Validation",
        "One view of each video.",
        _table({label: f"{value:.1%}" if label.startswith("top") else f"{value:.4f}" for label, value in results.items()}),
    ]
    return f"---\n{metadata}\n---\n\n" + "\n\n".join(sections) + "\n"


def _table(rows: dict[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
