"""Trains a classifier whose tokens learn, beside the labels, to be those of a smaller model that was trained before.

    videomamba distill --recipe videomamba-m-in1k --data imagenet --teacher my-small
    videomamba distill --recipe video-distillation --data my_videos --teacher videomamba-ti-k400-f8 \\
        --model-config '{"hidden_size": 384, "num_hidden_layers": 24, "num_frames": 8}' --output-dir my-model

Large VideoMambas overfit on images; aligned with a small one, they do not (section 3.2 and Fig. 6 of the paper). The student
sees the same augmented and mixed images as the teacher. Its loss is that of classification plus, over all tokens, CLS
included, the mean of `2 - 2 cos(student, teacher)`; the student's tokens, after its final norm, get there through another norm
and a linear layer, which are thrown away in the end. Source: the reference's `image_sm/engine_distill.py`.
"""

import torch
from transformers import set_seed

from ..training.arguments import (
    AugmentationArguments,
    DataArguments,
    DistillationArguments,
    ModelArguments,
    VideoMambaTrainingArguments,
)
from ..training.cards import write_classification_card
from ..training.classification import prepare_classification
from ..training.distillation import DistillationLoss, SelfDistillationTrainer, Student, load_teacher
from ..training.run import finish, save_and_validate, train
from .parser import OF_EVERY_TRAINING, parse_arguments


ESSENTIAL = ("teacher", "media", "model", "data", "model_config", "image_size", *OF_EVERY_TRAINING)


def main(argv: list[str] | None = None) -> None:
    arguments = (ModelArguments, DataArguments, AugmentationArguments, DistillationArguments, VideoMambaTrainingArguments)
    model_args, data_args, augmentation, distillation, args = parse_arguments(
        *arguments, description=__doc__, argv=argv, essential=ESSENTIAL
    )
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
