"""What the Triton kernels of the scan and of the convolutions share."""

import torch
from torch import Tensor


try:  # in a try block, since transformers would ask all users of a saved model to install what is imported outside of one
    import triton
    import triton.language as tl
except ImportError:
    raise


@triton.jit
def sigmoid(x):  # noqa: ANN201
    return 1.0 / (1.0 + tl.exp2(-x * 1.4426950408889634))


def pair(lanes: list[Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """The tensors of one lane or two as a kernel takes them: always two."""
    return (lanes[0], lanes[-1]) if lanes else (None, None)


def bit_mask(flags: list[bool]) -> int:
    return sum(flag << lane for lane, flag in enumerate(flags))


def evenly_spaced(x: Tensor) -> Tensor:
    """`x (batch, length, n)` such that all rows of all samples follow at one distance, copied only if they do not."""
    batch, length, _ = x.shape
    evenly = x.stride(2) == 1 and (batch == 1 or x.stride(0) == length * x.stride(1))
    return (
        x if evenly else x.clone(memory_format=torch.contiguous_format)
    )  # which a length of 1 would keep `contiguous()` from
