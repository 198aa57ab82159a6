"""Trains an image classifier, from scratch or at a higher resolution: what video models start from.

    python examples/pretrain_image_classification.py --recipe videomamba-ti-in1k --data imagenet
    python examples/pretrain_image_classification.py --recipe videomamba-ti-in1k-res448 --data imagenet --model my-ti
    accelerate launch --config_file examples/accelerate/ddp.yaml examples/pretrain_image_classification.py --recipe ...

`imagenet` has a folder for each class in train/ and val/, or lists of images, or is a `datasets` data set; see --help. With a
recipe of the paper, images are augmented, mixed and repeated, and the learning rate goes, as in the reference
(`image_sm/main.py`); without one, the defaults are for a small data set. A run that was interrupted goes on from its last
checkpoint when it is started again.
"""

import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from a clone, installed or not

from examples.common.command import run_command


# isort: split
from transformers import set_seed

from examples.common.arguments import (
    AugmentationArguments,
    DataArguments,
    ModelArguments,
    VideoMambaTrainingArguments,
    parse_arguments,
)
from examples.common.cards import write_classification_card
from examples.common.classification import prepare_classification
from examples.common.run import finish, save_and_validate, train
from examples.common.trainer import VideoMambaTrainer


def main(argv: list[str] | None = None) -> None:
    arguments = (ModelArguments, DataArguments, AugmentationArguments, VideoMambaTrainingArguments)
    model_args, data_args, augmentation, args = parse_arguments(*arguments, description=__doc__, argv=argv)
    set_seed(args.seed)
    task = prepare_classification("image", model_args, data_args, augmentation, args)
    trainer = VideoMambaTrainer(model=task.model, compute_loss_func=task.loss, **task.for_trainer)
    train(trainer, task.settings)
    metrics = save_and_validate(trainer, task.unreadable)
    write_classification_card(trainer, model_args, data_args, augmentation, metrics)
    finish(trainer)


if __name__ == "__main__":
    run_command(main)
