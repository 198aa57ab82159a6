"""Trains a classifier whose tokens learn, beside the labels, to be those of a smaller model that was trained before.

    python examples/self_distillation.py --recipe videomamba-m-in1k --data imagenet --teacher my-small
    python examples/self_distillation.py --recipe video-distillation --data my_videos --teacher videomamba-ti-k400-f8 \\
        --model_config '{"hidden_size": 384, "num_hidden_layers": 24, "num_frames": 8}' --output_dir my-model

Large VideoMambas overfit on images; aligned with a small one, they do not (section 3.2 and Fig. 6 of the paper). The student
sees the same augmented and mixed images as the teacher. Its loss is that of classification plus, over all tokens, CLS
included, the mean of `2 - 2 cos(student, teacher)`; the student's tokens, after its final norm, get there through another norm
and a linear layer, which are thrown away in the end. Source: the reference's `image_sm/engine_distill.py`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from a clone, installed or not

from examples.common.command import run_command


# isort: split
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, set_seed
from transformers.models.auto.image_processing_auto import get_image_processor_config
from transformers.utils import ModelOutput

from examples.common.arguments import (
    AugmentationArguments,
    DataArguments,
    DistillationArguments,
    ModelArguments,
    VideoMambaTrainingArguments,
    parse_arguments,
)
from examples.common.cards import write_classification_card
from examples.common.classification import prepare_classification
from examples.common.losses import ClassificationLoss, mean_over_clips
from examples.common.models import locate
from examples.common.run import finish, save_and_validate, train
from examples.common.teachers import TokenTeacher
from examples.common.trainer import VideoMambaTrainer
from modeling_videomamba import VideoMambaConfig, VideoMambaForImageClassification, VideoMambaForVideoClassification
from modeling_videomamba.modeling_videomamba import make_norm


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


def main(argv: list[str] | None = None) -> None:
    arguments = (ModelArguments, DataArguments, AugmentationArguments, DistillationArguments, VideoMambaTrainingArguments)
    model_args, data_args, augmentation, distillation, args = parse_arguments(*arguments, description=__doc__, argv=argv)
    if not distillation.teacher:
        raise ValueError("Give the --teacher: a smaller model, trained before.")
    if model_args.freeze_backbone:
        raise ValueError("--freeze_backbone: it is the backbone that learns from a teacher.")
    set_seed(args.seed)
    task = prepare_classification(distillation.media, model_args, data_args, augmentation, args, distillation)
    teacher = load_teacher(distillation.teacher, task.model.config, torch.bfloat16 if args.bf16 else torch.float32)
    student = Student(task.model, teacher.width)
    args.label_names = ["labels"]
    if distillation.distillation_epochs is not None:
        args.ddp_find_unused_parameters = True  # those between student and teacher, in the end
    trainer = SelfDistillationTrainer(
        model=student,
        compute_loss_func=DistillationLoss(task.loss.problem_type, task.loss.class_weights),
        teacher=teacher,
        distillation_epochs=distillation.distillation_epochs,
        **task.for_trainer,
    )
    train(trainer, task.settings)
    metrics = save_and_validate(trainer, task.unreadable)
    write_classification_card(trainer, model_args, data_args, augmentation, metrics, distillation)
    finish(trainer)


if __name__ == "__main__":
    run_command(main)
