"""What training can be told, on the command line or in a recipe: a YAML file of the same names.

Defaults are what a small data set on one machine needs. The paper's values are in the recipes: `--recipe NAME` reads
`recipes/NAME.yaml`, which may start from another one, its `base`. What recipes of one kind share is in `recipes/base`. All
else that the command line says wins over a recipe.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from transformers import TrainingArguments

from ..data.checks import require_at_least_one, require_range
from ..data.masking import MaskType
from ..data.media_files import Media
from .parameter_groups import LayerDecayMode


def _option(default, help: str):
    return field(default=default, metadata={"help": help})


@dataclass
class BackboneArguments:
    model: str | None = _option(
        None,
        "what to start from: a directory, an id such as videomamba-m-k400-f16 (the converter lists them), a hub repository",
    )
    model_config: str | None = _option(
        None,
        "without --model, to start from scratch: a size (tiny, small, middle, base), or fields of a VideoMambaConfig as JSON",
    )
    num_frames: int | None = _option(None, "frames of a clip, if other than the model's")
    image_size: int | None = _option(None, "height and width in pixels, if other than the model's")
    drop_path_rate: float | None = _option(None, "stochastic depth of the last block")


@dataclass
class ModelArguments(BackboneArguments):
    num_labels: int | None = _option(None, "size of the head, if the data does not name its labels")
    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"] = _option(
        "single_label_classification",
        "multi_label_classification: any number of labels a video, in a list `path,cat;dog`, in a data set a column of lists. "
        "regression: labels are values, the loss is their mean squared error",
    )
    class_weights: str | None = _option(
        None,
        "what the loss of a class counts. balanced: as much as if all classes were as frequent; or JSON, a list in the order "
        'of ids or values by name, {"rare": 5}, the others 1. With several labels a video, it is the weight of a label that '
        "is there against those that are not",
    )
    freeze_backbone: bool = _option(False, "train the head alone (linear probe)")


@dataclass
class MediaArguments:
    data: str = field(
        default="",
        metadata={
            "help": "folder with a folder a class (in train/, val/ and test/, or not), folder with train.csv, val.csv and "
            "test.csv, one such list, a saved `datasets` data set or one on the hub; where no labels are needed, any folder "
            "of videos, and a list of nothing but paths"
        },
    )
    data_config: str | None = _option(None, "configuration of a hub data set")
    media_root: str | None = _option(None, "where relative paths in a list start from (default: where the list is)")
    frame_sampling: Literal["segments", "ssv2"] = _option("segments", "ssv2: as the reference does for Something-Something V2")
    window_seconds: float | None = _option(None, "cut long videos into windows of this length")
    window_stride: float = _option(16.0, "seconds from window to window")
    strict: bool = _option(False, "stop at a file that cannot be read, instead of skipping, counting and naming it")


@dataclass
class DataArguments(MediaArguments):
    labels: str | None = _option(None, "file with the names of the classes, one a line, in the order of the lists' ids")
    num_clips: int = _option(1, "clips of a video in evaluation, whose scores are averaged")
    num_crops: int = _option(1, "crops of a clip in evaluation, whose scores are averaged")
    merge: Literal["path", "stem"] = _option(
        "path",
        "which samples are one video in evaluation. path: windows of one file, averaged. stem: files of one name, of which "
        "only the first counts, as in the reference (Breakfast's cameras, LVU's windows)",
    )

    def __post_init__(self) -> None:
        require_at_least_one(self, "num_clips", "num_crops")
        if self.labels is not None and not Path(self.labels).is_file():
            raise FileNotFoundError(f"--labels: there is no file {self.labels}.")


@dataclass
class PretrainingDataArguments(MediaArguments):
    """With the reference's default for masked pretraining. Labels, if there are any, are not read."""

    frame_sampling: Literal["segments", "ssv2"] = "ssv2"


@dataclass
class AugmentationArguments:
    auto_augment: str = _option(
        "none", "RandAugment or AutoAugment in timm's notation: rand-m7-n4-mstd0.5-inc1, v0; none to turn it off"
    )
    min_crop_area: float = _option(0.5, "smallest part of a frame that a random resized crop takes")
    horizontal_flip: bool | None = _option(
        None, "mirror half of the clips (default: unless the names of the classes tell left from right)"
    )
    random_erasing: float = _option(0.0, "probability of a box of noise")
    repeated_augmentation: int = _option(
        1,
        "copies of a video or image. A video is read once, augmented so often, and all its clips are in one batch; the copies "
        "of an image are in one step, on different GPUs if there are several, and an epoch goes through so many times fewer "
        "of the images",
    )
    mixup: float = _option(0.0, "alpha of Mixup, 0: off")
    cutmix: float = _option(0.0, "alpha of CutMix, 0: off")
    label_smoothing: float = _option(0.1, "probability mass spread over all labels")

    def __post_init__(self) -> None:
        require_at_least_one(self, "repeated_augmentation")
        require_range(self, "min_crop_area", 0, 1, excluded=(0,))
        require_range(self, "random_erasing", 0, 1)
        require_range(self, "mixup", 0)
        require_range(self, "cutmix", 0)
        require_range(self, "label_smoothing", 0, 1, excluded=(1,))


@dataclass
class VideoMambaTrainingArguments(TrainingArguments):
    """transformers' arguments, and the reference's optimizer and schedule."""

    recipe: str | None = _option(None, "name of a recipe in modeling_videomamba/training/recipes, or path of a YAML file")
    validation_fraction: float = _option(0.1, "part of the training data held out, if there is no validation split")
    num_train_epochs: float = _option(30.0, "epochs")
    learning_rate: float = _option(3e-4, "peak learning rate")
    min_learning_rate: float = _option(1e-6, "where the cosine ends")
    warmup_learning_rate: float = _option(1e-6, "where the warm-up starts")
    lr_reference: int = _option(
        0, "0: learning rates are taken as they are; else they are multiplied by clips in a step / this (paper: 256)"
    )
    lr_scaling: Literal["all", "peak"] = _option("all", "peak: only the peak is multiplied, the two ends of the curve are not")
    lr_schedule: Literal["step", "epoch", "epoch_lag"] = _option(
        "step",
        "step: a rate for every step, the cosine after the warm-up. epoch: a rate for every epoch, on a cosine over all "
        "epochs, of which the warm-up covers the first. epoch_lag: the same, an epoch late, as the reference does for images",
    )
    warmup_epochs: float | None = _option(None, "epochs of linear warm-up (default: a tenth of all)")
    weight_decay: float = _option(0.05, "of matrices, position embeddings excepted")
    layer_decay: float = _option(1.0, "the learning rate's factor from layer to layer")
    layer_decay_mode: LayerDecayMode = _option(
        "official", "official: only embeddings learn more slowly, as in the released code. true: every block by its depth"
    )
    max_grad_norm: float = _option(1.0, "norm to clip gradients at, 0: not clipped")
    dataloader_drop_last: bool = _option(False, "leave out the last, smaller batch of an epoch")
    dataloader_num_workers: int = _option(2, "processes that decode, for each training process")
    eval_strategy: str = _option("epoch", "when to validate")
    save_strategy: str = _option("epoch", "when to write a checkpoint, from which an interrupted run goes on")
    save_total_limit: int | None = _option(2, "checkpoints kept")
    load_best_model_at_end: bool = _option(True, "end with the best checkpoint")
    metric_for_best_model: str | None = _option("accuracy", "what the best checkpoint is best at: accuracy, map, mse, loss")
    early_stopping_patience: int | None = _option(None, "stop after so many validations without improvement")
    report_to: str = _option("tensorboard", "where curves go")
    logging_steps: float = _option(10, "optimizer steps between two points of a curve")
    use_cpu: bool = _option(not torch.accelerator.is_available(), "train on the CPU")
    ddp_find_unused_parameters: bool | None = _option(False, "every parameter is used in every step")
    dataloader_pin_memory: bool = _option(torch.cuda.is_available(), "page-locked batches, for a GPU")
    disable_tqdm: bool = _option(not sys.stderr.isatty(), "lines of text in place of progress bars")
    remove_unused_columns: bool = _option(False, "not ours: the data set gives tensors")
    restore_callback_states_from_checkpoint: bool = _option(True, "an interrupted run keeps the patience of early stopping")

    def __post_init__(self) -> None:
        require_range(self, "num_train_epochs", 0, excluded=(0,))
        if self.warmup_epochs is None:
            self.warmup_epochs = self.num_train_epochs / 10
        if self.warmup_epochs > self.num_train_epochs:
            raise ValueError(
                f"--warmup_epochs {self.warmup_epochs:g} is more than --num_train_epochs {self.num_train_epochs:g}: give a "
                "smaller number, such as 0."
            )
        for name in ("warmup_epochs", "warmup_learning_rate", "min_learning_rate", "lr_reference", "weight_decay"):
            require_range(self, name, 0)
        require_range(self, "learning_rate", 0, excluded=(0,))
        require_range(self, "layer_decay", 0, 1, excluded=(0,))
        require_range(self, "validation_fraction", 0, 1, excluded=(1,))
        require_at_least_one(self, "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
        ours = {
            "lr_scheduler_type": "--lr_schedule, --warmup_learning_rate, --min_learning_rate",
            "warmup_steps": "--warmup_epochs",
            "label_smoothing_factor": "--label_smoothing",
        }
        for name, options in ours.items():
            if getattr(self, name) != getattr(type(self), name):
                raise ValueError(f"--{name} has no effect here. There are {options} instead.")
        if self.greater_is_better is None and self.metric_for_best_model in ("mse", "eval_mse"):
            self.greater_is_better = False
        if self.data_seed is None:
            self.data_seed = self.seed
        super().__post_init__()


@dataclass
class DistillationArguments:
    teacher: str = _option(
        "",
        "a trained VideoMamba: a directory, a released checkpoint's id, a hub repository; or another image or video model of "
        "transformers that has as many tokens, or can interpolate its position embeddings",
    )
    media: Media = _option("image", "what is in the files of --data")
    distillation_epochs: float | None = _option(None, "epochs after which the teacher stops (Fig. 6b; default: never)")


@dataclass
class MaskedPretrainingArguments(VideoMambaTrainingArguments):
    """Nothing is held out, and the last model is kept."""

    validation_fraction: float = 0.0
    adam_beta2: float = 0.95
    load_best_model_at_end: bool = False
    metric_for_best_model: str | None = "loss"
    ddp_find_unused_parameters: bool | None = _option(True, "the reference's tap leaves the last block without a gradient")


@dataclass
class AlignmentArguments:
    teacher: str = _option("openai/clip-vit-base-patch16", "a CLIP model: a directory or a hub repository")
    teacher_normalization: Literal["imagenet", "clip"] = _option(
        "imagenet", "statistics of the frames that the teacher sees. imagenet: the student's, as in the reference"
    )
    mask_type: MaskType = _option("attention", "which patches are left out (Fig. 5, Table 5)")
    mask_ratio: float = _option(0.8, "part of the patches that is left out")
    num_aligned_layers: int = _option(1, "layers to align, counted from the last one down")
    aligned_layer_interval: float = _option(1.0, "distance between aligned layers of the student")
    teacher_layer_interval: float = _option(1.0, "distance between aligned layers of the teacher")
    alignment_tap: Literal["before_last_block", "after_last_block", "after_norm"] = _option(
        "before_last_block",
        "what stands for the student's last layer. before_last_block: the residual stream without the last block, as in the "
        "reference, whose last block and final norm learn nothing. after_last_block: with it. after_norm: the model's output",
    )
    normalize_alignment: bool = _option(True, "features of unit length, the student's and the teacher's")
    alignment_loss: Literal["l2", "mse", "smooth_l1"] = _option("l2", "distance of features; l2 is 2 - 2 cos")
    horizontal_flip: bool | None = _option(
        None, "mirror half of the clips (default: unless folders of videos, or captions, tell left from right)"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.mask_ratio < 1:
            raise ValueError(f"--mask_ratio must be in [0, 1), got {self.mask_ratio:g}.")
