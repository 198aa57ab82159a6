"""Trains an image classifier from scratch, which video models start from: sections 3.2 and 4.1 of the paper.

    pip install "modeling-videomamba[train]"
    python examples/pretrain_image_classification.py imagenet my-image-model --size tiny

`imagenet` has a folder of images for each class, in `train/` and `val/`; without these two, a tenth of each class is held out.

1. An image is a video of one frame: `(3, 224, 224)` becomes CLS and 196 patches, `(1 + 196, width)`.
2. Images of a batch are mixed in pairs, by Mixup (a weighted sum) or CutMix (a box of the other), and their labels likewise:
   labels are probabilities, `(batch, classes)`, and the loss is their cross-entropy with the model's.
3. A video model takes the result over: its patch embedding, layers and spatial positions. Temporal positions start at zero.

`videomamba pretrain-images` does this with the paper's recipes: RandAugment, random erasing, three copies of every image.
"""

import argparse

import torch
from transformers import Trainer, TrainingArguments, set_seed

from modeling_videomamba import VideoMambaConfig, VideoMambaForImageClassification
from modeling_videomamba.checkpoints.default_processor import processor_for
from modeling_videomamba.data.clips import ClipCollator, EpochOfClips, EvaluationViews, TrainingClips
from modeling_videomamba.data.frame_sampling import FRAME_SAMPLINGS
from modeling_videomamba.data.images import ImageTrainingTransform
from modeling_videomamba.data.media_lists import label_ids, label_names, load_splits
from modeling_videomamba.data.mixing import ClipMixing
from modeling_videomamba.data.sides import names_with_sides
from modeling_videomamba.training.losses import ClassificationLoss
from modeling_videomamba.training.metrics import as_compute_metrics


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder with a folder of images for each class, or a list, or a `datasets` data set")
    parser.add_argument("output_dir")
    parser.add_argument("--size", default="tiny", choices=["tiny", "small", "middle", "base"])
    parser.add_argument("--image-size", type=int, default=224, help="height and width in pixels")
    parser.add_argument("--epochs", type=float, default=50, help="the paper has 300 on ImageNet")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--num-workers", type=int, default=2, help="processes that read images")
    options = parser.parse_args(argv)
    set_seed(0)

    # Data: tables of files and labels. Nothing is read yet.
    train, validation, _ = load_splits(options.data, media="image", validation_fraction=0.1)
    names = label_names(train)

    # Model: from scratch. `num_frames=None` makes it one of images, without temporal positions.
    config = getattr(VideoMambaConfig, options.size)(
        num_frames=None,
        image_size=options.image_size,
        drop_path_rate=0.1,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    model = VideoMambaForImageClassification(config)
    print(f"{model.num_parameters():,} parameters, {1 + config.grid_size[0] * config.grid_size[1]} tokens an image")

    # Images: an item to train on is {"pixel_values": (1, 3, size, size), "labels": (1,)}, new in every epoch.
    transform = ImageTrainingTransform(
        options.image_size,
        auto_augment=None,  # the paper has "rand-m9-mstd0.5-inc1" for ImageNet
        min_area=0.5,  # of an image that a random crop takes; the paper has 0.08
        horizontal_flip=not names_with_sides(names),  # a mirrored `turn_left` would be a `turn_right`
        random_erasing=0.0,
    )
    sampling = FRAME_SAMPLINGS["segments"]  # of an image, its one frame
    train_images = TrainingClips(train, label_ids(train, config.id2label, "train"), sampling, 1, transform)
    processor = processor_for(config)
    validation_images = EvaluationViews(validation, label_ids(validation, config.id2label, "validation"), sampling, processor)
    mixing = ClipMixing(len(names), mixup_alpha=0.2, cutmix_alpha=0.2, label_smoothing=0.1)  # the paper has 0.8, 1.0, 0.1

    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=options.output_dir,
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,  # of all steps
            weight_decay=0.05,
            bf16=torch.cuda.is_available(),
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model="accuracy",
            logging_steps=10,
            dataloader_num_workers=options.num_workers,
            dataloader_pin_memory=torch.cuda.is_available(),
            remove_unused_columns=False,
            report_to="none",
        ),
        train_dataset=train_images,
        eval_dataset=validation_images,
        data_collator=ClipCollator(mixing),  # {"pixel_values": (batch, 3, size, size), "labels": (batch, classes)}
        compute_loss_func=ClassificationLoss(),  # of labels that are probabilities, and of ids in the evaluation
        compute_metrics=as_compute_metrics("single_label_classification"),  # top-1 and top-5
        processing_class=processor,  # saved beside the model
        callbacks=[EpochOfClips(train_images)],
    )
    trainer.train()
    trainer.save_model()
    metrics = trainer.evaluate()  # of the best epoch
    print(f"top-1 on {len(validation)} held-out images: {metrics['eval_accuracy']:.1%}, with {len(names)} classes")
    print(f"the model is in {options.output_dir}: --teacher of examples/self_distillation.py")
    return metrics


if __name__ == "__main__":
    main()
