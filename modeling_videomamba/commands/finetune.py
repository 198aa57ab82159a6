"""Fine-tunes a video classifier, or a regressor, on labelled videos.

    videomamba finetune --recipe videomamba-ti-ssv2-f8 --data ssv2
    videomamba finetune --model videomamba-ti-k400-f16 --data my_videos --output-dir my-model
    torchrun --nproc_per_node 8 -m modeling_videomamba finetune --recipe ...

`my_videos` has a folder for each class, or lists of videos; see --help. The defaults are for a small data set on one machine:
learning rates as they are given, mild augmentation, no mirroring where the classes' names tell left from right. A recipe of
the paper needs the data alone, and whatever else is given wins over it. A run that was interrupted goes on from its last
checkpoint when it is started again.
"""

from transformers import set_seed

from ..training.arguments import AugmentationArguments, DataArguments, ModelArguments, VideoMambaTrainingArguments
from ..training.cards import write_classification_card
from ..training.classification import prepare_classification
from ..training.run import finish, save_and_validate, train
from ..training.trainer import VideoMambaTrainer
from .parser import OF_EVERY_TRAINING, parse_arguments


ESSENTIAL = ("model", "data", "model_config", "num_frames", "image_size", *OF_EVERY_TRAINING)


def main(argv: list[str] | None = None) -> None:
    arguments = (ModelArguments, DataArguments, AugmentationArguments, VideoMambaTrainingArguments)
    model_args, data_args, augmentation, args = parse_arguments(
        *arguments, description=__doc__, argv=argv, essential=ESSENTIAL
    )
    set_seed(args.seed)
    task = prepare_classification("video", model_args, data_args, augmentation, args)
    trainer = VideoMambaTrainer(model=task.model, compute_loss_func=task.loss, **task.for_trainer)
    train(trainer, task.settings)
    metrics = save_and_validate(trainer, task.unreadable)
    write_classification_card(trainer, model_args, data_args, augmentation, metrics)
    finish(trainer)
