"""Depthwise causal convolutions with bias and SiLU in Numba, for CPUs: both directions in one pass over their input.

A step of the forward direction looks at itself and at the steps before it, one of the reversed direction at those after it,
with the same order of weights: the last weight is that of the step itself. Nothing is padded, flipped or transposed.
"""

import numpy as np
import torch
from torch import Tensor

from .numba_common import announce_compilation, empty, fill_up, flat, in_threads, zeros
from .numba_vectors import WIDTH, compiled, load, pointer, sigmoid, silu, splat, store


@compiled
def _convolve(x, weight, bias, row, way, first, width, stride, dim, channel, biased):
    y = load(bias, channel) if biased else splat(np.float32(0))
    for k in range(first, width):
        y = y + load(weight, k * dim + channel) * load(x, (row - way * (width - 1 - k)) * stride + channel)
    return y


@compiled
def _reach(step, length, width, reverse):
    """The way of time, and the first weight that meets a step which is there."""
    return (-1, max(0, width - (length - step))) if reverse else (1, max(0, width - (step + 1)))


@compiled
def convolutions(
    sample, first_block, last_block, x, weights, biases, outputs, length, dim, stride, width, reverse, biased
) -> None:  # fmt: skip
    """All arrays are flat; a row of x starts at a multiple of `stride`. weights: `(width, dim)` for each direction."""
    x_ = pointer(x)
    for step in range(0, length, 4):
        for direction in range(len(weights)):
            weight, bias, output = pointer(weights[direction]), pointer(biases[direction]), pointer(outputs[direction])
            earliest = step if reverse[direction] else step - 3
            if width == 4 and earliest >= 0 and earliest + 7 <= length:
                row, back = sample * length + step, reverse[direction]
                seen = sample * length + earliest
                for block in range(first_block, last_block):
                    channel = block * WIDTH
                    _convolve_four(x_, weight, bias, output, row, seen, back, stride, dim, channel, biased)
                continue
            for i in range(step, min(step + 4, length)):
                row = sample * length + i
                way, first = _reach(i, length, width, reverse[direction])
                for block in range(first_block, last_block):
                    channel = block * WIDTH
                    y = _convolve(x_, weight, bias, row, way, first, width, stride, dim, channel, biased)
                    store(output, row * dim + channel, silu(y))


@compiled(forceinline=True)
def _convolve_four(x, weight, bias, output, row, seen, reverse, stride, dim, channel, biased):
    """Four rows from `row` on, with four weights: seven rows of x are loaded once, those from `seen` on."""
    first, way = (3 * dim, -dim) if reverse else (0, dim)
    w0, w1 = load(weight, first + channel), load(weight, first + way + channel)
    w2, w3 = load(weight, first + 2 * way + channel), load(weight, first + 3 * way + channel)
    b = load(bias, channel) if biased else splat(np.float32(0))
    at = seen * stride + channel
    x0, x1, x2, x3 = load(x, at), load(x, at + stride), load(x, at + 2 * stride), load(x, at + 3 * stride)
    x4, x5, x6 = load(x, at + 4 * stride), load(x, at + 5 * stride), load(x, at + 6 * stride)
    y0 = b + w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3
    y1 = b + w0 * x1 + w1 * x2 + w2 * x3 + w3 * x4
    y2 = b + w0 * x2 + w1 * x3 + w2 * x4 + w3 * x5
    y3 = b + w0 * x3 + w1 * x4 + w2 * x5 + w3 * x6
    to = row * dim + channel
    store(output, to, silu(y0))
    store(output, to + dim, silu(y1))
    store(output, to + 2 * dim, silu(y2))
    store(output, to + 3 * dim, silu(y3))


@compiled
def gradients(
    sample, first_block, last_block, x, weights, biases, grads, dx, dweights, dbiases,
    length, dim, stride, width, reverse, biased,
) -> None:  # fmt: skip
    """Adds to dx, and for every sample to dweights `(width, dim)` and dbiases `(dim,)`. They are fp32."""
    x_, dx_, one = pointer(x), pointer(dx), splat(np.float32(1))
    for step in range(length):
        row = sample * length + step
        for direction in range(len(weights)):
            weight, bias, grad = pointer(weights[direction]), pointer(biases[direction]), pointer(grads[direction])
            dweight, dbias = pointer(dweights[direction]), pointer(dbiases[direction])
            way, first = _reach(step, length, width, reverse[direction])
            for block in range(first_block, last_block):
                channel = block * WIDTH
                y = _convolve(x_, weight, bias, row, way, first, width, stride, dim, channel, biased)
                s = sigmoid(y)
                dy = load(grad, row * dim + channel) * s * (one + y * (one - s))
                at = sample * dim + channel
                store(dbias, at, load(dbias, at) + dy)
                for k in range(first, width):
                    source, own = row - way * (width - 1 - k), (sample * width + k) * dim + channel
                    to = source * dim + channel
                    store(dx_, to, load(dx_, to) + dy * load(weight, k * dim + channel))
                    store(dweight, own, load(dweight, own) + dy * load(x_, source * stride + channel))


class _Inputs:
    """What forward and backward share: the inputs as flat arrays, channels filled up to a multiple of a vector's."""

    def __init__(self, x: Tensor, weights: list[Tensor], biases: list[Tensor], reverse: list[bool]):
        announce_compilation(convolutions)
        x = fill_up(x)
        self.batch, self.length, self.dim = x.shape
        self.directions, self.width, self.dtype = len(weights), weights[0].shape[1], x.dtype
        # Copies: a parameter whose memory NumPy has seen cannot be freed any more, as sharded training does between layers.
        weights = [fill_up(w.float().t()).clone(memory_format=torch.contiguous_format) for w in weights]  # (width, dim)
        biases = [fill_up(b.float()).clone() for b in biases]
        self.inputs = flat(x), *(tuple(map(flat, tensors)) for tensors in (weights, biases or weights))
        self.sizes = self.length, self.dim, x.stride(1), self.width, tuple(reverse), len(biases) > 0

    def run(self, kernel, *results: np.ndarray | tuple[np.ndarray, ...]) -> None:
        def work(part: int, sample: int, first_block: int, last_block: int) -> None:
            kernel(sample, first_block, last_block, *self.inputs, *results, *self.sizes)

        in_threads(work, self.batch, self.dim // WIDTH, (kernel.__name__, "of convolutions", self.directions, self.dtype))

    def convolve(self) -> list[Tensor]:
        outputs = [empty(self.batch, self.length, self.dim, dtype=self.dtype) for _ in range(self.directions)]
        self.run(convolutions, tuple(map(flat, outputs)))
        return outputs

    def differentiate(self, grads: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of x, of the weights, `(directions, dim, width)`, and of the biases, `(directions, dim)`."""
        grads = [fill_up(grad.to(self.dtype)).contiguous() for grad in grads]
        dx = zeros(self.batch, self.length, self.dim)
        dweights = zeros(self.directions, self.batch, self.width, self.dim)
        dbiases = zeros(self.directions, self.batch, self.dim)
        self.run(gradients, tuple(map(flat, grads)), flat(dx), *(tuple(map(flat, d)) for d in (dweights, dbiases)))
        return dx, dweights.sum(1).transpose(1, 2), dbiases.sum(1)


def convolve(x: Tensor, weights: list[Tensor], biases: list[Tensor], reverse: list[bool]) -> list[Tensor]:
    """See [`scan_contract.Kernels`]. Takes fp32 and bf16."""
    outputs = _Inputs(x, weights, biases, reverse).convolve()
    return [output[..., : x.shape[2]].contiguous() for output in outputs]


def convolve_backward(
    grads: list[Tensor], x: Tensor, weights: list[Tensor], biases: list[Tensor], reverse: list[bool]
) -> list[Tensor]:
    dx, dweights, dbiases = _Inputs(x, weights, biases, reverse).differentiate(grads)
    channels = x.shape[2]
    return [
        dx[..., :channels].to(x.dtype).contiguous(),
        dweights[:, :channels].contiguous(),
        dbiases[:, :channels].contiguous(),
    ]
