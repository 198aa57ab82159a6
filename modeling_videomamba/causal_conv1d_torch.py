"""Depthwise causal convolutions with SiLU in plain PyTorch: any device, forward and backward."""

import torch.nn.functional as F
from torch import Tensor


def convolve(x: Tensor, weights: list[Tensor], biases: list[Tensor], reverse: list[bool]) -> list[Tensor]:
    """See [`scan_contract.Kernels`]. PyTorch can differentiate it."""
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
