"""What all scripts that train classifiers do before training: data, model and metrics, and what can be wrong with them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from transformers import BaseImageProcessor

from conversion.converter import processor_for
from modeling_videomamba import (
    VideoMambaForImageClassification,
    VideoMambaForVideoClassification,
    VideoMambaVideoProcessor,
)

from .arguments import AugmentationArguments, DataArguments, ModelArguments, VideoMambaTrainingArguments
from .augmentation import training_transform
from .clips import ClipCollator, EvaluationViews, TrainingClips, UnreadableFiles, require_readable
from .frame_sampling import FRAME_SAMPLINGS
from .images import ImageTrainingTransform
from .media_files import Media
from .media_lists import cut_into_windows, label_ids, label_values, load_splits, write_list
from .metrics import as_compute_metrics, metrics_of
from .mixing import ClipMixing
from .models import start_classifier
from .outputs import hold
from .settings import compare_settings, settings_of


@dataclass
class Classification:
    """What a run starts from: the model, what else its [`VideoMambaTrainer`] takes, and what it must not be continued as."""

    model: VideoMambaForVideoClassification | VideoMambaForImageClassification
    for_trainer: dict
    unreadable: UnreadableFiles
    settings: dict


def prepare_classification(
    media: Media,
    model_args: ModelArguments,
    data_args: DataArguments,
    augmentation: AugmentationArguments,
    args: VideoMambaTrainingArguments,
    *others: object,
) -> Classification:
    """Reads lists and the model; writes down which files were held out. `others` are further arguments of the script.

    Raises:
        FileNotFoundError, ValueError: for all that can be wrong before the first step.
    """
    source = data_args.data, data_args.media_root, data_args.data_config
    train, validation, is_held_out = load_splits(*source, args.validation_fraction, args.seed, media)
    if validation is None:
        raise ValueError(f"{data_args.data} has no {media}s to validate on, and --validation_fraction 0 holds none out.")
    output_dir = Path(args.output_dir)
    unreadable = UnreadableFiles(output_dir / "unreadable_files.txt", data_args.strict)
    with args.main_process_first(desc="the model to start from"):
        model = start_classifier(model_args, train, data_args.labels, media)
        output_dir.mkdir(parents=True, exist_ok=True)
        settings = settings_of(model_args, data_args, augmentation, args, *others)
        compare_settings(output_dir / "settings.json", settings)
        if args.process_index == 0:
            hold(output_dir)
            unreadable.file.unlink(missing_ok=True)
            if is_held_out:
                write_list(validation, output_dir / "validation.csv")
                print(f"what is held out for validation is listed in {output_dir / 'validation.csv'}")
    if data_args.window_seconds:
        window = data_args.window_seconds, data_args.window_stride
        train, validation = cut_into_windows(train, *window), cut_into_windows(validation, *window)
    is_regression = model_args.problem_type == "regression"
    if is_regression and args.metric_for_best_model == "accuracy":
        args.metric_for_best_model, args.greater_is_better = "mse", False
    if is_regression:
        labels, validation_labels = label_values(train, "train"), label_values(validation, "validation")
    else:
        labels = label_ids(train, model.config.id2label, "train")
        validation_labels = label_ids(validation, model.config.id2label, "validation")
    require_readable(train, "training", unreadable)
    require_readable(validation, "validation", unreadable)

    sampling = FRAME_SAMPLINGS[data_args.frame_sampling]
    processor = processor_for(model.config)
    transform = transform_of(media, augmentation, model.config.image_size, processor)
    repeats = augmentation.repeated_augmentation if media == "video" else 1
    num_frames = model.config.num_frames or 1
    mixing = ClipMixing(model.config.num_labels, augmentation.mixup, augmentation.cutmix, augmentation.label_smoothing)
    for_trainer = {
        "args": args,
        "train_dataset": TrainingClips(train, labels, sampling, num_frames, transform, repeats, args.seed, unreadable),
        "eval_dataset": EvaluationViews(validation, validation_labels, sampling, processor, unreadable),
        "data_collator": ClipCollator(None if is_regression else mixing),
        "compute_metrics": as_compute_metrics(metrics_of(model_args.problem_type)),
        "processing_class": processor,
        "image_copies": augmentation.repeated_augmentation if media == "image" else 1,
    }
    return Classification(model, for_trainer, unreadable, settings)


def transform_of(
    media: Media, augmentation: AugmentationArguments, size: int, processor: VideoMambaVideoProcessor | BaseImageProcessor
) -> Callable[[Tensor], Tensor]:
    """The training transform of clips or images, from uint8 frames `(frames, 3, height, width)`."""
    auto_augment = None if augmentation.auto_augment == "none" else augmentation.auto_augment
    options = (auto_augment, augmentation.min_crop_area, augmentation.horizontal_flip, augmentation.random_erasing)
    if media == "image":
        return ImageTrainingTransform(size, *options)
    return training_transform(size, processor.image_mean, processor.image_std, *options)
