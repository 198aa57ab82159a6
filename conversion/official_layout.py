"""The layout of official VideoMamba checkpoints: reading a file, telling the architecture from its tensors, renaming them.

Official names live in this folder only. Source: OpenGVLab/VideoMamba, `video_sm/models/videomamba.py`,
`image_sm/models/videomamba.py`, and `video_sm/run_class_finetuning.py` for what its loader does to a file.
"""

import argparse
import math
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from torch import Tensor

from modeling_videomamba import VideoMambaConfig


# (official name, ours), in the order of the model. {i} is an index, {p} weight or bias; `_b` marks the backward direction.
RENAMES = [
    ("cls_token", "videomamba.embeddings.cls_token"),
    ("pos_embed", "videomamba.embeddings.position_embeddings"),
    ("temporal_pos_embedding", "videomamba.embeddings.temporal_position_embeddings"),
    ("patch_embed.proj.{p}", "videomamba.embeddings.patch_embeddings.projection.{p}"),
    ("layers.{i}.norm.{p}", "videomamba.layers.{i}.norm.{p}"),
    ("layers.{i}.mixer.{outer}.{p}", "videomamba.layers.{i}.mixer.{outer}.{p}"),
    ("layers.{i}.mixer.A_log", "videomamba.layers.{i}.mixer.forward_scan.A_log"),
    ("layers.{i}.mixer.D", "videomamba.layers.{i}.mixer.forward_scan.D"),
    ("layers.{i}.mixer.{inner}.{p}", "videomamba.layers.{i}.mixer.forward_scan.{inner}.{p}"),
    ("layers.{i}.mixer.A_b_log", "videomamba.layers.{i}.mixer.backward_scan.A_log"),
    ("layers.{i}.mixer.D_b", "videomamba.layers.{i}.mixer.backward_scan.D"),
    ("layers.{i}.mixer.{inner}_b.{p}", "videomamba.layers.{i}.mixer.backward_scan.{inner}.{p}"),
    ("norm_f.{p}", "videomamba.norm.{p}"),
    ("head.{p}", "classifier.{p}"),
]

# Masked pretraining calls the final norm by another name, and has heads that predict the teacher's features.
PRETRAINING_RENAMES = [
    *(pair for pair in RENAMES if pair[0] not in ("norm_f.{p}", "head.{p}")),
    ("norm.{p}", "videomamba.norm.{p}"),
    ("clip_decoder.{i}.head.{p}", "alignment_heads.{i}.dense.{p}"),
    ("clip_decoder.{i}.norm.{p}", "alignment_heads.{i}.norm.{p}"),
]

PLACEHOLDERS = {"i": r"\d+", "p": "weight|bias", "rest": r".+", "outer": "in_proj|out_proj", "inner": "conv1d|x_proj|dt_proj"}

# Heads of a training: of self-distillation, deleted by the reference before anything else, and the norm behind the pooling of
# a video-text model's video side, where this side is alone.
TRAINING_ONLY = re.compile(r"distill_head\.|pool_norm\.")

# What --set may say: VideoMambaConfig's own fields, and what a head is for.
SETTABLE = {*VideoMambaConfig.__annotations__, "num_labels", "problem_type"}


class CheckpointError(ValueError):
    """A file that is not what it should be; the message names the offending key or value."""


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Tensors of an official checkpoint by official name.

    Takes `.safetensors`, or a `.pth` that holds a bare state dict, one under "model" or "module", or a whole training loop.
    Nothing in a `.pth` is executed: only tensors, containers and the `argparse.Namespace` that the official training loop
    stores are unpickled. Prefixes `backbone.` and `encoder.` are stripped.

    Raises:
        CheckpointError: if the file is no checkpoint, or would execute code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"No such checkpoint file: {path}")
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        reason = str(error).split("WeightsUnpickler error:")[-1].strip().splitlines()[0]
        raise CheckpointError(f"Refused to load {path}: it holds more than tensors ({reason}). Nothing was run.") from error
    except Exception as error:  # safetensors, zip and torch raise errors of their own for a damaged file
        raise CheckpointError(f"{path} is no readable checkpoint ({type(error).__name__}: {error})") from error
    if isinstance(content, dict):
        content = content.get("model", content.get("module", content))
    if not isinstance(content, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        raise CheckpointError(f"{path} holds no state dict, neither at the top nor under 'model' or 'module'.")
    return {re.sub(r"^(backbone|encoder)\.", "", name): tensor for name, tensor in content.items()}


def infer_config(tensors: dict[str, Tensor], overrides: dict[str, Any]) -> VideoMambaConfig:
    """The configuration of a checkpoint, read off its tensors.

    `overrides` gives the fields that no tensor tells, by the names of [`VideoMambaConfig`]: a non-square `image_size`, a
    `patch_stride` smaller than the patch, `layer_norm_eps`, `drop_path_rate`, `aligned_layer_interval`.

    Raises:
        CheckpointError: if these are not the tensors of a VideoMamba model, or an override contradicts them.
    """
    dimensions = {"cls_token": (3,), "pos_embed": (3,), "patch_embed.proj.weight": (4, 5), "layers.0.norm.weight": (1,)}
    dimensions |= {"layers.0.mixer.A_log": (2,), "layers.0.mixer.conv1d.weight": (3,), "layers.0.mixer.dt_proj.weight": (2,)}
    if missing := [name for name in dimensions if name not in tensors]:
        raise CheckpointError(f"Not a VideoMamba checkpoint: it lacks {', '.join(missing)}.")
    for name, allowed in (dimensions | {"head.weight": (2,), "temporal_pos_embedding": (3,)}).items():
        if name in tensors and tensors[name].ndim not in allowed:
            raise CheckpointError(f"Not a VideoMamba checkpoint: {name} has shape {tuple(tensors[name].shape)}.")
    blocks = [int(match[1]) for name in tensors if (match := re.match(r"layers\.(\d+)\.", name))]
    mixer = {name.removeprefix("layers.0.mixer."): x for name, x in tensors.items() if name.startswith("layers.0.mixer.")}
    patches = tensors["patch_embed.proj.weight"]  # (hidden, channels, [tubelet,] patch, patch)
    hidden_size = patches.shape[0]
    intermediate_size, state_size = mixer["A_log"].shape
    read = {
        "hidden_size": hidden_size,
        "num_hidden_layers": 1 + max(blocks),
        "num_channels": patches.shape[1],
        "patch_size": patches.shape[-1],
        "tubelet_size": patches.shape[2] if patches.ndim == 5 else 1,
        "num_frames": None,
        "state_size": state_size,
        "expand": intermediate_size // hidden_size,
        "conv_kernel": mixer["conv1d.weight"].shape[-1],
        "time_step_rank": mixer["dt_proj.weight"].shape[1],
        "bidirectional": "A_b_log" in mixer,
        "rms_norm": "layers.0.norm.bias" not in tensors,
        "use_bias": "in_proj.bias" in mixer,
        "use_conv_bias": "conv1d.bias" in mixer,
    }
    if patches.ndim == 5:
        if "temporal_pos_embedding" not in tensors:
            raise CheckpointError("A video checkpoint (its patch kernel is 3-D) must have a temporal_pos_embedding.")
        read["num_frames"] = tensors["temporal_pos_embedding"].shape[1] * read["tubelet_size"]
    if "head.weight" in tensors:
        read["num_labels"] = tensors["head.weight"].shape[0]
    if is_pretraining(tensors):
        heads = [tensor for name, tensor in tensors.items() if re.fullmatch(r"clip_decoder\.\d+\.head\.weight", name)]
        if heads:
            read["num_aligned_layers"], read["alignment_size"] = len(heads), heads[0].shape[0]
    for name, value in overrides.items():
        if name not in SETTABLE:
            raise CheckpointError(f"--set {name}: no field of VideoMambaConfig that one can set.")
        if name in read and read[name] != value:
            raise CheckpointError(f"--set {name}={value} contradicts the checkpoint, whose tensors say {read[name]}.")

    num_patches = tensors["pos_embed"].shape[1] - 1
    stride = overrides.get("patch_stride") or read["patch_size"]
    read["image_size"] = (math.isqrt(num_patches) - 1) * stride + read["patch_size"] if isinstance(stride, int) else None
    try:
        config = VideoMambaConfig(**(read | overrides))
    except (StrictDataclassError, TypeError) as error:
        raise CheckpointError(f"--set {overrides}: {error}") from error
    rows, columns = config.grid_size
    if rows * columns != num_patches:
        raise CheckpointError(
            f"pos_embed holds {num_patches} patches, image_size {config.image_size} makes {rows} x {columns}: give the size "
            "that the model was trained at, e.g. --set 'image_size=[224,320]'."
        )
    return config


def is_pretraining(tensors: dict[str, Tensor]) -> bool:
    """Whether official tensors are those of masked pretraining."""
    return "norm.weight" in tensors


def to_ours(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors by our names (a 2-D patch kernel as a 3-D one of depth 1), and the names left out as training-only.

    Raises:
        CheckpointError: for a name that no VideoMamba model has.
    """
    left_out = [name for name in tensors if TRAINING_ONLY.match(name)]
    kept = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    renamed = rename(kept, PRETRAINING_RENAMES if is_pretraining(tensors) else RENAMES)
    kernel = "videomamba.embeddings.patch_embeddings.projection.weight"
    if kernel in renamed and renamed[kernel].ndim == 4:
        renamed[kernel] = renamed[kernel].unsqueeze(2)  # (hidden, channels, 1, patch, patch)
    return renamed, left_out


def to_official(tensors: dict[str, Tensor], config: VideoMambaConfig) -> dict[str, Tensor]:
    """The inverse of [`to_ours`], for the state dict of any of our models."""
    if not any(name.startswith("videomamba.") for name in tensors):  # a bare model
        tensors = {f"videomamba.{name}": tensor for name, tensor in tensors.items()}
    pretraining = any(name.startswith("alignment_heads.") for name in tensors)
    renames = [(ours, official) for official, ours in (PRETRAINING_RENAMES if pretraining else RENAMES)]
    renamed = rename(tensors, renames)
    if config.num_frames is None:
        renamed["patch_embed.proj.weight"] = renamed["patch_embed.proj.weight"].squeeze(2)  # (hidden, channels, patch, patch)
    return renamed


def rename(tensors: dict[str, Tensor], renames: list[tuple[str, str]]) -> dict[str, Tensor]:
    """Tensors by new names: those of the first of the `(before, after)` patterns that fits.

    Raises:
        CheckpointError: for a name that no pattern fits, or two names that become one.
    """
    patterns = []
    for before, after in renames:
        pattern = re.escape(before).replace(r"\{", "{").replace(r"\}", "}")
        for placeholder, values in PLACEHOLDERS.items():
            pattern = pattern.replace(f"{{{placeholder}}}", f"(?P<{placeholder}>{values})")
        patterns.append((re.compile(pattern), after))
    renamed, unexpected = {}, []
    for name, tensor in tensors.items():
        matches = ((pattern.fullmatch(name), after) for pattern, after in patterns)
        found = next((after.format(**match.groupdict()) for match, after in matches if match), None)
        if found is None:
            unexpected.append(name)
        elif found in renamed:
            raise CheckpointError(f"{name} is there twice, under another name as well.")
        else:
            renamed[found] = tensor
    if unexpected:
        raise CheckpointError(f"Unexpected keys in the checkpoint: {', '.join(unexpected)}")
    return renamed


def check_against(expected: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    """Raises `CheckpointError` unless `tensors` has exactly the names and shapes of `expected`, both by official names."""
    problems = [f"missing {name}" for name in expected.keys() - tensors.keys()]
    problems += [f"unexpected {name}" for name in tensors.keys() - expected.keys()]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected.keys() & tensors.keys()
        if tensors[name].shape != expected[name].shape
    ]
    if problems:
        raise CheckpointError("The checkpoint does not fit the model: " + "; ".join(sorted(problems)))


def inflate(kernel: Tensor, tubelet_size: int, how: str) -> Tensor:
    """A 2-D patch kernel `(hidden, channels, 1, patch, patch)` as one that spans `tubelet_size` frames.

    `how`: "center" puts it on the middle frame and zeros elsewhere, as the reference does; "mean" spreads it evenly.
    """
    if how == "mean":
        return kernel.expand(-1, -1, tubelet_size, -1, -1) / tubelet_size
    inflated = kernel.new_zeros(*kernel.shape[:2], tubelet_size, *kernel.shape[3:])
    inflated[:, :, tubelet_size // 2] = kernel[:, :, 0]
    return inflated
