"""Self-distillation: a classifier whose tokens learn, beside the labels, to be those of a smaller model trained before.

Section 3.2 and Fig. 6 of the paper. Source: the reference's `image_sm/engine_distill.py`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel
from transformers.models.auto.image_processing_auto import get_image_processor_config
from transformers.utils import ModelOutput

from .. import VideoMambaConfig, VideoMambaForImageClassification, VideoMambaForVideoClassification
from ..checkpoints.by_name import locate
from ..modeling_videomamba import make_norm
from .losses import ClassificationLoss, mean_over_clips
from .teachers import TokenTeacher
from .trainer import VideoMambaTrainer


@dataclass
class StudentOutput(ModelOutput):
    """`logits` of shape `(batch, num_labels)`; `distances` to the teacher's tokens, of shape `(batch,)`."""

    logits: Tensor | None = None
    distances: Tensor | None = None


class Student(nn.Module):
    """A classifier, and what maps its tokens to the teacher's width."""

    def __init__(self, classifier: VideoMambaForImageClassification | VideoMambaForVideoClassification, teacher_width: int):
        super().__init__()
        self.config = classifier.config
        self.classifier = classifier
        self.norm = make_norm(self.config)
        self.projection = nn.Linear(self.config.hidden_size, teacher_width)
        nn.init.trunc_normal_(self.projection.weight, std=self.config.initializer_range)
        nn.init.zeros_(self.projection.bias)

    def forward(self, pixel_values: Tensor, teacher_tokens: Tensor | None = None) -> StudentOutput:
        """`teacher_tokens` `(batch, 1 + patches, width)`, or `(batch, patches, width)` without CLS, of unit length."""
        clips = pixel_values if pixel_values.ndim == 5 else pixel_values[:, None]  # (batch, frames, 3, height, width)
        outputs = self.classifier.base_model(clips)
        logits = self.classifier.classifier(self.classifier.dropout(outputs.pooler_output))
        if teacher_tokens is None:
            return StudentOutput(logits=logits)
        tokens = self.projection(self.norm(outputs.last_hidden_state))  # (batch, 1 + patches, width)
        tokens = F.normalize(tokens.float(), dim=-1)[:, tokens.shape[1] - teacher_tokens.shape[1] :]
        distances = (2 - 2 * (tokens * teacher_tokens).sum(dim=-1)).mean(dim=1)  # (batch,)
        return StudentOutput(logits=logits, distances=distances)

    def gradient_checkpointing_enable(self, **kwargs) -> None:
        self.classifier.gradient_checkpointing_enable(**kwargs)


@dataclass
class DistillationLoss(ClassificationLoss):
    """With the distances where there was a teacher."""

    def __call__(self, outputs: StudentOutput, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        losses = self.of_clips(outputs.logits, labels)
        if outputs.distances is not None:
            losses = losses + outputs.distances
        return mean_over_clips(losses, labels, num_items_in_batch)


class SelfDistillationTrainer(VideoMambaTrainer):
    def __init__(self, *args, teacher: TokenTeacher, distillation_epochs: float | None, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher = teacher.to(self.args.device)
        self.distillation_epochs = distillation_epochs

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None) -> Tensor | tuple:
        is_over = self.distillation_epochs is not None and self.state.epoch >= self.distillation_epochs
        if model.training and not is_over:
            inputs["teacher_tokens"] = self.teacher(inputs["pixel_values"])
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Checkpoints hold the whole student, the output directory its classifier alone."""
        if output_dir is not None:
            return super().save_model(output_dir, _internal_call)
        weights = self.accelerator.get_state_dict(self.model_wrapped)  # gathered, where they are sharded
        if self.args.should_save:
            prefix = "classifier."
            weights = {name.removeprefix(prefix): x for name, x in weights.items() if name.startswith(prefix)}
            self.model.classifier.save_pretrained(self.args.output_dir, state_dict=weights)
            self.processing_class.save_pretrained(self.args.output_dir)


def load_teacher(name: str, student: VideoMambaConfig, dtype: torch.dtype) -> TokenTeacher:
    """The teacher, tried once on a black clip of the student's size.

    Raises:
        ValueError: if its tokens are not those of the student's patches.
    """
    directory = locate(name)
    model = AutoModel.from_pretrained(directory, dtype=dtype)
    statistics = get_image_processor_config(directory)  # empty for a VideoMamba of videos, which takes ImageNet's
    named = {"mean": statistics.get("image_mean"), "std": statistics.get("image_std")}
    named = {name: values for name, values in named.items() if values is not None}
    teacher = TokenTeacher(model, student.grid_size, student.tubelet_size, **named)
    size = (student.image_size,) * 2 if isinstance(student.image_size, int) else student.image_size
    teacher(torch.zeros(1, student.num_frames or 1, student.num_channels, *size))
    return teacher
