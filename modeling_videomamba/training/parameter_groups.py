"""The optimizer's groups: layer decay and weight decay as the reference sets them (`optim_factory.py`)."""

import re
from collections.abc import Iterable
from typing import Literal

from torch import nn


LayerDecayMode = Literal["official", "true"]

NO_DECAY = ("cls_token", "position_embeddings", "temporal_position_embeddings")
WRAPPERS = re.compile(r"(_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod|module)\.")


def parameter_settings(
    model: nn.Module, weight_decay: float, layer_decay: float = 1.0, mode: LayerDecayMode = "official"
) -> dict[str, tuple[float, float]]:
    """The factor on the learning rate and the weight decay of every parameter that trains, by name.

    Vectors, biases and position embeddings do not decay; the scan's `A_log`, a matrix, does. With `layer_decay` below 1 and
    depth L, class token, spatial position embeddings and patch embedding learn at `layer_decay ** (L + 1)` of the rate. All
    else learns at the whole of it in the `"official"` mode: the released code meant to scale blocks too and does not, and the
    released weights were trained so. In the `"true"` mode block i learns at `layer_decay ** (L - i)`.
    """
    depth = model.config.num_hidden_layers
    settings = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim > 1 and not name.endswith(".bias") and not name.endswith(NO_DECAY)
        steps_from_head = 0
        if "embeddings." in name and not name.endswith("temporal_position_embeddings"):
            steps_from_head = depth + 1
        elif mode == "true" and (block := re.search(r"\blayers\.(\d+)\.", name)):
            steps_from_head = depth - int(block.group(1))
        settings[name] = layer_decay**steps_from_head, weight_decay if decays else 0.0
    return settings


def video_text_settings(model: nn.Module, weight_decay: float) -> dict[str, tuple[float, float]]:
    """[`parameter_settings`] of a video-text model: one rate, and only vectors and biases do not decay.

    Embeddings of words and positions do, and even the temperature.
    """
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return {name: (1.0, 0.0 if p.ndim == 1 or name.endswith(".bias") else weight_decay) for name, p in trained}


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], settings: dict[str, tuple[float, float]], learning_rate: float
) -> list[dict]:
    """An optimizer's groups, one for each pair of settings; the first, whose rate is logged, has the highest.

    The parameters may be wrapped by FSDP or a compiler by now.
    """
    groups = {}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            scale, weight_decay = setting = settings[WRAPPERS.sub("", name)]
            group = groups.setdefault(setting, {"params": [], "lr": learning_rate * scale, "weight_decay": weight_decay})
            group["params"].append(parameter)
    return sorted(groups.values(), key=lambda group: -group["lr"])
