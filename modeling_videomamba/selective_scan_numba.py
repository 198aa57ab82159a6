"""The selective scan on CPUs in Numba, as a custom operator; its kernels are in `selective_scan_numba_kernels.py`.

They are compiled at first use, which takes some seconds, and kept on disk. They run in as many threads as PyTorch's own
operators, `torch.get_num_threads()`.
"""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils import logging

from .numba_vectors import WIDTH
from .selective_scan_numba_kernels import LOG2_E, gradients, outputs, scratch_sizes
from .tensor_layout import evenly_spaced


logger = logging.get_logger(__name__)


def _cache_folder() -> Path:
    return Path(outputs.stats.cache_path)


@cache
def _announce_compilation() -> None:
    if not any(_cache_folder().glob("selective_scan_numba_kernels.*.nbi")):
        logger.warning("Compiling the selective scan for this CPU: some seconds, once; it is then kept on disk.")


def _flat(x: Tensor) -> np.ndarray:
    """The memory of an evenly spaced tensor from its first number to its last, bf16 as uint16."""
    size = 1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride())) if x.numel() else 0
    flat = x.detach().as_strided((size,), (1,))
    return flat.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else flat.numpy()


@cache
def _openmp() -> Callable | None:
    """`GOMP_parallel` of the OpenMP library that PyTorch has loaded, if it is of that kind."""
    try:
        return ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        return None


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """`process`: its number, since threads do not survive a fork."""
    return ThreadPoolExecutor(threads)


def _shares(batch: int, blocks: int) -> int:
    """Into how many parts the channels of a sample are cut, for all threads to have work."""
    return max(1, min(blocks, -(-torch.get_num_threads() // max(1, batch))))


_COMPILED: set[tuple] = set()


def _in_threads(work: Callable[[int, int, int, int], object], batch: int, blocks: int, signature: tuple) -> None:
    """Calls `work(share, sample, first block, last block)` for all channels of all samples.

    In PyTorch's own threads where they can be had: after one of its operators these go on spinning for milliseconds, waiting
    for the next, and would take the processors away from others. What has not run yet with inputs of this `signature` is
    compiled first, in the thread that calls, for others may have too small a stack.
    """
    threads, shares = torch.get_num_threads(), _shares(batch, blocks)
    bounds = [share * blocks // shares for share in range(shares + 1)]
    tasks = iter([(share, sample, *bounds[share : share + 2]) for sample in range(batch) for share in range(shares)])
    if signature not in _COMPILED and (task := next(tasks, None)) is not None:
        work(*task)
        _COMPILED.add(signature)
    errors = []

    def share(_: object = None) -> None:
        try:
            for task in tasks:  # an iterator, so that no two threads get the same one
                work(*task)
        except BaseException as error:
            errors.append(error)

    if threads == 1:
        share()
    elif (openmp := _openmp()) is not None:
        openmp(ctypes.CFUNCTYPE(None, ctypes.c_void_p)(share), None, threads, 0)
    else:
        list(_pool(threads, os.getpid()).map(share, range(threads)))
    if errors:
        raise errors[0]


def in_blocks(x: Tensor) -> Tensor:
    """`(..., state, dim)` as the kernels keep states: `(..., blocks, state, 16)`."""
    return x.unflatten(-1, (-1, WIDTH)).transpose(-3, -2).contiguous()


def from_blocks(x: Tensor) -> Tensor:
    return x.transpose(-3, -2).flatten(-2)


class _Scan:
    """What forward and backward share: the inputs as flat arrays, channels filled up to a multiple of a vector's."""

    def __init__(self, u, delta, A, B, C, D, delta_bias, z, reverse, delta_softplus):
        _announce_compilation()
        self.batch, self.length, self.channels = u[0].shape
        self.state, self.dtype = A[0].shape[1], u[0].dtype
        self.dim = -(-self.channels // WIDTH) * WIDTH
        u, delta = ([self.pad(x.to(self.dtype)) for x in lanes] for lanes in (u, delta))
        z = None if z is None else self.pad(z.to(self.dtype))
        self.A = [in_blocks(self.pad(a.float().t() * float(LOG2_E))) for a in A]
        # Copies: a parameter whose memory NumPy has seen cannot be freed any more, as sharded training does between layers.
        D, delta_bias = ([self.pad(x.float()).clone() for x in lanes] for lanes in (D, delta_bias))
        B, C = ([x.float().contiguous() for x in lanes] for lanes in (B, C))
        if len({x.stride(1) for x in u}) > 1 or len({x.stride(1) for x in delta}) > 1:
            u, delta = [x.contiguous() for x in u], [x.contiguous() for x in delta]
        self.gate = np.empty(0, np.float32) if z is None else _flat(z)
        self.inputs = [tuple(map(_flat, lanes)) for lanes in (u, delta, self.A, B, C, D, delta_bias)]
        strides = u[0].stride(1), delta[0].stride(1), 0 if z is None else z.stride(1)
        self.sizes = (self.length, self.dim, self.state, strides, tuple(reverse), delta_softplus, z is not None)

    def pad(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, self.dim - self.channels)) if self.dim > self.channels else x
        return evenly_spaced(x) if x.ndim == 3 else x

    def new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype)

    def forward(self, save: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Output `(batch, length, dim)`, last states `(lanes, batch, state, dim)`, and the output before the gate, if it is
        there and needed."""
        gated, lanes = self.sizes[-1], len(self.A)
        output = self.new(self.batch, self.length, self.dim, dtype=self.dtype)
        y = torch.empty_like(output) if save and gated else self.new(0, dtype=self.dtype)
        last_states = self.new(lanes, self.batch, self.dim // WIDTH, self.state, WIDTH)
        results = _flat(y) if y.numel() else np.empty(0, _flat(output).dtype), _flat(output), tuple(map(_flat, last_states))

        def work(share: int, sample: int, first_block: int, last_block: int) -> None:
            scratch = _flat(self.new((last_block - first_block) * self.state * WIDTH))
            outputs(sample, first_block, last_block, scratch, *self.inputs, self.gate, *results, *self.sizes, save)

        _in_threads(work, self.batch, self.dim // WIDTH, ("outputs", lanes, self.dtype, gated))
        return output[..., : self.channels], from_blocks(last_states)[..., : self.channels], y

    def backward(self, grad: Tensor, y: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the gate, `(batch, length, dim)`, and of u, delta, A, B, C, D and delta_bias, each `(lanes, ...)`."""
        gated, lanes, blocks = self.sizes[-1], len(self.A), self.dim // WIDTH
        grad = self.pad(grad.to(self.dtype)).contiguous()
        du, ddelta = (self.new(lanes, *grad.shape, dtype=self.dtype) for _ in range(2))
        dgate = torch.empty_like(grad) if gated else self.new(0, dtype=self.dtype)
        dA = self.new(lanes, self.batch, blocks, self.state, WIDTH)
        dD, dbias = self.new(2, lanes, self.batch, self.dim)
        shares = _shares(self.batch, blocks)
        dB, dC = torch.zeros(2, shares, lanes, self.batch, self.length, self.state)
        results = [tuple(map(_flat, x)) for x in (du, ddelta)], _flat(dgate), [tuple(map(_flat, x)) for x in (dA, dD, dbias)]

        def work(share: int, sample: int, first_block: int, last_block: int) -> None:
            (du_, ddelta_), dgate_, (dA_, dD_, dbias_) = results
            own = [tuple(map(_flat, x[share])) for x in (dB, dC)]
            scratch = tuple(_flat(self.new(size)) for size in scratch_sizes(self.length, self.state))
            gradients(
                sample, first_block, last_block, scratch, *self.inputs, self.gate, _flat(y), _flat(grad),
                du_, ddelta_, dgate_, dA_, *own, dD_, dbias_, *self.sizes,
            )  # fmt: skip

        _in_threads(work, self.batch, blocks, ("gradients", lanes, self.dtype, gated))
        dA = from_blocks(dA.sum(1)).transpose(1, 2)  # (lanes, dim, state)
        cut = slice(self.channels)
        dgate = dgate[..., cut] if gated else None
        return dgate, du[..., cut], ddelta[..., cut], dA[:, cut], dB.sum(0), dC.sum(0), dD.sum(1)[:, cut], dbias.sum(1)[:, cut]


@torch.library.custom_op("videomamba::selective_scan_numba", mutates_args=(), device_types="cpu")
def _scan(
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
) -> tuple[Tensor, Tensor, Tensor]:
    output, last_states, y = _Scan(u, delta, A, B, C, D, delta_bias, z, reverse, delta_softplus).forward(save)
    return output.contiguous(), last_states.contiguous(), y


@_scan.register_fake
def _(u, delta, A, B, C, D, delta_bias, z, reverse, delta_softplus, save):
    (batch, length, dim), state = u[0].shape, A[0].shape[1]
    filled = (dim + WIDTH - 1) // WIDTH * WIDTH
    y = u[0].new_empty((batch, length, filled) if save and z is not None else 0)
    return u[0].new_empty(u[0].shape), u[0].new_empty(len(u), batch, state, dim, dtype=torch.float32), y


@torch.library.custom_op("videomamba::selective_scan_numba_backward", mutates_args=(), device_types="cpu")
def _scan_backward(
    grad: Tensor,
    y: Tensor,
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
    grads = _Scan(u, delta, A, B, C, D, delta_bias, z, reverse, delta_softplus).backward(grad, y)
    return [x.contiguous() for x in grads if x is not None]


@_scan_backward.register_fake
def _(grad, y, u, delta, A, B, C, D, delta_bias, z, reverse, delta_softplus):
    grads = [] if z is None else [u[0].new_empty(z.shape)]
    grads += [u[0].new_empty(len(x), *x[0].shape) for x in (u, delta)]
    return grads + [x[0].new_empty(len(x), *x[0].shape, dtype=torch.float32) for x in (A, B, C, D, delta_bias)]


def _save_for_backward(ctx, inputs, output):
    *tensors, z, ctx.reverse, ctx.delta_softplus, _ = inputs
    ctx.set_materialize_grads(False)  # the states have none
    ctx.save_for_backward(output[2], z, *(x for lanes in tensors for x in lanes))


def _differentiate(ctx, grad, *_):
    y, z, *flat = ctx.saved_tensors
    n = len(ctx.reverse)
    if grad is None:
        return *([None] * n for _ in range(len(flat) // n)), None, None, None, None
    inputs = [flat[i : i + n] for i in range(0, len(flat), n)]
    grads = _scan_backward(grad, y, *inputs, z, ctx.reverse, ctx.delta_softplus)
    dz = None if z is None else grads.pop(0).to(z.dtype)
    grads = [[d.to(x.dtype) for d, x in zip(stacked, lanes)] for stacked, lanes in zip(grads, inputs)]
    return *grads, dz, None, None, None


_scan.register_autograd(_differentiate, setup_context=_save_for_backward)


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
    save = torch.is_grad_enabled() and any(x.requires_grad for x in every if x is not None)
    output, last_states, _ = _scan(*tensors, z, reverse, delta_softplus, save)
    return output, last_states
