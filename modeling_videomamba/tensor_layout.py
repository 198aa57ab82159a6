"""The layout that kernels without copies take."""

import torch
from torch import Tensor


def evenly_spaced(x: Tensor) -> Tensor:
    """`x (batch, length, n)` such that all rows of all samples follow at one distance, copied only if they do not."""
    batch, length, _ = x.shape
    evenly = x.stride(2) == 1 and (batch == 1 or x.stride(0) == length * x.stride(1))
    return (
        x if evenly else x.clone(memory_format=torch.contiguous_format)
    )  # `contiguous()` leaves any strides to a length of 1
