"""Model directories with a damaged file: what `from_pretrained` and the processor make of them.

Most of what happens here is transformers' own. Any error of loading will do, but neither a crash nor a hang, and what is
loaded must be of use: the model gives scores, and the processor takes a video, or says which of its own fields is wrong.
"""

import functools
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator

from modeling_videomamba import VideoMambaForVideoClassification, VideoMambaVideoProcessor

from ..conftest import save_model
from .configurations import MOST_LAYERS, VALUES
from .mutations import damage
from .outcomes import Case, ClearError, Fault, attempt


PROCESSOR = "video_preprocessor_config.json"
FILES = ("config.json", "model.safetensors", PROCESSOR)
OWN_FIELDS = ("num_frames", "frame_sampling")
MOST_FRAMES = 1000


def prepare() -> None:
    files()


@functools.cache
def files() -> dict[str, bytes]:
    """An undamaged directory."""
    with tempfile.TemporaryDirectory() as folder:
        directory = save_model(Path(folder, "model"))
        return {name: (directory / name).read_bytes() for name in FILES}


def make_case(random: Generator, folder: Path) -> Case:
    content = dict(files())
    name = FILES[random.integers(len(FILES))]
    how, own_field = random.random(), None
    if how < 0.1:
        mutation = f"without {name}"
        del content[name]
    elif how < 0.5 and name == PROCESSOR:
        own_field = OWN_FIELDS[random.integers(len(OWN_FIELDS))]
        value = VALUES[random.integers(len(VALUES))]
        mutation = f"{own_field} = {json.dumps(value)} of the processor"
        content[name] = json.dumps(json.loads(content[name]) | {own_field: value}).encode()
    elif name == "model.safetensors":
        header = 8 + int.from_bytes(content[name][:8], "little")
        mutation, damaged = damage(random, content[name][:header])
        mutation, content[name] = f"{name}, header: {mutation}", damaged + content[name][header:]
    else:
        mutation, content[name] = damage(random, content[name])
        mutation = f"{name}: {mutation}"
    for file, data in content.items():
        (folder / file).write_bytes(data)
    return Case(mutation, lambda: check(folder, own_field))


def check(folder: Path, own_field: str | None) -> ClearError | None:
    """Loads both. `own_field`: the one of the processor's own fields that was altered."""
    model = _load(VideoMambaForVideoClassification, folder)
    processor = _load(VideoMambaVideoProcessor, folder)
    if not isinstance(model, ClearError):
        _check_scores(model)
    if isinstance(processor, ClearError) or own_field is None or _is_large(processor.num_frames):
        return next((loaded for loaded in (model, processor) if isinstance(loaded, ClearError)), None)
    video = np.random.default_rng(0).integers(256, size=(12, 40, 60, 3), dtype=np.uint8)
    batch = attempt(lambda: processor(video, return_tensors="pt"), mentions=[own_field], errors=(ValueError, TypeError))
    if isinstance(batch, ClearError):
        return batch
    expected = 1, processor.num_frames, 3, 32, 32
    if batch["pixel_values"].shape != expected:
        raise Fault(f"pixel values {tuple(batch['pixel_values'].shape)} instead of {expected}")
    return None


def _is_large(num_frames: object) -> bool:
    return isinstance(num_frames, (int, float)) and num_frames > MOST_FRAMES


def _load(loaded_class: type, folder: Path) -> object:
    """The error is transformers' own, or that of a library it uses."""
    try:
        return loaded_class.from_pretrained(folder)
    except Exception as error:
        return ClearError(f"{type(error).__name__}: {error}")


@torch.no_grad()
def _check_scores(model: VideoMambaForVideoClassification) -> None:
    config = model.config
    size = (config.image_size,) * 2 if isinstance(config.image_size, int) else tuple(config.image_size)
    shape = 1, config.num_frames or 1, config.num_channels, *size
    if np.prod(shape) < 1e6 and config.num_hidden_layers <= MOST_LAYERS:
        logits = model(pixel_values=torch.rand(shape)).logits
        if logits.shape != (1, config.num_labels):
            raise Fault(f"logits {tuple(logits.shape)} of {config.num_labels} labels")
