"""Fine-tunes a video classifier on videos of your own: sections 4.2 and 4.3 of the paper, on one machine.

    pip install "modeling-videomamba[train]"
    python examples/finetune_video_classification.py my_videos my-model

`my_videos` has a folder of videos for each class. A tenth of each class is held out for validation.

1. A clip of a video is one random frame out of each of `num_frames` equal segments, `(frames, 3, 224, 224)`. All frames of a
   clip are cropped and mirrored alike.
2. The model cuts the frames into patches of 16 x 16 pixels, 196 a frame. Its layers scan the sequence of CLS and all patches,
   `(1 + frames * 196, width)`, in both directions; time and memory grow with the length of the sequence, not with its square.
3. A linear head makes one score a class of the CLS token. The loss is cross-entropy with smoothed labels.

`videomamba finetune` does this with the paper's recipes, and more: several labels a video, runs that can be interrupted.
"""

import argparse

import torch
from transformers import Trainer, TrainingArguments, set_seed

from modeling_videomamba import VideoMambaForVideoClassification
from modeling_videomamba.checkpoints.default_processor import processor_for
from modeling_videomamba.data.augmentation import training_transform
from modeling_videomamba.data.clips import ClipCollator, EpochOfClips, EvaluationViews, TrainingClips
from modeling_videomamba.data.frame_sampling import FRAME_SAMPLINGS
from modeling_videomamba.data.media_lists import label_ids, label_names, load_splits
from modeling_videomamba.data.sides import names_with_sides
from modeling_videomamba.training.metrics import as_compute_metrics


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder with a folder of videos for each class, or a list, or a `datasets` data set")
    parser.add_argument("output_dir")
    parser.add_argument("--model", default="videomamba-ti-k400", help="released id, directory or hub repository")
    parser.add_argument("--epochs", type=float, default=30)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--num-workers", type=int, default=2, help="processes that decode videos")
    options = parser.parse_args(argv)
    set_seed(0)

    # Data: tables of files and labels. Nothing is decoded yet.
    train, validation, _ = load_splits(options.data, validation_fraction=0.1)
    names = label_names(train)

    # Model: a pretrained backbone with a head of our classes, which starts at random unless the checkpoint has as many.
    model = VideoMambaForVideoClassification.from_pretrained(
        options.model,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
        ignore_mismatched_sizes=True,
        dtype=torch.float32,  # the weights; on a GPU the Trainer computes in bf16, see below
    )

    # Clips: an item to train on is {"pixel_values": (1, frames, 3, size, size), "labels": (1,)}, new in every epoch.
    sampling, processor = FRAME_SAMPLINGS["segments"], processor_for(model.config)
    transform = training_transform(
        model.config.image_size,
        processor.image_mean,
        processor.image_std,
        auto_augment=None,  # the paper has "rand-m7-n4-mstd0.5-inc1" for large data sets
        min_area=0.5,  # of a frame that a random crop takes; the paper has 0.08
        horizontal_flip=not names_with_sides(names),  # a mirrored `turn_left` would be a `turn_right`
        random_erasing=0.0,
    )
    train_clips = TrainingClips(
        train, label_ids(train, model.config.id2label, "train"), sampling, model.config.num_frames, transform
    )
    validation_clips = EvaluationViews(  # the middle frames and the centre crop, the same in every epoch
        validation, label_ids(validation, model.config.id2label, "validation"), sampling, processor
    )

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
            label_smoothing_factor=0.1,
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
        train_dataset=train_clips,
        eval_dataset=validation_clips,
        data_collator=ClipCollator(),  # {"pixel_values": (batch, frames, 3, size, size), "labels": (batch,)}
        compute_metrics=as_compute_metrics("single_label_classification"),  # top-1 and top-5
        processing_class=processor,  # saved beside the model
        callbacks=[EpochOfClips(train_clips)],
    )
    trainer.train()
    trainer.save_model()
    metrics = trainer.evaluate()  # of the best epoch
    print(f"top-1 on {len(validation)} held-out videos: {metrics['eval_accuracy']:.1%}, with {len(names)} classes")
    print(f"the model is in {options.output_dir}: videomamba classify VIDEO --model {options.output_dir}")
    return metrics


if __name__ == "__main__":
    main()
