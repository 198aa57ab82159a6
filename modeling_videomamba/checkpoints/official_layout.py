"""The layout of official VideoMamba checkpoints: names, telling the architecture from the tensors, renaming them.

Official names live in this folder only. Source: OpenGVLab/VideoMamba, `video_sm/models/videomamba.py`,
`image_sm/models/videomamba.py`, and `video_sm/run_class_finetuning.py` for what its loader does to a file.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from .. import VideoMambaConfig
from .checkpoint_file import CheckpointError, CheckpointFile, read_file, some
from .relatives import NAMES, VIM, refuse_by_names


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

INDEX = "0|[1-9][0-9]{0,5}"
PLACEHOLDERS = {"i": INDEX, "p": "weight|bias", "rest": r".+", "outer": "in_proj|out_proj", "inner": "conv1d|x_proj|dt_proj"}

# Heads of a training: of self-distillation, deleted by the reference before anything else, and the norm behind the pooling of
# a video-text model's video side, where this side is alone.
TRAINING_ONLY = re.compile(r"distill_head\.|pool_norm\.")

# What --set may say: VideoMambaConfig's own fields, and what a head is for.
SETTABLE = {*VideoMambaConfig.__annotations__, "num_labels", "problem_type"}


# What wraps the names: of PyTorch's data parallelism and compilation, and of models that VideoMamba is a part of.
PREFIX = re.compile(r"((module|_orig_mod|model|backbone|encoder)\.)+")


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Tensors of an official checkpoint by official name, see [`read_official`]."""
    return read_official(path).tensors


def read_official(path: str | Path) -> CheckpointFile:
    """An official checkpoint, its tensors by official name: prefixes such as `backbone.` and `module.` are stripped.

    Raises:
        CheckpointError: see [`read_file`]; or if two tensors have one name without their prefixes.
    """
    file = read_file(path)
    tensors, before = {}, {}
    for name, tensor in file.tensors.items():
        stripped = PREFIX.sub("", name, count=1) if PREFIX.match(name) else name
        if stripped in tensors:
            raise CheckpointError(f"{path} holds {before[stripped]} and {name}, two tensors for one name: remove one of them.")
        tensors[stripped], before[stripped] = tensor, name
    return replace(file, tensors=tensors)


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
        refuse_by_names(tensors)
        raise CheckpointError(f"Not a VideoMamba checkpoint: it lacks {', '.join(missing)}. It has {some(list(tensors), 3)}.")
    for name, allowed in (dimensions | {"head.weight": (2,), "temporal_pos_embedding": (3,)}).items():
        if name in tensors and tensors[name].ndim not in allowed:
            raise CheckpointError(f"Not a VideoMamba checkpoint: {name} has shape {tuple(tensors[name].shape)}.")
    mixer = {name.removeprefix("layers.0.mixer."): x for name, x in tensors.items() if name.startswith("layers.0.mixer.")}
    patches = tensors["patch_embed.proj.weight"]  # (hidden, channels, [tubelet,] patch, patch)
    hidden_size = patches.shape[0]
    intermediate_size, state_size = mixer["A_log"].shape
    read = {
        "hidden_size": hidden_size,
        "num_hidden_layers": count_blocks(tensors, "layers."),
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
        heads = [name for name in tensors if re.fullmatch(rf"clip_decoder\.({INDEX})\.head\.weight", name)]
        for name in heads:
            if tensors[name].ndim != 2:
                raise CheckpointError(f"Not a VideoMamba checkpoint: {name} has shape {tuple(tensors[name].shape)}.")
            read["num_aligned_layers"], read["alignment_size"] = len(heads), tensors[name].shape[0]
    for name, value in overrides.items():
        if name not in SETTABLE:
            raise CheckpointError(f"--set {name}: no field of VideoMambaConfig that one can set.")
        if name in ("num_labels", "num_aligned_layers", "alignment_size") and name not in read:
            raise CheckpointError(f"--set {name}: the checkpoint has no such head. from_pretrained(..., {name}=N) adds one.")
        if name in read and read[name] != value:
            raise CheckpointError(f"--set {name}={value} contradicts the checkpoint, whose tensors say {read[name]}.")

    num_patches = tensors["pos_embed"].shape[1] - 1
    stride = overrides.get("patch_stride") or read["patch_size"]
    read["image_size"] = (math.isqrt(num_patches) - 1) * stride + read["patch_size"] if isinstance(stride, int) else None
    try:
        config = VideoMambaConfig(**(read | overrides))
    except (StrictDataclassError, TypeError, ArithmeticError) as error:
        what = f"--set {overrides}" if overrides else "The tensors do not fit together"
        raise CheckpointError(f"{what}: {error}") from error
    rows, columns = config.grid_size
    if rows * columns != num_patches:
        raise CheckpointError(
            f"pos_embed holds {num_patches} patches, image_size {config.image_size} makes {rows} x {columns}: give the size "
            "that the model was trained at, e.g. --set 'image_size=[224,320]'."
        )
    return config


def count_blocks(names: Iterable[str], prefix: str) -> int:
    """Number of the blocks `{prefix}0.`, `{prefix}1.`, ... that a checkpoint holds.

    Raises:
        CheckpointError: naming the tensors of a block beyond a gap, so that no stray name makes a deep model.
    """
    blocks = _blocks(names, prefix)
    depth = next(i for i in range(len(blocks) + 1) if i not in blocks)
    if stray := [name for i, block in sorted(blocks.items()) if i > depth for name in block.values()]:
        there = f"{prefix}0 to {prefix}{depth - 1}"
        raise CheckpointError(
            f"The checkpoint has {depth} block(s), {there}, but also {some(stray)}: {prefix}{depth} is missing."
        )
    return depth


def check_blocks(names: Iterable[str], prefix: str) -> None:
    """Raises `CheckpointError` if a block lacks what the first one has; to be called before a model is built."""
    blocks = _blocks(names, prefix)
    missing = [f"missing {prefix}{i}.{name}" for i, block in blocks.items() for name in blocks[0] if name not in block]
    if missing:
        raise CheckpointError(f"The checkpoint does not fit the model: {some(missing)}")


def _blocks(names: Iterable[str], prefix: str) -> dict[int, dict[str, str]]:
    """The names of each block's tensors, by index and then by the name inside the block."""
    blocks: dict[int, dict[str, str]] = {}
    for name in names:
        if match := re.match(rf"{re.escape(prefix)}({INDEX})\.(.+)", name):
            blocks.setdefault(int(match[1]), {})[match[2]] = name
    return blocks


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
        refuse_by_names([name for name in unexpected if re.match(NAMES[VIM], name)])
        raise CheckpointError(f"Unexpected keys in the checkpoint: {some(unexpected)}")
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
        raise CheckpointError(f"The checkpoint does not fit the model: {some(sorted(problems))}")


def inflate(kernel: Tensor, tubelet_size: int, how: str) -> Tensor:
    """A 2-D patch kernel `(hidden, channels, 1, patch, patch)` as one that spans `tubelet_size` frames.

    `how`: "center" puts it on the middle frame and zeros elsewhere, as the reference does; "mean" spreads it evenly.
    """
    if how == "mean":
        return kernel.expand(-1, -1, tubelet_size, -1, -1) / tubelet_size
    inflated = kernel.new_zeros(*kernel.shape[:2], tubelet_size, *kernel.shape[3:])
    inflated[:, :, tubelet_size // 2] = kernel[:, :, 0]
    return inflated
