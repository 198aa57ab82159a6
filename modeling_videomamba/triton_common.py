"""What the Triton kernels of the scan and of the convolutions share."""

from torch import Tensor


try:  # in a try block, since transformers would ask all users of a saved model to install what is imported outside of one
    import triton
    import triton.language as tl
except ImportError:
    raise


@triton.jit
def sigmoid(x):  # noqa: ANN201
    return 1.0 / (1.0 + tl.exp2(-x * 1.4426950408889634))


def pair(tensors: list[Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """The tensors of one direction or two as a kernel takes them: always two."""
    return (tensors[0], tensors[-1]) if tensors else (None, None)


def bit_mask(flags: list[bool]) -> int:
    return sum(flag << i for i, flag in enumerate(flags))


def cdiv(x: int, y: int) -> int:
    """As `triton.cdiv`, which takes many times as long."""
    return -(-x // y)


def next_power_of_2(x: int) -> int:
    return 1 << (x - 1).bit_length()
