"""The model to start from, with the head that the data or the teacher needs."""

import json

import torch
from datasets import Dataset

from .. import (
    VideoMambaConfig,
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaForVideoClassification,
    VideoMambaPreTrainedModel,
)
from ..checkpoints.by_name import locate
from ..checkpoints.labels import load_labels
from ..closest_names import did_you_mean
from ..data.label_sets import label_set_names, num_label_sets
from ..data.media_files import Media
from ..data.media_lists import count_classes, label_names
from .arguments import AlignmentArguments, BackboneArguments, ModelArguments


SIZES = ("tiny", "small", "middle", "base")
MOST_LAYERS = 1000


def labels_of(
    files: Dataset, labels_file: str | None, num_labels: int | None, problem_type: str | None = None
) -> list[str] | None:
    """Names of the classes by id, from the data or a file; `None` if there are only numbers.

    Raises:
        ValueError: if the data names another number of labels than `num_labels`.
    """
    names = label_set_names(files) if problem_type == "multi_label_classification" else label_names(files)
    if names is None and labels_file is not None:
        by_id = load_labels(labels_file, num_labels)
        names = [by_id[i] for i in range(len(by_id))]
    if names is not None and num_labels not in (None, len(names)):
        raise ValueError(f"--num_labels {num_labels}, but the data has {len(names)} labels: {', '.join(names[:5])}, ...")
    return names


def start_classifier(
    args: ModelArguments, files: Dataset, labels_file: str | None = None, media: Media = "video"
) -> VideoMambaForVideoClassification | VideoMambaForImageClassification:
    """The classifier of videos or images that training starts from.

    The parent's head is kept if it has the same labels (in whatever order the data names them), or, where the data has bare
    numbers, as many; else a new one is made. Position embeddings are interpolated to the wanted size.
    """
    if args.freeze_backbone and args.drop_path_rate is not None:
        raise ValueError("--drop_path_rate has no effect on a frozen backbone.")
    _check_labels(files, args.problem_type)
    parent, config = parent_of(args)
    overrides = {"problem_type": args.problem_type}
    if args.problem_type == "regression":
        keeps_head = config.num_labels == 1
        overrides |= {} if keeps_head else {"num_labels": 1}
    else:
        has_several = args.problem_type == "multi_label_classification"
        names = labels_of(files, None, args.num_labels, args.problem_type)
        in_any_order = names is not None
        names = names or labels_of(files, labels_file, args.num_labels, args.problem_type)
        count = num_label_sets if has_several else count_classes
        num_labels = len(names) if names else count(files, args.num_labels)
        own_names = [config.id2label[i] for i in range(config.num_labels)]
        keeps_head = config.num_labels == num_labels and (
            names is None or names == own_names or (in_any_order and set(names) == set(own_names))
        )
        if not keeps_head:
            names = names or [f"LABEL_{i}" for i in range(num_labels)]
            overrides |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}

    model_class = VideoMambaForVideoClassification if media == "video" else VideoMambaForImageClassification
    model = _start(model_class, args, parent, config, overrides, ignore_mismatched_sizes=not keeps_head)
    if parent is not None and not keeps_head:  # of the same size, the parent's was loaded
        torch.nn.init.trunc_normal_(model.classifier.weight, std=config.initializer_range)
        torch.nn.init.zeros_(model.classifier.bias)
    model.config.label2id = {name: i for i, name in model.config.id2label.items()}  # a config may have one without the other
    model.base_model.requires_grad_(not args.freeze_backbone)
    return model


def _check_labels(files: Dataset, problem_type: str) -> None:
    if problem_type == "multi_label_classification":
        return
    label_names(files)  # raises if there are several
    if problem_type != "regression" and any(isinstance(label, float) for label in files["label"]):
        raise ValueError("The labels are values, not classes: --problem_type regression learns to predict them.")


def start_pretraining_model(
    args: BackboneArguments, alignment: AlignmentArguments, teacher_width: int
) -> VideoMambaForPreTraining:
    """The model that masked pretraining starts from: a new one, or any trained before, of videos or of images."""
    parent, config = parent_of(args)
    overrides = {
        "num_aligned_layers": alignment.num_aligned_layers,
        "aligned_layer_interval": alignment.aligned_layer_interval,
        "alignment_size": teacher_width,
        "alignment_tap": alignment.alignment_tap,
        "normalize_alignment": alignment.normalize_alignment,
        "alignment_loss": alignment.alignment_loss,
    }
    return _start(VideoMambaForPreTraining, args, parent, config, overrides, ignore_mismatched_sizes=True)


def parent_of(args: BackboneArguments) -> tuple[str | None, VideoMambaConfig]:
    """The directory or repository that training starts from, `None` for random weights, and its configuration."""
    if (args.model is None) == (args.model_config is None):
        raise ValueError("Give either --model, what to start from, or --model_config, to start from scratch.")
    if args.model is None:
        return None, VideoMambaConfig(**config_fields(args.model_config))
    parent = locate(args.model)
    return parent, VideoMambaConfig.from_pretrained(parent)


def config_fields(model_config: str) -> dict:
    """The fields of a [`VideoMambaConfig`] that `--model_config` says: those of a size, or JSON.

    Raises:
        ValueError: if it is neither, or names a field that there is not.
    """
    if model_config in SIZES:
        return getattr(VideoMambaConfig, model_config)().to_diff_dict()
    try:
        fields = json.loads(model_config)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"--model_config is a size ({', '.join(SIZES)}) or JSON such as '{{\"hidden_size\": 192}}', got {model_config!r}"
            f"{f': {error}' if '{' in model_config else f'.{did_you_mean(model_config, SIZES)}'}"
        ) from error
    if not isinstance(fields, dict):
        raise ValueError(f"--model_config: expected fields of a VideoMambaConfig and their values, got {model_config}.")
    try:
        VideoMambaConfig.check_names(fields)
    except ValueError as error:
        raise ValueError(f"--model_config: {error}") from None
    layers = fields.get("num_hidden_layers", 0)
    if isinstance(layers, int) and layers > MOST_LAYERS:
        raise ValueError(f"--model_config: num_hidden_layers must be at most {MOST_LAYERS:,}, got {layers:,}.")
    return fields


def _start(
    model_class: type[VideoMambaPreTrainedModel],
    args: BackboneArguments,
    parent: str | None,
    config: VideoMambaConfig,
    overrides: dict,
    ignore_mismatched_sizes: bool,
) -> VideoMambaPreTrainedModel:
    if args.drop_path_rate is not None:
        overrides["drop_path_rate"] = args.drop_path_rate
    is_image = model_class is VideoMambaForImageClassification
    if is_image and args.num_frames is not None:
        raise ValueError(f"--num_frames {args.num_frames}, but the data are images.")
    if parent is None:
        sizes = {"num_frames": args.num_frames, "image_size": args.image_size}
        overrides |= {name: size for name, size in sizes.items() if size is not None}
        overrides |= {"num_frames": None} if is_image else {}
        return model_class(VideoMambaConfig(**(config_fields(args.model_config) | overrides)))
    if is_image and config.num_frames is not None:
        raise ValueError(f"{args.model} is a model of videos, but the data are images.")
    if not is_image and config.num_frames is None:
        if args.num_frames is None:
            raise ValueError(f"{args.model} is a model of images: say how many frames its clips have, with --num_frames.")
        overrides["num_frames"] = args.num_frames
    options = {"dtype": torch.float32, "ignore_mismatched_sizes": ignore_mismatched_sizes}
    model = model_class.from_pretrained(parent, **options, **overrides)
    model.resize_position_embeddings(args.image_size, args.num_frames)
    return model
