"""Trains an image classifier, from scratch or at a higher resolution: what video models start from.

    videomamba pretrain-images --recipe videomamba-ti-in1k --data imagenet
    videomamba pretrain-images --recipe videomamba-ti-in1k-res448 --data imagenet --model my-ti
    torchrun --nproc_per_node 8 -m modeling_videomamba pretrain-images --recipe ...

`imagenet` has a folder for each class in train/ and val/, or lists of images, or is a `datasets` data set; see --help. With a
recipe of the paper, images are augmented, mixed and repeated, and the learning rate goes, as in the reference
(`image_sm/main.py`); without one, the defaults are for a small data set. A run that was interrupted goes on from its last
checkpoint when it is started again.
"""

from transformers import set_seed

from ..training.arguments import AugmentationArguments, DataArguments, ModelArguments, VideoMambaTrainingArguments
from ..training.cards import write_classification_card
from ..training.classification import prepare_classification
from ..training.run import finish, save_and_validate, train
from ..training.trainer import VideoMambaTrainer
from .parser import OF_EVERY_TRAINING, parse_arguments


ESSENTIAL = ("model", "data", "model_config", "image_size", *OF_EVERY_TRAINING)


def main(argv: list[str] | None = None) -> None:
    arguments = (ModelArguments, DataArguments, AugmentationArguments, VideoMambaTrainingArguments)
    model_args, data_args, augmentation, args = parse_arguments(
        *arguments, description=__doc__, argv=argv, essential=ESSENTIAL
    )
    set_seed(args.seed)
    task = prepare_classification("image", model_args, data_args, augmentation, args)
    trainer = VideoMambaTrainer(model=task.model, compute_loss_func=task.loss, **task.for_trainer)
    train(trainer, task.settings)
    metrics = save_and_validate(trainer, task.unreadable)
    write_classification_card(trainer, model_args, data_args, augmentation, metrics)
    finish(trainer)
