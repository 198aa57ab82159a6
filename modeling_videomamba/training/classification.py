"""The training of a classifier or regressor, put together from arguments: data, model, loss and metrics.

It is shared by what trains classifiers, of videos or of images, with a teacher or without one. What can be wrong with data and
model is said here, before the first step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from transformers import BaseImageProcessor

from .. import (
    VideoMambaForImageClassification,
    VideoMambaForVideoClassification,
    VideoMambaVideoProcessor,
)
from ..checkpoints.default_processor import processor_for
from ..closest_names import did_you_mean
from ..data.augmentation import training_transform
from ..data.clips import ClipCollator, EvaluationViews, TrainingClips, UnreadableFiles, require_readable
from ..data.frame_sampling import FRAME_SAMPLINGS
from ..data.images import ImageTrainingTransform
from ..data.label_sets import label_vectors
from ..data.media_files import Media
from ..data.media_lists import label_ids, label_values, load_splits, write_list
from ..data.mixing import ClipMixing
from ..data.outputs import hold
from ..data.settings import compare_settings
from ..data.sides import names_with_sides
from ..data.windows import cut_into_windows
from .arguments import AugmentationArguments, DataArguments, ModelArguments, VideoMambaTrainingArguments
from .losses import ClassificationLoss, class_weights_of
from .metrics import METRIC_NAMES, as_compute_metrics
from .mirroring import decide_mirroring
from .models import start_classifier
from .settings import settings_of


@dataclass
class Classification:
    """What a run starts from: model, loss, what else its [`VideoMambaTrainer`] takes, and what it must not be continued as."""

    model: VideoMambaForVideoClassification | VideoMambaForImageClassification
    loss: ClassificationLoss
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
    """Reads lists and the model; writes down which files were held out. `others` are further arguments of the run.

    Raises:
        FileNotFoundError, ValueError: for all that can be wrong before the first step.
    """
    source = data_args.data, data_args.media_root, data_args.data_config
    has_several = model_args.problem_type == "multi_label_classification"
    train, validation, is_held_out = load_splits(*source, args.validation_fraction, args.seed, media, by_class=not has_several)
    if validation is None:
        raise ValueError(f"{data_args.data} has no {media}s to validate on, and --validation_fraction 0 holds none out.")
    output_dir = Path(args.output_dir)
    unreadable = UnreadableFiles(output_dir / "unreadable_files.txt", data_args.strict)
    is_main = args.process_index == 0
    with args.main_process_first(desc="the model to start from"):
        model = start_classifier(model_args, train, data_args.labels, media)
        choose_mirroring(augmentation, list(model.config.label2id), model_args.problem_type, is_main)
        output_dir.mkdir(parents=True, exist_ok=True)
        settings = settings_of(model_args, data_args, augmentation, args, *others)
        compare_settings(output_dir / "settings.json", settings)
        if is_main:
            hold(output_dir)
            unreadable.file.unlink(missing_ok=True)
            if is_held_out:
                write_list(validation, output_dir / "validation.csv")
                print(f"what is held out for validation is listed in {output_dir / 'validation.csv'}")
    if data_args.window_seconds:
        window = data_args.window_seconds, data_args.window_stride
        train, validation = cut_into_windows(train, *window), cut_into_windows(validation, *window)
    is_regression = model_args.problem_type == "regression"
    choose_best_metric(args, model_args.problem_type)
    if is_regression:
        labels, validation_labels = label_values(train, "train"), label_values(validation, "validation")
    elif has_several:
        labels = label_vectors(train, model.config.id2label, "train")
        validation_labels = label_vectors(validation, model.config.id2label, "validation")
    else:
        labels = label_ids(train, model.config.id2label, "train")
        validation_labels = label_ids(validation, model.config.id2label, "validation")
    names = [model.config.id2label[i] for i in range(model.config.num_labels)]
    loss = ClassificationLoss(
        model_args.problem_type, class_weights_of(model_args.class_weights, labels, names, model_args.problem_type)
    )
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
        "compute_metrics": as_compute_metrics(model_args.problem_type),
        "processing_class": processor,
        "image_copies": augmentation.repeated_augmentation if media == "image" else 1,
    }
    return Classification(model, loss, for_trainer, unreadable, settings)


def choose_best_metric(args: VideoMambaTrainingArguments, problem_type: str) -> None:
    """Puts the problem's own in place of accuracy, where there is none."""
    metrics = METRIC_NAMES[problem_type]
    if args.metric_for_best_model == "accuracy" != metrics[0]:
        args.metric_for_best_model, args.greater_is_better = metrics[0], problem_type != "regression"
    name = (args.metric_for_best_model or "loss").removeprefix("eval_")
    if name not in (*metrics, "loss"):
        raise ValueError(
            f"--metric_for_best_model {name}: there is {', '.join(metrics)} and loss.{did_you_mean(name, metrics)}"
        )


def choose_mirroring(augmentation: AugmentationArguments, names: list[str], problem_type: str, speaks: bool) -> None:
    """Decides `horizontal_flip` where nobody has: clips are mirrored unless the classes' names tell left from right."""
    sides = [] if problem_type == "regression" else names_with_sides(names)
    augmentation.horizontal_flip = decide_mirroring(augmentation.horizontal_flip, sides, "classes", speaks)


def transform_of(
    media: Media, augmentation: AugmentationArguments, size: int, processor: VideoMambaVideoProcessor | BaseImageProcessor
) -> Callable[[Tensor], Tensor]:
    """The training transform of clips or images, from uint8 frames `(frames, 3, height, width)`."""
    auto_augment = None if augmentation.auto_augment == "none" else augmentation.auto_augment
    options = (auto_augment, augmentation.min_crop_area, augmentation.horizontal_flip, augmentation.random_erasing)
    try:
        if media == "image":
            return ImageTrainingTransform(size, *options)
        return training_transform(size, processor.image_mean, processor.image_std, *options)
    except (AssertionError, LookupError, ValueError) as error:  # what timm says of a policy that it does not know
        raise ValueError(
            f"--auto_augment {auto_augment} is not a policy of timm, such as rand-m9-mstd0.5-inc1 or v0."
        ) from error
