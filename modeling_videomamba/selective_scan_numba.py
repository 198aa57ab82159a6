"""The selective scan on CPUs in Numba, as a custom operator; its kernels are in `selective_scan_numba_kernels.py`.

They are compiled at first use, which takes some seconds, and kept on disk. They run in as many threads as PyTorch's own
operators, `torch.get_num_threads()`.
"""

import numpy as np
import torch
from torch import Tensor

from .numba_common import announce_compilation, empty, fill_up, flat, in_threads, shares, zeros
from .numba_vectors import WIDTH
from .operators import custom_operator
from .selective_scan_numba_kernels import FASTEST_DECAY, LOG2_E, SPAN, gradients, outputs, scratch_sizes


def in_blocks(x: Tensor) -> Tensor:
    """`(..., state, dim)` as the kernels keep states: `(..., blocks, state, 16)`."""
    return x.unflatten(-1, (-1, WIDTH)).transpose(-3, -2).contiguous()


def from_blocks(x: Tensor) -> Tensor:
    return x.transpose(-3, -2).flatten(-2)


class _Scan:
    """What forward and backward share: the inputs as flat arrays, channels filled up to a multiple of a vector's."""

    def __init__(self, u, delta, A, B, C, D, delta_bias, z, reverse, delta_softplus):
        announce_compilation(outputs)
        self.batch, self.length, self.channels = u[0].shape
        self.state, self.dtype = A[0].shape[1], u[0].dtype
        u, delta = ([fill_up(x.to(self.dtype)) for x in lanes] for lanes in (u, delta))
        z = None if z is None else fill_up(z.to(self.dtype))
        self.dim = u[0].shape[2]
        self.A = [in_blocks(fill_up((a.float().t() * float(LOG2_E)).clamp(min=FASTEST_DECAY))) for a in A]
        # Copies: a parameter whose memory NumPy has seen cannot be freed any more, as sharded training does between layers.
        D, delta_bias = ([fill_up(x.float()).clone() for x in lanes] for lanes in (D, delta_bias))
        B, C = ([x.float().contiguous() for x in lanes] for lanes in (B, C))
        if len({x.stride(1) for x in u}) > 1 or len({x.stride(1) for x in delta}) > 1:
            u, delta = [x.contiguous() for x in u], [x.contiguous() for x in delta]
        self.gate = np.empty(0, np.float32) if z is None else flat(z)
        self.inputs = [tuple(map(flat, lanes)) for lanes in (u, delta, self.A, B, C, D, delta_bias)]
        strides = u[0].stride(1), delta[0].stride(1), 0 if z is None else z.stride(1)
        self.sizes = (self.length, self.dim, self.state, strides, tuple(reverse), delta_softplus, z is not None)

    def zero_states(self) -> Tensor:
        return zeros(len(self.A), self.batch, self.dim // WIDTH, self.state, WIDTH)

    def forward(self, states: Tensor, output: Tensor | None = None, save: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """The output `(batch, length, dim)`, added to `output` if there is one; for the backward pass the output before the
        gate and the states before all spans (each empty if it is not needed).

        `states` as of `zero_states`: those before the first step, in whose place come those after the last one.
        """
        gated, lanes, blocks = self.sizes[-1], len(self.A), self.dim // WIDTH
        if add := output is not None:
            output = fill_up(output).contiguous()
        else:
            output = empty(self.batch, self.length, self.dim, dtype=self.dtype)
        y = torch.empty_like(output) if save and gated else empty(0, dtype=self.dtype)
        saved = empty(lanes, self.batch, -(-self.length // SPAN) if save else 0, blocks, self.state, WIDTH)
        results = flat(y), flat(output), *(tuple(map(flat, x)) for x in (states, saved))

        def work(part: int, sample: int, first_block: int, last_block: int) -> None:
            outputs(sample, first_block, last_block, *self.inputs, self.gate, *results, *self.sizes, save, add)

        in_threads(work, self.batch, blocks, ("outputs", lanes, self.dtype, gated))
        return output[..., : self.channels], y, saved

    def backward(self, grad: Tensor, y: Tensor, saved: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the gate, `(batch, length, dim)`, and of u, delta, A, B, C, D and delta_bias, each `(lanes, ...)`."""
        gated, lanes, blocks = self.sizes[-1], len(self.A), self.dim // WIDTH
        grad = fill_up(grad.to(self.dtype)).contiguous()
        du, ddelta = (empty(lanes, *grad.shape, dtype=self.dtype) for _ in range(2))
        dgate = torch.empty_like(grad) if gated else empty(0, dtype=self.dtype)
        dA = empty(lanes, self.batch, blocks, self.state, WIDTH)
        dD, dbias = empty(2, lanes, self.batch, self.dim)
        dB, dC = zeros(2, shares(self.batch, blocks), lanes, self.batch, self.length, self.state)
        results = [tuple(map(flat, x)) for x in (du, ddelta)], flat(dgate), [tuple(map(flat, x)) for x in (dA, dD, dbias)]

        def work(part: int, sample: int, first_block: int, last_block: int) -> None:
            (du_, ddelta_), dgate_, (dA_, dD_, dbias_) = results
            *own, states = (tuple(map(flat, x)) for x in (dB[part], dC[part], saved))
            scratch = tuple(flat(empty(size)) for size in scratch_sizes(self.state))
            gradients(
                sample, first_block, last_block, scratch, *self.inputs, self.gate, flat(y), states, flat(grad),
                du_, ddelta_, dgate_, dA_, *own, dD_, dbias_, *self.sizes,
            )  # fmt: skip

        in_threads(work, self.batch, blocks, ("gradients", lanes, self.dtype, gated))
        dA = from_blocks(dA.sum(1)).transpose(1, 2)  # (lanes, dim, state)
        cut = slice(self.channels)
        dgate = dgate[..., cut] if gated else None
        return dgate, du[..., cut], ddelta[..., cut], dA[:, cut], dB.sum(0), dC.sum(0), dD.sum(1)[:, cut], dbias.sum(1)[:, cut]


def _run(
    u: list[Tensor],
    delta: list[Tensor],
    A: list[Tensor],
    B: list[Tensor],
    C: list[Tensor],
    D: list[Tensor],
    delta_bias: list[Tensor],
    z: Tensor | None,
    reverse: list[bool],
    delta_softplus: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    scan = _Scan(u, delta, A, B, C, D, delta_bias, z, reverse, delta_softplus)
    states = scan.zero_states()
    output, y, saved = scan.forward(states, save=save)
    states = from_blocks(states)[..., : scan.channels]  # (lanes, batch, state, dim)
    return output.contiguous(), states.contiguous(), y, saved


def _fake(u, delta, A, B, C, D, delta_bias, z, reverse, delta_softplus, save):
    (batch, length, dim), state = u[0].shape, A[0].shape[1]
    filled = (dim + WIDTH - 1) // WIDTH * WIDTH
    y = u[0].new_empty((batch, length, filled) if save and z is not None else 0)
    states = u[0].new_empty(len(u), batch, state, dim, dtype=torch.float32)
    spans = (length + SPAN - 1) // SPAN if save else 0
    return u[0].new_empty(u[0].shape), states, y, states.new_empty(len(u), batch, spans, filled // WIDTH, state, WIDTH)


def _run_backward(
    grad: Tensor,
    y: Tensor,
    saved: Tensor,
    u: list[Tensor],
    delta: list[Tensor],
    A: list[Tensor],
    B: list[Tensor],
    C: list[Tensor],
    D: list[Tensor],
    delta_bias: list[Tensor],
    z: Tensor | None,
    reverse: list[bool],
    delta_softplus: bool,
) -> list[Tensor]:
    grads = _Scan(u, delta, A, B, C, D, delta_bias, z, reverse, delta_softplus).backward(grad, y, saved)
    return [x.contiguous() for x in grads if x is not None]


def _fake_backward(grad, y, saved, u, delta, A, B, C, D, delta_bias, z, reverse, delta_softplus):
    grads = [] if z is None else [u[0].new_empty(z.shape)]
    grads += [u[0].new_empty(len(x), *x[0].shape) for x in (u, delta)]
    return grads + [x[0].new_empty(len(x), *x[0].shape, dtype=torch.float32) for x in (A, B, C, D, delta_bias)]


def _save_for_backward(ctx, inputs, output):
    *tensors, z, ctx.reverse, ctx.delta_softplus, ctx.saved = inputs
    ctx.set_materialize_grads(False)  # the states have none
    ctx.save_for_backward(*output[2:], z, *(x for lanes in tensors for x in lanes))


def _differentiate(ctx, grad, *_):
    y, saved, z, *tensors = ctx.saved_tensors
    n = len(ctx.reverse)
    if grad is None:
        return *([None] * n for _ in range(len(tensors) // n)), None, None, None, None
    inputs = [tensors[i : i + n] for i in range(0, len(tensors), n)]
    if not ctx.saved:  # it was traced without gradients, by torch.export, and is differentiated after all
        *_, y, saved = _scan(*inputs, z, ctx.reverse, ctx.delta_softplus, True)
    grads = _scan_backward(grad, y, saved, *inputs, z, ctx.reverse, ctx.delta_softplus)
    dz = None if z is None else grads.pop(0).to(z.dtype)
    grads = [[d.to(x.dtype) for d, x in zip(stacked, lanes)] for stacked, lanes in zip(grads, inputs)]
    return *grads, dz, None, None, None


_scan = custom_operator("selective_scan_numba", _run, _fake, _differentiate, _save_for_backward, device_types="cpu")
_scan_backward = custom_operator("selective_scan_numba_backward", _run_backward, _fake_backward, device_types="cpu")


def selective_scan_lanes(
    u: list[Tensor],
    delta: list[Tensor],
    A: list[Tensor],
    B: list[Tensor],
    C: list[Tensor],
    D: list[Tensor],
    delta_bias: list[Tensor],
    z: Tensor | None,
    reverse: list[bool],
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    """As [`selective_scan_torch.selective_scan_lanes`], for fp32 and bf16; the output has u's dtype."""
    tensors = (u, delta, A, B, C, D, delta_bias)
    every = (z, *(x for lanes in tensors for x in lanes))
    save = (
        torch.is_grad_enabled() and not torch.compiler.is_exporting() and any(x.requires_grad for x in every if x is not None)
    )
    output, last_states, *_ = _scan(*tensors, z, reverse, delta_softplus, save)
    return output, last_states


def continue_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    z: Tensor | None,
    reverse: bool,
    states: Tensor | None = None,
    output: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As [`selective_scan_torch.continue_scan`]; the output has u's dtype."""
    scan = _Scan([u], [delta], [A], [B], [C], [D], [delta_bias], z, [reverse], True)
    states = scan.zero_states() if states is None else states
    output, *_ = scan.forward(states, output)
    return output, states
