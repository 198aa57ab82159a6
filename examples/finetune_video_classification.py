"""Fine-tunes a video classifier, or a regressor, on labelled videos.

    python examples/finetune_video_classification.py --recipe videomamba-ti-ssv2-f8 --data ssv2
    python examples/finetune_video_classification.py --model videomamba-ti-k400-f16 --data my_videos --output_dir my-model
    accelerate launch --config_file examples/accelerate/ddp.yaml examples/finetune_video_classification.py --recipe ...

`my_videos` has a folder for each class, or lists of videos; see --help. The defaults are for a small data set on one machine:
learning rates as they are given, mild augmentation, no mirroring where the classes' names tell left from right. A recipe of
the paper needs the data alone, and whatever else is given wins over it. A run that was interrupted goes on from its last
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
    task = prepare_classification("video", model_args, data_args, augmentation, args)
    trainer = VideoMambaTrainer(model=task.model, compute_loss_func=task.loss, **task.for_trainer)
    train(trainer, task.settings)
    metrics = save_and_validate(trainer, task.unreadable)
    write_classification_card(trainer, model_args, data_args, augmentation, metrics)
    finish(trainer)


if __name__ == "__main__":
    run_command(main)
