"""Altered `config.json` files: a configuration whose model works and which is saved as it is, or an error that names a field.

Only the fields of our own classes are altered: what the others may hold is transformers' to say.
"""

import json
import math
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from numpy.random import Generator
from transformers import PreTrainedConfig, PreTrainedModel

from modeling_videomamba import (
    VideoMambaConfig,
    VideoMambaForImageClassification,
    VideoMambaForVideoClassification,
    VideoMambaForVideoTextRetrieval,
    VideoMambaVideoTextConfig,
)

from ..conftest import small_config, small_video_text_config
from .outcomes import Case, ClearError, Fault, attempt


VALUES = [
    *[None, True, False, 0, 1, 2, 3, 7, 16, 48, -1, -(10**30), 10**6, 2**31, 2**63, 10**30, 0.5, 1.0, 1.5, -0.5, 1e-30, 1e30],
    *[
        math.nan,
        math.inf,
        -math.inf,
        "",
        "x",
        "16",
        "auto",
        "none",
        "torch",
        "numba",
        "mamba_ssm",
        "temporal_first",
        "alternating",
    ],
    *[
        "spatiotemporal_v1",
        "spatiotemporal_v2",
        "avg",
        "mse",
        [],
        [32],
        [32, 32],
        [32, 48],
        [0, 0],
        [-16, 16],
        [16, 1e9],
        [1, 2, 3],
    ],
    *[["a", "b"], [None, None], [[32, 32]], {}, {"a": 1}, {"height": 32, "width": 32}],
]
ERRORS = (StrictDataclassError, ValueError, TypeError, OSError, ImportError)
LINES = 2  # transformers' strict configurations tell the validator in one and the reason in another
MOST_LAYERS, MOST_TOKENS, MOST_PIXELS, MOST_PARAMETERS = 16, 2000, 1 << 22, 2_000_000
FIELDS = [name for name in VideoMambaConfig.__annotations__ if name != "model_type"]
VIDEO_TEXT_FIELDS = [name for name in VideoMambaVideoTextConfig.__annotations__ if name not in ("model_type", "sub_configs")]


def prepare() -> None:
    _run(small_config())
    _run(small_video_text_config())


def make_case(random: Generator, folder: Path) -> Case:
    is_video_text = random.random() < 0.3
    config = small_video_text_config() if is_video_text else small_config()
    content = json.loads(config.to_json_string(use_diff=False))
    alterations = []
    for _ in range(random.choice([1, 2, 3], p=[0.6, 0.3, 0.1])):
        fields, altered = FIELDS, content
        if is_video_text and isinstance(content["vision_config"], dict) and random.random() < 0.5:
            altered = content["vision_config"]
        elif is_video_text:
            fields = VIDEO_TEXT_FIELDS
        field = [*fields, "unknown_field"][random.integers(len(fields) + 1)]
        if random.random() < 0.1:
            altered.pop(field, None)
            alterations.append(f"no {field}")
        else:
            values = [value for value in VALUES if type(value) is type(altered.get(field))]
            values = values if values and random.random() < 0.7 else VALUES
            altered[field] = values[random.integers(len(values))]
            alterations.append(f"{field} = {json.dumps(altered[field])}")
    (folder / "config.json").write_text(json.dumps(content, indent=1))
    return Case(", ".join(alterations), lambda: check(type(config), folder))


def check(config_class: type[PreTrainedConfig], folder: Path) -> ClearError | None:
    """Loads, saves and loads it again, and runs its model if this is small."""
    mentions = [*FIELDS, *VIDEO_TEXT_FIELDS]
    config = attempt(lambda: config_class.from_pretrained(folder), mentions=mentions, errors=ERRORS, most_lines=LINES)
    if isinstance(config, ClearError):
        return config
    config.save_pretrained(folder / "saved")
    again = config_class.from_pretrained(folder / "saved")
    if (before := config.to_json_string(use_diff=False)) != (after := again.to_json_string(use_diff=False)):
        changed = [line for line in after.splitlines() if line not in before.splitlines()]
        raise Fault(f"saved and loaded again, it is another: {changed[:5]}")
    if not _is_small(config):
        return None
    answer = attempt(lambda: _run(config), mentions=mentions, errors=ERRORS, most_lines=LINES)
    return answer if isinstance(answer, ClearError) else None


def _is_small(config: PreTrainedConfig) -> bool:
    """Whether the model is quickly built and run. Those of too many layers are not even built without their weights."""
    vision = getattr(config, "vision_config", config)
    rows, columns = vision.grid_size
    height, width = _size(vision)
    frames = vision.num_frames or 1
    if vision.num_hidden_layers > MOST_LAYERS or rows * columns * vision.num_temporal_positions > MOST_TOKENS:
        return False
    if height * width * frames * vision.num_channels > MOST_PIXELS or vision.state_size > 256:
        return False
    if max(vision.hidden_size * vision.expand, vision.conv_kernel, vision.time_step_rank, vision.patch_size) > 1 << 16:
        return False
    if max(getattr(config, "projection_dim", 1), vision.alignment_size) > 1 << 16:
        return False
    with torch.device("meta"):
        return _model_class(config)(config).num_parameters() <= MOST_PARAMETERS


def _size(vision: VideoMambaConfig) -> tuple[int, int]:
    return (vision.image_size,) * 2 if isinstance(vision.image_size, int) else tuple(vision.image_size)


def _model_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    if isinstance(config, VideoMambaVideoTextConfig):
        return VideoMambaForVideoTextRetrieval
    return VideoMambaForVideoClassification if config.num_frames else VideoMambaForImageClassification


@torch.no_grad()
def _run(config: PreTrainedConfig) -> None:
    """Builds the model and runs it on noise."""
    torch.manual_seed(0)
    vision = getattr(config, "vision_config", config)
    model = _model_class(config)(config).eval()
    frames = () if vision.num_frames is None else (vision.num_frames,)
    inputs = {"pixel_values": torch.rand(1, *frames, vision.num_channels, *_size(vision))}
    if isinstance(config, VideoMambaVideoTextConfig):
        inputs["input_ids"] = torch.tensor([[2, 5, 6, 3]])
        output, shape = model(**inputs).logits_per_video, (1, 1)
    else:
        output, shape = model(**inputs).logits, (1, config.num_labels)
    if output.shape != shape:
        raise Fault(f"the output has shape {tuple(output.shape)} instead of {shape}")
    if not output.isfinite().all() and abs(config.initializer_range) <= 1 and abs(vision.initializer_range) <= 1:
        raise Fault("the output is not finite")
