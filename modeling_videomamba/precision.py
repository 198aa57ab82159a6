"""What stays in fp32 whatever the dtype of a model is, under `from_pretrained(dtype=...)`, `.bfloat16()` and autocast.

| what                                              | why                                    | where               |
|---------------------------------------------------|----------------------------------------|---------------------|
| the parameters named in `KEPT_IN_FP32`            | they go into exponents                 | here                |
| the residual stream, if `config.residual_in_fp32` | it adds up all layers                  | `VideoMambaModel`   |
| norms, inside                                     | they square the residual stream        | `VideoMambaRMSNorm` |
| the scan's state, recurrence and sums             | they add up all tokens                 | the backends        |
| resized position embeddings, inside               | weights of an interpolation are small  | `interpolate_...`   |
| losses, and similarities of videos and texts      | they add up classes, or pairs          | the heads           |

Everything else has the dtype of the model. fp64 models are fp64 throughout.
"""

import torch
from torch import Tensor, nn


HALVES = (torch.float16, torch.bfloat16)
KEPT_IN_FP32 = {"A_log", "D", "dt_proj.bias"}  # ends of their names
TEMPERATURE_IN_FP32 = {"temperature"}  # of the similarities of videos and texts


def at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    """fp32 for 16 bits, else the dtype itself."""
    return torch.float32 if dtype in HALVES else dtype


def raised(x: Tensor) -> Tensor:
    """`x` in at least fp32."""
    return x.to(at_least_fp32(x.dtype))


def keep_in_fp32(model: nn.Module, kept: set[str]) -> None:
    """Makes the parameters fp32 that `from_pretrained` keeps in fp32, before they are initialised.

    transformers follows `_keep_in_fp32_modules_strict` when it loads a checkpoint, but not when it builds a model from a
    configuration, with a default dtype of half the precision.
    """
    for name, parameter in model.named_parameters():
        if parameter.dtype in HALVES and any(f".{name}".endswith(f".{end}") for end in kept):
            parameter.data = parameter.data.float()


__all__ = ["KEPT_IN_FP32", "TEMPERATURE_IN_FP32", "at_least_fp32", "keep_in_fp32", "raised"]
