"""The Trainer of the classification scripts: the reference's optimizer, schedule and loss, all else transformers'."""

import json
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer
from transformers.modeling_outputs import ImageClassifierOutput

from .clips import UNREADABLE_LABEL, EpochOfClips
from .optimization import parameter_groups, parameter_settings, scale_learning_rate, warmup_cosine


class VideoMambaTrainer(Trainer):
    """A Trainer over [`TrainingClips`], for [`FinetuningArguments`]."""

    def __init__(self, *args, **kwargs):
        if kwargs["args"].n_gpu > 1:
            raise ValueError("For several GPUs, start the script with `accelerate launch` or `torchrun`.")
        super().__init__(*args, compute_loss_func=classification_loss, **kwargs)
        # before FSDP flattens the parameters, which hides that some are vectors
        decay = self.args.weight_decay, self.args.layer_decay, self.args.layer_decay_mode
        self.settings = parameter_settings(self.model, *decay)
        self.add_callback(EpochOfClips(self.train_dataset))

    @property
    def clips_per_step(self) -> int:
        videos = self.args.train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
        return videos * self.train_dataset.repeats

    def scaled(self, learning_rate: float) -> float:
        reference = self.args.lr_reference
        return scale_learning_rate(learning_rate, self.clips_per_step, reference) if reference else learning_rate

    def get_eval_dataloader(self, eval_dataset: Dataset | str | None = None) -> DataLoader:
        """With all videos: `dataloader_drop_last`, which is meant for training, would leave out the last ones."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = drop_last

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            model = self.model if model is None else model
            optimizer_class, kwargs = self.get_optimizer_cls_and_kwargs(self.args, model)
            groups = parameter_groups(model.named_parameters(), self.settings, self.scaled(self.args.learning_rate))
            self.optimizer = optimizer_class(groups, **kwargs)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        if self.lr_scheduler is None:
            args = self.args
            num_warmup_steps = round(num_training_steps * args.warmup_epochs / args.num_train_epochs)
            peak, start, end = map(self.scaled, (args.learning_rate, args.warmup_learning_rate, args.min_learning_rate))

            def factor(step: int) -> float:
                return warmup_cosine(step, num_training_steps, num_warmup_steps, peak, start, end) / peak

            self.lr_scheduler = LambdaLR(self.optimizer if optimizer is None else optimizer, factor)
        return self.lr_scheduler

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None) -> Tensor | tuple:
        """As in transformers, but a mean over its own clips for each batch of an evaluation."""
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch if model.training else None)

    def create_model_card(self, *args, **kwargs) -> None:
        """Left to the script, whose card knows the data and the schedule; `push_to_hub` would write another over it."""


def classification_loss(
    outputs: ImageClassifierOutput, labels: Tensor, num_items_in_batch: Tensor | int | None = None
) -> Tensor:
    """Cross-entropy with class ids `(clips,)` or mixed labels `(clips, num_labels)`; squared error for one value a clip.

    The mean over the clips that could be read; in training, whose batch may be in parts, `num_items_in_batch` counts the
    elements of all labels.
    """
    logits = outputs.logits.float()
    if labels.ndim == 1 and labels.is_floating_point():
        losses = F.mse_loss(logits[:, 0], labels, reduction="none").nan_to_num()
        readable = ~labels.isnan()
    else:
        losses = F.cross_entropy(logits, labels, reduction="none", ignore_index=UNREADABLE_LABEL)
        readable = (labels != UNREADABLE_LABEL).view(len(labels), -1)[:, 0]
    num_clips = readable.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch / labels[0].numel()
    return losses.sum() / num_clips


def last_complete_checkpoint(output_dir: str | Path) -> str | None:
    """The last checkpoint whose state, written last of all files, is whole; a run may have been killed while writing one."""
    folders = sorted(Path(output_dir).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[-1]), reverse=True)
    for folder in folders:
        try:
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
            return str(folder)
        except (OSError, ValueError):
            print(f"{folder} is not complete and is left out.")
    return None
