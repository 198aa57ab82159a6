"""The selective scan in Triton; `selective_scan_triton_kernels.py` has what is compiled at first use."""

import os

import torch
from torch import Tensor

from .scan_contract import Directions
from .selective_scan_triton_kernels import gradients_kernel, join_kernel, outputs_kernel, summaries_kernel, tile_states_kernel
from .tensor_layout import evenly_spaced
from .triton_common import bit_mask, cdiv, next_power_of_2, pair, triton


# Tiles: steps, all in the registers of one thread, and channels of a program. Those of the summaries, the outputs and backward
# were the fastest of a few on an H200 (32 channels the slowest by far, 8 steps by 64 backward slower by half). To join chunks
# is so little work that it takes narrow programs to have enough of them.
SUMMARIES = {"STEPS": 4, "CHANNELS": 128}
JOIN = {"STEPS": 16, "CHANNELS": 64}
OUTPUTS = {"STEPS": 2, "CHANNELS": 128}
BACKWARD = {"STEPS": 4, "CHANNELS": 128}
SHORTEST_CHUNK = 32  # a multiple of all STEPS
PROGRAMS_PER_PROCESSOR = 8  # that run at a time; with half as many time is left whole


def check_device() -> None:
    """Raises an error if Triton cannot run on the CUDA device: it is too old, or there is no C compiler for a launcher."""
    if os.environ.get("TRITON_INTERPRET") == "1" or not torch.cuda.is_available():
        return
    if torch.version.hip is None and (capability := torch.cuda.get_device_capability()) < (8, 0):
        raise RuntimeError(f"Triton needs compute capability 8.0, this device has {capability[0]}.{capability[1]}")
    triton.runtime.driver.active.get_current_target()


def chunk_length(batch: int, length: int, dim: int, device: torch.device) -> int:
    """The whole length where samples and channels fill the card, else what makes as many programs as it can run at a time."""
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
    programs, wanted = max(1, batch * cdiv(dim, OUTPUTS["CHANNELS"])), PROGRAMS_PER_PROCESSOR * processors
    chunks = 1 if 2 * programs >= wanted else wanted // programs
    return max(1, cdiv(cdiv(length, chunks), SHORTEST_CHUNK)) * SHORTEST_CHUNK


class _Inputs:
    """What forward and backward share: the inputs as the kernels take them, and the sizes of the launches."""

    def __init__(self, u, delta, A, B, C, D, delta_bias, z, reverse, delta_softplus):
        self.directions, (self.batch, self.length, self.dim) = len(u), u[0].shape
        self.state, self.device = A[0].shape[1], u[0].device
        self.u, self.delta = (pair([x.contiguous() for x in group]) for group in (u, delta))
        self.A, self.D, self.bias = (pair([x.float().contiguous() for x in group]) for group in (A, D, delta_bias))
        self.B, self.C = (pair([evenly_spaced(x) for x in group]) for group in (B, C))
        if len({x.stride(1) for x in (*self.B, *self.C)}) > 1:
            self.B, self.C = (pair([x.contiguous() for x in maps]) for maps in (self.B, self.C))
        self.z = None if z is None else evenly_spaced(z)
        self.chunk_length = chunk_length(self.batch, self.length, self.dim, self.device)
        self.chunks = max(1, cdiv(self.length, self.chunk_length))
        self.reverse, self.softplus = bit_mask(reverse), delta_softplus
        self.packed = self.state % 4 == 0 and self.B[0].stride(1) % 4 == 0  # rows of B and C are words of four bf16 numbers
        self.packed &= all(x.dtype == torch.bfloat16 and x.data_ptr() % 8 == 0 for x in (*self.B, *self.C))
        strides = self.B[0].stride(1), 0 if z is None else self.z.stride(1)
        self.sizes = (self.batch, self.length, self.chunk_length, self.dim, *strides)

    def new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def launch(self, kernel, tile: dict[str, int], programs: tuple[int, int], arguments: tuple, **constants: int) -> None:
        channels = min(tile["CHANNELS"], next_power_of_2(self.dim))
        kernel[cdiv(self.dim, channels), *programs](
            *arguments,
            **constants,
            STATE=self.state,
            STEPS=tile["STEPS"],
            CHANNELS=channels,
            num_warps=1,
            enable_fp_fusion=True,
        )

    def chunk_starts(self, grad: Tensor | None = None, states: Tensor | None = None) -> Tensor | None:
        """The state that enters each chunk, `(directions, batch, chunks, state, dim)`; with the output's `grad` the gradient
        that enters it from its end. `None` for a single chunk that starts from zero.

        `states`: of a single direction before the first step, `(1, batch, state, dim)`, if not zero.
        """
        if self.chunks == 1:
            return None if states is None else states[:, :, None]
        gains, starts = (self.new(self.directions, self.batch, self.chunks, self.state, self.dim) for _ in range(2))
        time_steps = self.new(self.directions, self.batch, self.chunks, self.dim)
        adjoint, all_samples = int(grad is not None), self.directions * self.batch
        inputs = (self.u, self.delta, self.A, self.B, self.C, self.bias, grad, self.z)
        arguments = (*inputs, gains, time_steps, *self.sizes)
        constants = {"REVERSE": self.reverse, "ADJOINT": adjoint, "SOFTPLUS": self.softplus, "PACKED": self.packed}
        self.launch(summaries_kernel, SUMMARIES, (self.chunks, all_samples), arguments, **constants)
        arguments = (self.A, gains, time_steps, starts, self.batch, self.chunks, self.dim)
        self.launch(join_kernel, JOIN, (self.state, all_samples), arguments, REVERSE=self.reverse ^ (adjoint * 0b11))
        if states is not None:
            in_order = time_steps.flip(2) if self.reverse else time_steps
            elapsed = in_order.cumsum(2) - in_order  # (1, batch, chunks, dim), before each chunk
            elapsed = elapsed.flip(2) if self.reverse else elapsed
            starts += states[:, :, None] * torch.exp(self.A[0].t() * elapsed[:, :, :, None])
        return starts

    def scan(self, save: bool, states: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Output `(batch, length, dim)`, last states `(directions, batch, state, dim)`, and for the backward pass the output
        before the gate and the states that enter the chunks (each empty if it is not needed). `states`: see `chunk_starts`.
        """
        starts = self.chunk_starts(states=states)
        output = self.new(self.batch, self.length, self.dim, dtype=self.u[0].dtype)
        y = torch.empty_like(output) if save and self.z is not None else None
        last_states = self.new(self.directions, self.batch, self.state, self.dim)
        inputs = (self.u, self.delta, self.A, self.B, self.C, self.D, self.bias, self.z, starts)
        arguments = (*inputs, y, output, last_states, *self.sizes)
        constants = {"DIRECTIONS": self.directions, "REVERSE": self.reverse, "SOFTPLUS": self.softplus, "PACKED": self.packed}
        self.launch(outputs_kernel, OUTPUTS, (self.chunks, self.batch), arguments, **constants)
        y = self.new(0, dtype=output.dtype) if y is None else y
        return output, last_states, y, starts if save and starts is not None else self.new(0)

    def differentiate(self, grad: Tensor, y: Tensor, starts: Tensor | None) -> list[Tensor | None]:
        """Gradients of the gate, `(batch, length, dim)`, and of u, delta, A, B, C, D, delta_bias, each `(directions, ...)`."""
        all_chunks = self.directions, self.batch, self.chunks
        programs = self.chunks, self.directions * self.batch
        constants = {"REVERSE": self.reverse, "SOFTPLUS": self.softplus}
        states = self.new(*all_chunks, self.chunk_length // BACKWARD["STEPS"], self.state, self.dim)
        arguments = (self.u, self.delta, self.A, self.B, self.bias, starts, states, *self.sizes[:-1])
        self.launch(tile_states_kernel, BACKWARD, programs, arguments, **constants, PACKED=self.packed)

        dA = self.new(*all_chunks, self.state, self.dim).zero_()
        carries = self.chunk_starts(grad)
        carries = torch.zeros_like(dA) if carries is None else carries
        du, ddelta = (self.new(self.directions, *grad.shape, dtype=x[0].dtype) for x in (self.u, self.delta))
        dgate = None if self.z is None else self.new(*grad.shape, dtype=self.z.dtype)
        dD, dbias = self.new(2, *all_chunks, self.dim)
        blocks = cdiv(self.dim, BACKWARD["CHANNELS"])
        dB, dC = self.new(2, blocks, self.directions, self.batch, self.length, self.state)
        inputs = (self.u, self.delta, self.A, self.B, self.C, self.D, self.bias, self.z, y, grad, states, carries)
        arguments = (*inputs, du, ddelta, dgate, dA, dB, dC, dD, dbias, *self.sizes)
        self.launch(gradients_kernel, BACKWARD, programs, arguments, **constants)
        dA = dA.sum((1, 2)).transpose(1, 2).contiguous()  # (directions, dim, state)
        return [dgate, du, ddelta, dA, dB.sum(0), dC.sum(0), dD.sum((1, 2)), dbias.sum((1, 2))]


def scan(directions: Directions, save: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See [`scan_contract.Kernels`]. Takes fp32, fp16 and bf16."""
    return _Inputs(*directions).scan(save)


def starts_shape(u: list[Tensor], A: list[Tensor]) -> tuple[int, ...]:
    """Nothing is saved of a single chunk."""
    (batch, length, dim), state = u[0].shape, A[0].shape[1]
    chunks = cdiv(length, chunk_length(batch, length, dim, u[0].device))
    return (0,) if chunks == 1 else (len(u), batch, chunks, state, dim)


def scan_backward(grad: Tensor, y: Tensor, starts: Tensor, directions: Directions) -> list[Tensor | None]:
    return _Inputs(*directions).differentiate(grad.contiguous(), y, starts if starts.numel() else None)


def continue_scan(directions: Directions, states: Tensor | None, output: Tensor | None) -> tuple[Tensor, Tensor]:
    gate = directions.gate
    y, states, _, _ = _Inputs(*directions._replace(gate=None)).scan(False, states)
    y = y if output is None else output.add_(y)
    return y if gate is None else y.mul_(torch.nn.functional.silu(gate)), states
