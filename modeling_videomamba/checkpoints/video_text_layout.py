"""The layout of official video-text checkpoints: VideoMamba beside BERT, and the CLIP teacher of their training.

Source: OpenGVLab/VideoMamba, `video_mm/models/umt_videomamba.py` and `video_mm/tasks/shared_utils.py`. The names inside the
video side are those of masked pretraining, see `official_layout`.
"""

import re
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from .. import VideoMambaVideoTextConfig
from .checkpoint_file import CheckpointError
from .official_layout import (
    PRETRAINING_RENAMES,
    count_blocks,
    infer_config,
    rename,
)


VISION = "vision_encoder."
BERT_IN_PRETRAINING, BERT = "text_encoder.bert.", "text_encoder."

# (official name, ours), beside those of the two sides
HEAD_RENAMES = [
    ("vision_encoder.pool_norm.{p}", "video_pooler.norm.{p}"),
    ("vision_proj.{p}", "video_projection.{p}"),
    ("text_proj.{p}", "text_projection.{p}"),
    ("itm_head.{p}", "matching_head.{p}"),
    ("temp", "temperature"),
]
VISION_RENAMES = [
    (VISION + official, ours.replace("videomamba.", "vision_model.", 1)) for official, ours in PRETRAINING_RENAMES
]

# BERT's names are transformers' own. {rest} is any.
PRETRAINED_TEXT_RENAMES = [
    ("text_encoder.bert.{rest}", "text_model.{rest}"),
    ("text_encoder.cls.{rest}", "masked_language_head.{rest}"),
]
RETRIEVAL_TEXT_RENAMES = [("text_encoder.{rest}", "text_model.{rest}")]

# The teacher, which nothing needs afterwards, and a constant that transformers no longer stores.
LEFT_OUT = re.compile(r"clip_teacher\.|text_encoder\.(bert\.)?embeddings\.position_ids$")
ALIGNMENT = re.compile(r"vision_encoder\.clip_decoder\.")

# What --set may say beside the fields of VideoMambaConfig.
SETTABLE = {"pooling", "num_attention_heads"}


def is_video_text(tensors: dict[str, Tensor]) -> bool:
    """Whether official tensors are those of a video-text model."""
    return "text_proj.weight" in tensors and f"{VISION}cls_token" in tensors


def is_pretrained(tensors: dict[str, Tensor]) -> bool:
    """Whether official video-text tensors are those of pretraining, with the head that guesses words."""
    return any(name.startswith("text_encoder.cls.") for name in tensors)


def infer_video_text_config(tensors: dict[str, Tensor], overrides: dict[str, Any]) -> VideoMambaVideoTextConfig:
    """The configuration of a checkpoint, read off its tensors.

    `overrides`: fields of the video side that no tensor tells, see [`infer_config`]; `pooling`; and `num_attention_heads` of
    BERT, if they are not 64 wide.

    Raises:
        CheckpointError: if the tensors are not those of such a model, or an override contradicts them.
    """
    ours = {name: overrides[name] for name in SETTABLE & overrides.keys()}
    vision = {name.removeprefix(VISION): tensor for name, tensor in tensors.items() if name.startswith(VISION)}
    vision_config = infer_config(vision, {name: value for name, value in overrides.items() if name not in ours})
    prefix = BERT_IN_PRETRAINING if is_pretrained(tensors) else BERT
    bert = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    needed = [
        "embeddings.word_embeddings.weight",
        "embeddings.position_embeddings.weight",
        "embeddings.token_type_embeddings.weight",
        "encoder.layer.0.intermediate.dense.weight",
    ]
    if missing := [prefix + name for name in needed if name not in bert]:
        raise CheckpointError(f"Not a video-text checkpoint: it lacks {', '.join(missing)}.")
    for name in (*(prefix + name for name in needed), "text_proj.weight"):
        if tensors[name].ndim != 2:
            raise CheckpointError(f"Not a video-text checkpoint: {name} has shape {tuple(tensors[name].shape)}.")
    vocab_size, hidden_size = bert["embeddings.word_embeddings.weight"].shape
    num_layers = count_blocks(bert, "encoder.layer.")
    fusion_layers = {i for i in range(num_layers) for name in bert if name.startswith(f"encoder.layer.{i}.crossattention.")}
    if fusion_layers != set(range(num_layers - len(fusion_layers), num_layers)):
        raise CheckpointError(f"The layers that attend to a video must be the last ones, got {sorted(fusion_layers)}.")
    text_config = {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": ours.pop("num_attention_heads", max(hidden_size // 64, 1)),
        "intermediate_size": bert["encoder.layer.0.intermediate.dense.weight"].shape[0],
        "max_position_embeddings": bert["embeddings.position_embeddings.weight"].shape[0],
        "type_vocab_size": bert["embeddings.token_type_embeddings.weight"].shape[0],
    }
    try:
        return VideoMambaVideoTextConfig(
            vision_config=vision_config,
            text_config=text_config,
            num_fusion_layers=len(fusion_layers),
            projection_dim=tensors["text_proj.weight"].shape[0],
            **ours,
        )
    except (StrictDataclassError, TypeError) as error:
        what = f"--set {overrides}" if overrides else "The tensors do not fit together"
        raise CheckpointError(f"{what}: {error}") from error


def video_text_to_ours(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors by our names, and the names left out: the teacher's, and without the language head the alignment's, too.

    Raises:
        CheckpointError: for a name that no such model has.
    """
    pretrained = is_pretrained(tensors)
    left_out = [name for name in tensors if LEFT_OUT.match(name) or (not pretrained and ALIGNMENT.match(name))]
    kept = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    return rename(kept, _renames(pretrained)), left_out


def video_text_to_official(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of [`video_text_to_ours`], for the state dict of either of our models."""
    pretrained = any(name.startswith("masked_language_head.") for name in tensors)
    return rename(tensors, [(ours, official) for official, ours in _renames(pretrained)])


def _renames(pretrained: bool) -> list[tuple[str, str]]:
    return VISION_RENAMES + HEAD_RENAMES + (PRETRAINED_TEXT_RENAMES if pretrained else RETRIEVAL_TEXT_RENAMES)
