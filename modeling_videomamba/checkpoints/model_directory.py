"""Reads what a model directory says, and checks it against itself, before anything of the size that it states is built."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .checkpoint_file import CheckpointError


MOST_LABELS = 100_000  # of a model whose weights have no classifier


def read_directory(directory: str | Path) -> tuple[str, dict[str, Tensor]]:
    """The architecture that a model directory of this package states, a class name, and its tensors on the meta device.

    Raises:
        CheckpointError: if there is no such directory, a file of it cannot be read, or its configuration states another number
            of layers or labels than its weights have.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise CheckpointError(f"No such model directory: {directory}")
    config = _read_json(directory / "config.json")
    if config.get("model_type") not in ("videomamba", "videomamba_video_text"):
        raise CheckpointError(f"{directory} is a model of type {config.get('model_type')!r}, not one of this package.")
    tensors = _tensors(directory)
    vision, text = (
        config.get(side) if isinstance(config.get(side), dict) else {} for side in ("vision_config", "text_config")
    )
    layers = _count(tensors, r"(?:videomamba\.|vision_model\.)?layers\.(\d+)\.")
    text_layers = _count(tensors, r"text_model\.encoder\.layer\.(\d+)\.")
    _check(directory, "num_hidden_layers", (vision or config).get("num_hidden_layers"), layers)
    _check(directory, "text_config.num_hidden_layers", text.get("num_hidden_layers"), text_layers)
    _check(directory, "num_aligned_layers", (vision or config).get("num_aligned_layers"), max(layers, 1))
    rows = tensors["classifier.weight"].shape[0] if "classifier.weight" in tensors else MOST_LABELS
    for side in (config, vision, text):
        _check(directory, "num_labels", side.get("num_labels"), rows)
    architectures = config.get("architectures")
    return str(architectures[0]) if isinstance(architectures, list) and architectures else "", tensors


def _count(names: dict[str, Tensor], pattern: str) -> int:
    return len({match[1] for name in names if (match := re.match(pattern, name))})


def _check(directory: Path, name: str, stated: Any, most: int) -> None:
    if isinstance(stated, int) and stated > most:
        raise CheckpointError(f"{directory}: config.json states {name} {stated:,}, the weights allow {most:,} at most.")


def _tensors(directory: Path) -> dict[str, Tensor]:
    """All tensors by our names, on the meta device, from the headers of the files."""
    files = sorted(directory.glob("model*.safetensors"))
    if not files:
        raise CheckpointError(f"{directory} has no model.safetensors.")
    tensors = {}
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  (not a dict)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is not a readable safetensors file ({error})") from error
        tensors |= {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return tensors


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({type(error).__name__}: {error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object.")
    return content
