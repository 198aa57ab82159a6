"""The model to start from, with the head that the data needs."""

import json
import os
from pathlib import Path

import torch
from datasets import Dataset
from huggingface_hub import constants

from conversion.converter import convert_released, save
from conversion.labels import load_labels
from conversion.model_card import released_model_card
from conversion.released import ALIASES, find_released, load_released
from modeling_videomamba import VideoMambaConfig, VideoMambaForVideoClassification

from .arguments import ModelArguments
from .video_lists import label_names


def locate(model: str) -> str:
    """A directory or hub repository as it is; a released checkpoint's id becomes the directory of its conversion."""
    if os.path.isdir(model) or model not in {*load_released(), *ALIASES}:
        return model
    checkpoint = find_released(model)
    directory = Path(constants.HF_HOME) / "videomamba" / checkpoint.id
    if not directory.exists():
        converted, _, _ = convert_released(checkpoint)
        save(converted, directory, released_model_card(checkpoint))
    return str(directory)


def labels_of(videos: Dataset, labels_file: str | None, num_labels: int | None) -> list[str] | None:
    """Names of the classes by id, from the data or a file; `None` if there are only numbers.

    Raises:
        ValueError: if the data names another number of labels than `num_labels`.
    """
    names = label_names(videos)
    if names is None and labels_file is not None:
        by_id = load_labels(labels_file, num_labels)
        names = [by_id[i] for i in range(len(by_id))]
    if names is not None and num_labels not in (None, len(names)):
        raise ValueError(f"--num_labels {num_labels}, but the data has {len(names)} labels: {', '.join(names[:5])}, ...")
    return names


def start_model(args: ModelArguments, videos: Dataset, labels_file: str | None = None) -> VideoMambaForVideoClassification:
    """The classifier that training starts from.

    The parent's head is kept if it has the same labels (in whatever order the data names them), or, where the data has bare
    numbers, as many; else a new one is made. Position embeddings are interpolated to the wanted clip.
    """
    if (args.model is None) == (args.model_config is None):
        raise ValueError("Give either --model, what to start from, or --model_config, to start from scratch.")
    parent = locate(args.model) if args.model else None
    config = VideoMambaConfig.from_pretrained(parent) if parent else VideoMambaConfig(**json.loads(args.model_config))
    overrides = {"problem_type": args.problem_type}
    if args.drop_path_rate is not None:
        overrides["drop_path_rate"] = args.drop_path_rate

    if args.problem_type == "regression":
        keeps_head = config.num_labels == 1
        overrides |= {} if keeps_head else {"num_labels": 1}
    else:
        if any(isinstance(label, float) for label in videos["label"]):
            raise ValueError("The labels are values, no classes: --problem_type regression learns to predict them.")
        names = labels_of(videos, labels_file, args.num_labels)
        num_labels = len(names) if names else args.num_labels or max(videos["label"]) + 1
        own_names = [config.id2label[i] for i in range(config.num_labels)]
        keeps_head = config.num_labels == num_labels and (
            names is None or names == own_names or (label_names(videos) is not None and set(names) == set(own_names))
        )
        if not keeps_head:
            names = names or [f"LABEL_{i}" for i in range(num_labels)]
            overrides |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}

    if parent is None:
        sizes = {"num_frames": args.num_frames, "image_size": args.image_size}
        overrides |= {name: size for name, size in sizes.items() if size is not None}
        return VideoMambaForVideoClassification(VideoMambaConfig(**(json.loads(args.model_config) | overrides)))
    if config.num_frames is None:
        if args.num_frames is None:
            raise ValueError(f"{args.model} is a model of images: say how many frames its clips have, with --num_frames.")
        overrides["num_frames"] = args.num_frames
    model = VideoMambaForVideoClassification.from_pretrained(
        parent, dtype=torch.float32, ignore_mismatched_sizes=not keeps_head, **overrides
    )
    if not keeps_head:  # of the same size, the parent's was loaded
        torch.nn.init.trunc_normal_(model.classifier.weight, std=config.initializer_range)
        torch.nn.init.zeros_(model.classifier.bias)
    model.resize_position_embeddings(args.image_size, args.num_frames)
    model.config.label2id = {name: i for i, name in model.config.id2label.items()}  # a config may have one without the other
    return model
