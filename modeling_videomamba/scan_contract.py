"""What a backend of the scan takes, computes and returns.

Tensors are `(batch, length, channels)`, unlike in [`selective_scan`], since projections produce them so. A *direction* is one
scan over the whole sequence, from its start or, reversed, from its end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Directions(NamedTuple):
    """The inputs of a scan in one direction or two. The lists have one tensor, or flag, for each direction."""

    u: list[Tensor]  # (batch, length, dim)
    delta: list[Tensor]  # (batch, length, dim), before bias and softplus
    A: list[Tensor]  # (dim, state), negative
    B: list[Tensor]  # (batch, length, state), shared by all channels
    C: list[Tensor]  # (batch, length, state)
    D: list[Tensor]  # (dim,)
    delta_bias: list[Tensor]  # (dim,)
    gate: Tensor | None  # (batch, length, dim)
    reverse: list[bool]
    delta_softplus: bool


@dataclass(frozen=True)
class Kernels:
    """The functions of a backend.

    Attributes:
        convolve: `(x, weights, biases, reverse)`. Causal depthwise convolutions of `x (batch, length, dim)`, each with its
            SiLU: a list with one for each direction, like x. Weights are `(dim, width)`, biases `(dim,)` or an empty list. A
            step of a forward direction looks at itself and at those before it, one of a reversed direction at those after it,
            with the same order of weights: the last one is that of the step itself.
        convolve_backward: `(grads, x, weights, biases, reverse)`. The gradients of x, of the weights,
            `(directions, dim, width)`, and of the biases, `(directions, dim)`, these in fp32. `None` where PyTorch can
            differentiate `convolve`.
        scan: `(directions, save)`. The sum over the directions of `C h + D u`, times `silu(gate)` if there is a gate, in u's
            dtype; the states after the last steps, `(directions, batch, state, dim)` in fp32, or in fp64 for fp64 inputs; and
            what `scan_backward` needs, if `save`: the sum before the gate, like the output, and the states at the starts of
            chunks, of shape `starts_shape`. These are empty if they are not needed.
        starts_shape: `(u, A)`. See `scan`.
        scan_backward: `(grad, y, starts, directions)`. The gradients of the gate, or `None`, and of u, delta, A, B, C, D and
            delta_bias, each `(directions, ...)` and contiguous: those of the gate, u and delta in the dtypes of these, the
            others in that of the states. `y` and `starts` are what `scan` has saved. `None` where PyTorch can differentiate
            `scan`.
        continue_scan: `(directions, states, output)`, of a single direction. A part of a sequence, in inference: `states` are
            those after the part before it, `output` that of the other direction for this part, to which this one's is added
            before the gate; either may be `None`. Returns the output and the states, and may write them in place of those.
            `None` if the backend takes whole sequences only.
    """

    convolve: Callable[..., list[Tensor]]
    scan: Callable[..., tuple[Tensor, ...]]
    convolve_backward: Callable[..., list[Tensor]] | None = None
    scan_backward: Callable[..., list[Tensor | None]] | None = None
    starts_shape: Callable[..., tuple[int, ...]] | None = None
    continue_scan: Callable[..., tuple[Tensor, Tensor]] | None = None


__all__ = ["Directions", "Kernels"]
