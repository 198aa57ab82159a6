"""Depthwise causal convolutions with bias and SiLU as Triton kernels: both directions of a block in one pass over its input.

A step of the forward direction looks at itself and at the steps before it, one of the reversed direction at those after it,
with the same order of weights: the last weight is that of the step itself. Nothing is padded, flipped or transposed.

Sums are fp32, whatever the inputs. Weights get their gradients from partial sums in a fixed order: the same input gives the
same bits.
"""

import torch
from torch import Tensor

from .tensor_layout import evenly_spaced
from .triton_common import bit_mask, cdiv, next_power_of_2, pair, sigmoid, tl, triton


ROWS = 16  # of a program's tile
CHANNELS = 128
SUMMED = {"ROWS": 4, "TILES": 16, "CHANNELS": 64}  # a thread has all rows of its channels and sums over them, tile by tile


@triton.jit
def _tile(dim, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    channels = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    return tl.program_id(1) * ROWS + tl.arange(0, ROWS), channels, channels < dim


@triton.jit
def _load(sample, rows, length, stride, channels, inside):
    """Rows of a sample `(length, dim)` as fp32, zero where there are none. `rows` may lie outside."""
    mask = ((rows >= 0) & (rows < length))[:, None] & inside[None, :]
    return tl.load(sample + rows.to(tl.int64)[:, None] * stride + channels[None, :], mask, other=0.0).to(tl.float32)


@triton.jit
def _weight(weight, k, channels, inside, WIDTH: tl.constexpr):
    return tl.load(weight + channels * WIDTH + k, inside, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _convolve(sample, weight, bias, rows, way, length, stride, channels, inside, WIDTH: tl.constexpr):
    """The convolution at `rows`, before SiLU. `way`: 1, or -1 for the reversed direction."""
    total = tl.zeros((rows.shape[0], channels.shape[0]), tl.float32)
    if bias is not None:
        total += tl.load(bias + channels, inside, other=0.0).to(tl.float32)[None, :]
    for k in tl.static_range(WIDTH):
        source = rows - way * (WIDTH - 1 - k)
        total += _weight(weight, k, channels, inside, WIDTH) * _load(sample, source, length, stride, channels, inside)
    return total


@triton.jit(do_not_specialize=["length"])
def _forward_kernel(
    x, weights, biases, outputs, length, dim, stride,
    DIRECTIONS: tl.constexpr, REVERSE: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Grid: channels, rows, batch. Directions share the rows of x that they load."""
    rows, channels, inside = _tile(dim, ROWS, CHANNELS)
    sample = tl.program_id(2).to(tl.int64) * length
    mask = (rows < length)[:, None] & inside[None, :]
    for direction in tl.static_range(DIRECTIONS):
        way = 1 - 2 * ((REVERSE >> direction) & 1)
        y = _convolve(
            x + sample * stride, weights[direction], biases[direction], rows, way, length, stride, channels, inside, WIDTH
        )
        y = (y * sigmoid(y)).to(x.dtype.element_ty)
        tl.store(outputs[direction] + (sample + rows)[:, None] * dim + channels[None, :], y, mask)


@triton.jit(do_not_specialize=["length"])
def _before_silu_kernel(
    x, weights, biases, grads, before, length, dim, stride,
    DIRECTIONS: tl.constexpr, REVERSE: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Gradients of the sums that SiLU takes, `before (directions, batch, length, dim)`. Grid: channels, rows, batch."""
    rows, channels, inside = _tile(dim, ROWS, CHANNELS)
    sample = tl.program_id(2).to(tl.int64) * length
    mask = (rows < length)[:, None] & inside[None, :]
    for direction in tl.static_range(DIRECTIONS):
        way = 1 - 2 * ((REVERSE >> direction) & 1)
        y = _convolve(
            x + sample * stride, weights[direction], biases[direction], rows, way, length, stride, channels, inside, WIDTH
        )
        s = sigmoid(y)
        dy = _load(grads[direction] + sample * dim, rows, length, dim, channels, inside) * s * (1 + y * (1 - s))
        target = before + (direction * tl.num_programs(2) * length.to(tl.int64) + sample) * dim
        tl.store(target + rows[:, None] * dim + channels[None, :], dy.to(before.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["length"])
def _gradients_kernel(
    x, weights, before, dx, dweight, dbias, length, dim, stride,
    DIRECTIONS: tl.constexpr, REVERSE: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, TILES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """`dx (batch, length, dim)`; of the rows of each program `dweight (programs, directions, width, dim)` and
    `dbias (programs, directions, dim)`.

    Grid: channels, tiles of rows by `TILES`, batch.
    """
    channels = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    channels, inside = tl.max_contiguous(channels, (CHANNELS + 31) // 32), channels < dim
    sample = tl.program_id(2).to(tl.int64) * length
    sums = ()
    for _ in tl.static_range(DIRECTIONS * (WIDTH + 1)):
        sums += (tl.zeros((CHANNELS,), tl.float32),)
    for tile in range(TILES):
        rows = (tl.program_id(1) * TILES + tile) * ROWS + tl.arange(0, ROWS)
        own = _load(x + sample * stride, rows, length, stride, channels, inside)
        total = tl.zeros((ROWS, CHANNELS), tl.float32)
        new = ()
        for direction in tl.static_range(DIRECTIONS):
            way = 1 - 2 * ((REVERSE >> direction) & 1)
            source = before + (direction * tl.num_programs(2) * length.to(tl.int64) + sample) * dim
            for k in tl.static_range(WIDTH):
                # The sum at `target` looks at these rows through weight k, the last of which is that of the step itself.
                target = rows + way * (WIDTH - 1 - k)
                dy = _load(source, target, length, dim, channels, inside)
                total += _weight(weights[direction], k, channels, inside, WIDTH) * dy
                new += (sums[direction * (WIDTH + 1) + k] + tl.sum(own * dy, 0),)
            new += (sums[direction * (WIDTH + 1) + WIDTH] + tl.sum(dy, 0),)
        sums = new
        mask = (rows < length)[:, None] & inside[None, :]
        tl.store(dx + (sample + rows)[:, None] * dim + channels[None, :], total.to(dx.dtype.element_ty), mask)
    program = tl.program_id(2).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    for direction in tl.static_range(DIRECTIONS):
        for k in tl.static_range(WIDTH):
            slot = (program * DIRECTIONS + direction) * WIDTH + k
            tl.store(dweight + slot * dim + channels, sums[direction * (WIDTH + 1) + k], inside)
        tl.store(dbias + (program * DIRECTIONS + direction) * dim + channels, sums[direction * (WIDTH + 1) + WIDTH], inside)


def _launch(x: Tensor, weights: list[Tensor], reverse: list[bool]) -> tuple[tuple[int, int, int], dict[str, int]]:
    """Grid and options of a launch."""
    batch, length, dim = x.shape
    options = {"ROWS": ROWS, "CHANNELS": min(CHANNELS, next_power_of_2(dim)), "WIDTH": weights[0].shape[-1]}
    options |= {"DIRECTIONS": len(weights), "REVERSE": bit_mask(reverse)}
    options |= {"enable_fp_fusion": True}
    return (cdiv(dim, options["CHANNELS"]), cdiv(length, ROWS), batch), options


def convolve(x: Tensor, weights: list[Tensor], biases: list[Tensor], reverse: list[bool]) -> list[Tensor]:
    """See [`scan_contract.Kernels`]. Takes fp32, fp16 and bf16."""
    x, weights, biases = evenly_spaced(x), [w.contiguous() for w in weights], [b.contiguous() for b in biases]
    outputs = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in weights]
    grid, options = _launch(x, weights, reverse)
    sizes = (x.shape[1], x.shape[2], x.stride(1))
    _forward_kernel[grid](x, pair(weights), pair(biases), pair(outputs), *sizes, **options)
    return outputs


def convolve_backward(
    grads: list[Tensor], x: Tensor, weights: list[Tensor], biases: list[Tensor], reverse: list[bool]
) -> list[Tensor]:
    x, weights, biases = evenly_spaced(x), [w.contiguous() for w in weights], [b.contiguous() for b in biases]
    grads = [grad.contiguous() for grad in grads]
    grid, options = _launch(x, weights, reverse)
    (batch, length, dim), (directions, width) = x.shape, (len(weights), options["WIDTH"])
    sizes = (length, dim, x.stride(1))
    before = torch.empty(directions, batch, length, dim, dtype=x.dtype, device=x.device)
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    programs = cdiv(length, SUMMED["ROWS"] * SUMMED["TILES"])
    dweight = torch.empty(batch * programs, directions, width, dim, dtype=torch.float32, device=x.device)
    dbias = torch.empty(batch * programs, directions, dim, dtype=torch.float32, device=x.device)
    _before_silu_kernel[grid](x, pair(weights), pair(biases), pair(grads), before, *sizes, **options)
    _gradients_kernel[cdiv(dim, SUMMED["CHANNELS"]), programs, batch](
        x, pair(weights), before, dx, dweight, dbias, *sizes, **options | SUMMED, num_warps=1
    )
    return [dx, dweight.sum(0).transpose(1, 2).contiguous(), dbias.sum(0)]
