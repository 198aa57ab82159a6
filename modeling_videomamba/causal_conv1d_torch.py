"""Depthwise causal convolutions with SiLU in plain PyTorch: any device, forward and backward."""

import torch.nn.functional as F
from torch import Tensor


def convolve(x: Tensor, weights: list[Tensor], biases: list[Tensor], reverse: list[bool]) -> list[Tensor]:
    """Convolutions of `x (batch, length, dim)` in one or two directions, each with its SiLU. The result is like x.

    A step of a forward direction looks at itself and at those before it, one of a reversed direction at those after it, with
    the same order of weights: the last one is that of the step itself.

    Args:
        weights: `(dim, width)` for each direction.
        biases: `(dim,)` for each direction; an empty list for none.
        reverse: for each direction whether it is a reversed one.
    """
    return [
        _convolve_one(x, weight, biases[i] if biases else None, flag) for i, (weight, flag) in enumerate(zip(weights, reverse))
    ]


def _convolve_one(x: Tensor, weight: Tensor, bias: Tensor | None, reverse: bool) -> Tensor:
    # As a 2-D convolution of one row, channels last: many times faster on CPU than a 1-D one, and nothing is transposed.
    # Padded on both sides, its first `length` outputs are causal; with the weights mirrored, its last ones are anticausal.
    length, dim = x.shape[1:]
    weight = (weight.flip(-1) if reverse else weight)[:, None, None]  # (dim, 1, 1, width)
    padding = weight.shape[-1] - 1
    x = x.transpose(1, 2)[:, :, None]  # (batch, dim, 1, length)
    x = F.conv2d(x, weight, bias, padding=(0, padding), groups=dim)
    x = x[:, :, 0].transpose(1, 2)  # (batch, length + padding, dim)
    return F.silu(x[:, padding:] if reverse else x[:, :length])
