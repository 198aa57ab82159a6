"""Fine-tunes a video classifier, or a regressor, on labelled videos.

    python examples/finetune_video_classification.py --recipe videomamba-ti-ssv2-f8 --data ssv2
    python examples/finetune_video_classification.py --model videomamba-ti-k400-f16 --data my_videos --output_dir my-model
    accelerate launch --config_file examples/accelerate/ddp.yaml examples/finetune_video_classification.py --recipe ...

`my_videos` has a folder for each class, or lists of videos; see --help. A recipe of the paper needs the data alone, and
whatever else is given wins over it. A run that was interrupted goes on from its last checkpoint when it is started again.
"""

import sys
from dataclasses import asdict
from pathlib import Path

from datasets import Dataset
from transformers import EarlyStoppingCallback, set_seed


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from a clone, installed or not

from conversion.converter import processor_for
from examples.common.arguments import (
    AugmentationArguments,
    DataArguments,
    FinetuningArguments,
    ModelArguments,
    parse_arguments,
)
from examples.common.augmentation import training_transform
from examples.common.cards import finetuning_card
from examples.common.clips import ClipCollator, EvaluationViews, TrainingClips, UnreadableVideos, require_readable
from examples.common.frame_sampling import FRAME_SAMPLINGS
from examples.common.metrics import for_trainer, metrics_of
from examples.common.mixing import ClipMixing
from examples.common.models import start_model
from examples.common.settings import check_settings
from examples.common.trainer import VideoMambaTrainer, last_complete_checkpoint
from examples.common.video_lists import cut_into_windows, hold_out, label_ids, label_values, load_videos, write_list


def load_splits(args: DataArguments, validation_fraction: float, seed: int) -> tuple[Dataset, Dataset, bool]:
    """Videos to train on and videos to validate on, and whether the latter were held out of the former, not given."""
    train, validation = (load_videos(args.data, split, args.video_root, args.data_config) for split in ("train", "val"))
    if train is None:
        raise ValueError(f"{args.data} has no training videos.")
    is_held_out = validation is None or Path(args.data).is_file()
    if is_held_out:
        train, validation = hold_out(train, validation_fraction, seed)
    return train, validation, is_held_out


def settings_of(
    model_args: ModelArguments, data_args: DataArguments, augmentation: AugmentationArguments, args: FinetuningArguments
) -> dict:
    """What the weights depend on, which a run that goes on cannot change."""
    data = ("data", "labels", "frame_sampling", "window_seconds", "window_stride")
    schedule = ("seed", "num_train_epochs", "max_steps", "warmup_epochs", "learning_rate", "min_learning_rate", "lr_reference")
    schedule += ("warmup_learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps")
    optimizer = ("weight_decay", "layer_decay", "layer_decay_mode", "bf16", "validation_fraction")
    settings = asdict(model_args) | asdict(augmentation) | {name: getattr(data_args, name) for name in data}
    return settings | {name: getattr(args, name) for name in schedule + optimizer}


def main(argv: list[str] | None = None) -> None:
    arguments = (ModelArguments, DataArguments, AugmentationArguments, FinetuningArguments)
    model_args, data_args, augmentation, args = parse_arguments(*arguments, description=__doc__, argv=argv)
    set_seed(args.seed)

    train, validation, is_held_out = load_splits(data_args, args.validation_fraction, args.seed)
    output_dir = Path(args.output_dir)
    unreadable = UnreadableVideos(output_dir / "unreadable_videos.txt", data_args.strict)
    with args.main_process_first(desc="the model to start from"):
        model = start_model(model_args, train, data_args.labels)
        output_dir.mkdir(parents=True, exist_ok=True)
        check_settings(output_dir / "settings.json", settings_of(model_args, data_args, augmentation, args))
        if args.process_index == 0:
            unreadable.file.unlink(missing_ok=True)
            if is_held_out:
                write_list(validation, output_dir / "validation.csv")
    if data_args.window_seconds:
        window = data_args.window_seconds, data_args.window_stride
        train, validation = cut_into_windows(train, *window), cut_into_windows(validation, *window)
    is_regression = model_args.problem_type == "regression"
    if is_regression and args.metric_for_best_model == "accuracy":
        args.metric_for_best_model, args.greater_is_better = "mse", False
    if is_regression:
        labels, validation_labels = label_values(train, "train"), label_values(validation, "validation")
    else:
        labels = label_ids(train, model.config.label2id, "train")
        validation_labels = label_ids(validation, model.config.label2id, "validation")

    require_readable(train, "training", unreadable)
    require_readable(validation, "validation", unreadable)

    sampling = FRAME_SAMPLINGS[data_args.frame_sampling]
    processor = processor_for(model.config)
    transform = training_transform(
        size=model.config.image_size,
        mean=processor.image_mean,
        std=processor.image_std,
        rand_augment=None if augmentation.rand_augment == "none" else augmentation.rand_augment,
        min_area=augmentation.min_crop_area,
        horizontal_flip=augmentation.horizontal_flip,
        random_erasing=augmentation.random_erasing,
    )
    repeats = augmentation.repeated_augmentation
    clips = TrainingClips(train, labels, sampling, model.config.num_frames, transform, repeats, args.seed, unreadable)
    mixing = ClipMixing(model.config.num_labels, augmentation.mixup, augmentation.cutmix, augmentation.label_smoothing)

    trainer = VideoMambaTrainer(
        model=model,
        args=args,
        train_dataset=clips,
        eval_dataset=EvaluationViews(validation, validation_labels, sampling, processor, unreadable),
        data_collator=ClipCollator(None if is_regression else mixing),
        compute_metrics=for_trainer(metrics_of(model_args.problem_type)),
        processing_class=processor,
    )
    if len(clips) * repeats < trainer.clips_per_step:
        raise ValueError(
            f"{len(clips)} videos are too few for a step of {trainer.clips_per_step // repeats}: train in smaller ones."
        )
    set_seed(args.seed + args.process_index)  # drop path differs between processes
    if args.early_stopping_patience:
        trainer.add_callback(EarlyStoppingCallback(args.early_stopping_patience))
    if trainer.is_world_process_zero():
        print(f"{len(train)} videos to train on, {len(validation)} to validate on, {model.config.num_labels} label(s)")
        print(f"{trainer.clips_per_step} clips a step, peak learning rate {trainer.scaled(args.learning_rate):.3g}")

    checkpoint = args.resume_from_checkpoint or last_complete_checkpoint(args.output_dir)
    if checkpoint and trainer.is_world_process_zero():
        print(f"going on from {checkpoint}")
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    metrics = trainer.evaluate()
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)
    if trainer.is_world_process_zero():
        num_videos = len(train), len(validation)
        card = finetuning_card(
            model.config, model_args, data_args, augmentation, args, trainer.clips_per_step, num_videos, metrics
        )
        (output_dir / "README.md").write_text(card, encoding="utf-8")
        if is_held_out:
            print(f"the videos that were held out are listed in {output_dir / 'validation.csv'}, for evaluation")
        if names := unreadable.names():
            print(f"{len(names)} video(s) could not be read and were skipped, see {unreadable.file}")
    if args.push_to_hub:
        trainer.push_to_hub()


if __name__ == "__main__":
    main()
