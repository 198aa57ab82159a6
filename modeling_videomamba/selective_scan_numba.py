"""The selective scan on CPUs in Numba; its kernels are in `selective_scan_numba_kernels.py`.

They are compiled at first use, which takes some seconds, and kept on disk. They run in as many threads as PyTorch's own
operators, `torch.get_num_threads()`.
"""

import numpy as np
import torch
from torch import Tensor

from .numba_common import announce_compilation, empty, fill_up, flat, in_threads, shares, zeros
from .numba_vectors import WIDTH
from .scan_contract import Directions
from .selective_scan_numba_kernels import FASTEST_DECAY, LOG2_E, STEPS_PER_CHUNK, gradients, outputs, scratch_sizes


def in_blocks(x: Tensor) -> Tensor:
    """`(..., state, dim)` as the kernels keep states: `(..., blocks, state, 16)`."""
    return x.unflatten(-1, (-1, WIDTH)).transpose(-3, -2).contiguous()


def from_blocks(x: Tensor) -> Tensor:
    return x.transpose(-3, -2).flatten(-2)


class _Inputs:
    """What forward and backward share: the inputs as flat arrays, channels filled up to a multiple of a vector's."""

    def __init__(self, u, delta, A, B, C, D, delta_bias, z, reverse, delta_softplus):
        announce_compilation(outputs)
        self.batch, self.length, self.channels = u[0].shape
        self.state, self.dtype = A[0].shape[1], u[0].dtype
        u, delta = ([fill_up(x.to(self.dtype)) for x in group] for group in (u, delta))
        z = None if z is None else fill_up(z.to(self.dtype))
        self.dim = u[0].shape[2]
        self.A = [in_blocks(fill_up((a.float().t() * float(LOG2_E)).clamp(min=FASTEST_DECAY))) for a in A]
        # Copies: a parameter whose memory NumPy has seen cannot be freed any more, as sharded training does between layers.
        D, delta_bias = ([fill_up(x.float()).clone() for x in group] for group in (D, delta_bias))
        B, C = ([x.float().contiguous() for x in group] for group in (B, C))
        if len({x.stride(1) for x in u}) > 1 or len({x.stride(1) for x in delta}) > 1:
            u, delta = [x.contiguous() for x in u], [x.contiguous() for x in delta]
        self.gate = np.empty(0, np.float32) if z is None else flat(z)
        self.inputs = [tuple(map(flat, group)) for group in (u, delta, self.A, B, C, D, delta_bias)]
        strides = u[0].stride(1), delta[0].stride(1), 0 if z is None else z.stride(1)
        self.sizes = (self.length, self.dim, self.state, strides, tuple(reverse), delta_softplus, z is not None)

    def zero_states(self) -> Tensor:
        return zeros(len(self.A), self.batch, self.dim // WIDTH, self.state, WIDTH)

    def scan(self, states: Tensor, output: Tensor | None = None, save: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """The output `(batch, length, dim)`, added to `output` if there is one; for the backward pass the output before the
        gate and the states before all chunks (each empty if it is not needed).

        `states` as of `zero_states`: those before the first step, in whose place come those after the last one.
        """
        gated, directions, blocks = self.sizes[-1], len(self.A), self.dim // WIDTH
        if add := output is not None:
            output = fill_up(output).contiguous()
        else:
            output = empty(self.batch, self.length, self.dim, dtype=self.dtype)
        y = torch.empty_like(output) if save and gated else empty(0, dtype=self.dtype)
        starts = empty(directions, self.batch, -(-self.length // STEPS_PER_CHUNK) if save else 0, blocks, self.state, WIDTH)
        results = flat(y), flat(output), *(tuple(map(flat, x)) for x in (states, starts))

        def work(part: int, sample: int, first_block: int, last_block: int) -> None:
            outputs(sample, first_block, last_block, *self.inputs, self.gate, *results, *self.sizes, save, add)

        in_threads(work, self.batch, blocks, ("outputs", directions, self.dtype, gated))
        return output[..., : self.channels], y, starts

    def differentiate(self, grad: Tensor, y: Tensor, starts: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the gate, `(batch, length, dim)`, and of u, delta, A, B, C, D, delta_bias, each `(directions, ...)`."""
        gated, directions, blocks = self.sizes[-1], len(self.A), self.dim // WIDTH
        grad, y = fill_up(grad.to(self.dtype)).contiguous(), fill_up(y).contiguous()
        du, ddelta = (empty(directions, *grad.shape, dtype=self.dtype) for _ in range(2))
        dgate = torch.empty_like(grad) if gated else empty(0, dtype=self.dtype)
        dA = empty(directions, self.batch, blocks, self.state, WIDTH)
        dD, dbias = empty(2, directions, self.batch, self.dim)
        dB, dC = zeros(2, shares(self.batch, blocks), directions, self.batch, self.length, self.state)
        results = [tuple(map(flat, x)) for x in (du, ddelta)], flat(dgate), [tuple(map(flat, x)) for x in (dA, dD, dbias)]

        def work(part: int, sample: int, first_block: int, last_block: int) -> None:
            (du_, ddelta_), dgate_, (dA_, dD_, dbias_) = results
            *own, states = (tuple(map(flat, x)) for x in (dB[part], dC[part], starts))
            scratch = tuple(flat(empty(size)) for size in scratch_sizes(self.state))
            gradients(
                sample, first_block, last_block, scratch, *self.inputs, self.gate, flat(y), states, flat(grad),
                du_, ddelta_, dgate_, dA_, *own, dD_, dbias_, *self.sizes,
            )  # fmt: skip

        in_threads(work, self.batch, blocks, ("gradients", directions, self.dtype, gated))
        dA = from_blocks(dA.sum(1)).transpose(1, 2)  # (directions, dim, state)
        cut = slice(self.channels)
        dgate = dgate[..., cut]
        return dgate, du[..., cut], ddelta[..., cut], dA[:, cut], dB.sum(0), dC.sum(0), dD.sum(1)[:, cut], dbias.sum(1)[:, cut]


def scan(directions: Directions, save: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See [`scan_contract.Kernels`]. Takes fp32 and bf16."""
    inputs = _Inputs(*directions)
    states = inputs.zero_states()
    output, y, starts = inputs.scan(states, save=save)
    states = from_blocks(states)[..., : inputs.channels]  # (directions, batch, state, dim)
    return output.contiguous(), states.contiguous(), y[..., : inputs.channels].contiguous(), starts


def starts_shape(u: list[Tensor], A: list[Tensor]) -> tuple[int, ...]:
    (batch, length, dim), state = u[0].shape, A[0].shape[1]
    return len(u), batch, (length + STEPS_PER_CHUNK - 1) // STEPS_PER_CHUNK, (dim + WIDTH - 1) // WIDTH, state, WIDTH


def scan_backward(grad: Tensor, y: Tensor, starts: Tensor, directions: Directions) -> list[Tensor | None]:
    dgate, du, ddelta, *others = _Inputs(*directions).differentiate(grad, y, starts)
    dgate = None if directions.gate is None else dgate.to(directions.gate.dtype).contiguous()
    ddelta = ddelta.to(directions.delta[0].dtype).contiguous()
    return [dgate, du.contiguous(), ddelta, *(x.contiguous() for x in others)]


def continue_scan(directions: Directions, states: Tensor | None, output: Tensor | None) -> tuple[Tensor, Tensor]:
    inputs = _Inputs(*directions)
    states = inputs.zero_states() if states is None else states
    output, *_ = inputs.scan(states, output)
    return output, states
