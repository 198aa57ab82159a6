"""A Trainer with the reference's optimizer and schedule; all else is transformers'."""

import json
import math
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import ProgressCallback, Trainer

from ..data.clips import EpochOfClips
from ..data.repeated_augmentation import RepeatedAugmentationSampler
from .learning_rate import epoch_cosine, scale_learning_rate, warmup_cosine
from .parameter_groups import parameter_groups, parameter_settings


class VideoMambaTrainer(Trainer):
    """A Trainer over [`TrainingClips`], for [`VideoMambaTrainingArguments`].

    With `image_copies`, items are drawn by a [`RepeatedAugmentationSampler`].
    """

    def __init__(self, *args, image_copies: int = 1, **kwargs):
        if kwargs["args"].n_gpu > 1:
            raise ValueError("For several GPUs, start with `accelerate launch` or `torchrun`.")
        try:
            super().__init__(*args, **kwargs)
        except ValueError as error:  # of an argument: its checks speak to users
            raise ValueError(str(error)) from error
        self.image_copies = image_copies
        self.settings = self.parameter_settings()  # before FSDP flattens the parameters, which hides that some are vectors
        self.add_callback(EpochOfClips(self.train_dataset))
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(WipedProgress())
        parts = [part for part in self.model.children() if any(True for _ in part.parameters())]
        self.frozen = [part for part in parts if not any(parameter.requires_grad for parameter in part.parameters())]

    def parameter_settings(self) -> dict[str, tuple[float, float]]:
        """The factor on the learning rate and the weight decay of every parameter that trains, by name."""
        args = self.args
        return parameter_settings(self.model, args.weight_decay, args.layer_decay, args.layer_decay_mode)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        args = self.args
        if args.max_steps > 0:
            return args.max_steps
        batches = self.items_per_epoch / (args.train_batch_size * args.world_size)
        batches = math.floor(batches) if args.dataloader_drop_last else math.ceil(batches)
        return math.ceil(args.num_train_epochs * math.ceil(batches / args.gradient_accumulation_steps))

    @property
    def clips_per_step(self) -> int:
        videos = self.args.train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
        return videos * self.train_dataset.repeats

    @property
    def items_per_epoch(self) -> int:
        """Videos or images that an epoch goes through, copies of images counted."""
        return len(self._get_train_sampler() or self.train_dataset)

    def scaled(self, learning_rate: float) -> float:
        reference = self.args.lr_reference
        return scale_learning_rate(learning_rate, self.clips_per_step, reference) if reference else learning_rate

    @property
    def learning_rates(self) -> tuple[float, float, float]:
        """At the peak of the curve, at its start and at its end."""
        args = self.args
        ends = args.warmup_learning_rate, args.min_learning_rate
        return self.scaled(args.learning_rate), *(map(self.scaled, ends) if args.lr_scaling == "all" else ends)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if self.image_copies == 1:
            return super()._get_train_sampler(train_dataset)
        processes = self.args.world_size
        return RepeatedAugmentationSampler(self.train_dataset, self.image_copies, self.args.train_batch_size, processes)

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
            num_epochs, num_warmup_epochs = args.num_train_epochs, args.warmup_epochs
            peak, start, end = self.learning_rates

            def factor(step: int) -> float:
                if args.lr_schedule == "step":
                    num_warmup_steps = round(num_training_steps * num_warmup_epochs / num_epochs)
                    return warmup_cosine(step, num_training_steps, num_warmup_steps, peak, start, end) / peak
                epoch = int(step * num_epochs / num_training_steps)
                lag = args.lr_schedule == "epoch_lag"
                return epoch_cosine(epoch, num_epochs, num_warmup_epochs, peak, start, end, lag) / peak

            self.lr_scheduler = LambdaLR(self.optimizer if optimizer is None else optimizer, factor)
        return self.lr_scheduler

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None) -> Tensor | tuple:
        """As in transformers, but a mean over its own clips for each batch of an evaluation.

        What does not train drops nothing, neither paths nor units.
        """
        for part in self.frozen:
            part.eval()
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch if model.training else None)

    def create_model_card(self, *args, **kwargs) -> None:
        """Writes none: [`write_classification_card`] knows data and schedule, and `push_to_hub` would write over its card."""


class WipedProgress(ProgressCallback):
    """Bars of which nothing is left when they are full, those of an evaluation on its own either."""

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs) -> None:
        super().on_prediction_step(args, state, control, eval_dataloader, **kwargs)
        if self.prediction_bar is not None:
            self.prediction_bar.leave = False


def last_complete_checkpoint(output_dir: str | Path) -> str | None:
    """The last checkpoint whose state, written last of all files, is whole; a run may have been killed while writing one."""
    folders = sorted(Path(output_dir).glob("checkpoint-[0-9]*"), key=lambda path: int(path.name.split("-")[-1]), reverse=True)
    for folder in folders:
        try:
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
            return str(folder)
        except (OSError, ValueError):
            print(f"{folder} is not complete and is left out.")
    return None
