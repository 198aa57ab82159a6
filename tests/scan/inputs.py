"""Inputs of a scan in one direction or two, the fp64 reference's results for them, and those of a backend."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling_videomamba.scan_backends import BACKENDS, why_not_loadable
from modeling_videomamba.scan_operators import scan
from modeling_videomamba.selective_scan import selective_scan_reference
from tests import conftest


NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")
BOTH = (False, True)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # where there is none, Triton's interpreter scans


class Inputs(NamedTuple):
    """What [`scan`] takes: lists with one tensor for each direction, and the rest."""

    tensors: list[list[Tensor]]
    gate: Tensor | None
    reverse: tuple[bool, ...] = BOTH
    delta_softplus: bool = True
    A_is_log: bool = False

    def replace(self, **changes) -> "Inputs":
        """With other tensors of a name, `D=lambda D: 0 * D`, or other settings."""
        changed = (
            [[changes.pop(name, lambda x: x)(x) for x in group] for name, group in zip(NAMES, self.tensors)]
            if any(name in changes for name in NAMES)
            else self.tensors
        )
        return self._replace(tensors=changed, **{k: v for k, v in changes.items() if k not in NAMES})

    def leaves(self) -> list[Tensor]:
        return [x for group in self.tensors for x in group] + ([] if self.gate is None else [self.gate])

    def trained(self) -> "Inputs":
        """Copies that take gradients."""
        gate = None if self.gate is None else self.gate.detach().requires_grad_()
        tensors = [[x.detach().requires_grad_() for x in group] for group in self.tensors]
        return self._replace(tensors=tensors, gate=gate)


def inputs_of(
    length: int,
    dim: int = 5,
    state: int = 3,
    batch: int = 2,
    reverse: tuple[bool, ...] = BOTH,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    gated: bool = True,
) -> Inputs:
    """Random numbers that bf16 has, in any dtype; as in a model, B, C and the gate are views of larger tensors."""
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(*shape, generator=generator).bfloat16().to(device, dtype)

    exact = torch.promote_types(dtype, torch.float32)
    directions = []
    for _ in reverse:
        B, C = normal(batch, length, 2 * state).split(state, -1)
        A, D, bias = normal(dim, state, dtype=exact), normal(dim, dtype=exact), normal(dim, dtype=exact)
        directions.append((normal(batch, length, dim), normal(batch, length, dim), -A.abs() - 0.1, B, C, D, bias))
    gate = normal(batch, length, 2 * dim).chunk(2, -1)[1]
    return Inputs([list(group) for group in zip(*directions)], gate if gated else None, reverse)


def run(backend: str, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Output and last states."""
    tensors, gate, reverse, delta_softplus, A_is_log = inputs
    return scan(tensors, gate, list(reverse), delta_softplus, A_is_log, backend)


def reference(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """As [`run`], by the definition of the scan, step by step in fp64."""
    y, states = 0, []
    for direction, flag in zip(zip(*inputs.tensors), inputs.reverse):
        tensors = dict(zip(NAMES, direction))
        tensors |= {name: tensors[name].mT for name in ("u", "delta", "B", "C")}
        if inputs.A_is_log:
            tensors["A"] = -torch.exp(tensors["A"].double())
        settings = {"delta_softplus": inputs.delta_softplus, "return_last_state": True, "reverse": flag}
        output, state = selective_scan_reference(**tensors, **settings)
        y, states = y + output.mT, [*states, state.mT]
    return y if inputs.gate is None else y * F.silu(inputs.gate.double()), torch.stack(states)


def assert_same(actual: Tensor, expected: Tensor, relative: float) -> None:
    """As in `conftest.py`; what is below the smallest number that fp32 holds exactly may be anything as small."""
    conftest.assert_same(actual + 0.0, expected, relative + 1e-36 / expected.abs().max().clamp(min=1e-36).item())


def with_gradients(run, inputs: Inputs) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Output, last states, and the gradients of all inputs for an upstream gradient that is the same at every call."""
    inputs = inputs.trained()
    output, states = run(inputs)
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    return output, states, torch.autograd.grad(output, inputs.leaves(), upstream.to(output))


def check(backend: str, inputs: Inputs, relative: float = 2e-6) -> None:
    """Output, last states and every gradient of a backend are the reference's, in the dtypes that the contract states."""
    output, states, grads = with_gradients(lambda inputs: run(backend, inputs), inputs)
    expected, expected_states, expected_grads = with_gradients(reference, inputs)
    u = inputs.tensors[0][0]
    assert output.dtype == u.dtype
    assert states.dtype == torch.promote_types(u.dtype, torch.float32)
    assert_same(output, expected, relative)
    assert_same(states, expected_states, relative)
    for grad, right, x in zip(grads, expected_grads, inputs.leaves()):
        assert grad.dtype == x.dtype
        assert grad.shape == x.shape
        assert_same(grad, right, relative)


def on_backends(*names: str):
    """Parametrises a test by `backend`; one that cannot be imported is skipped, with the reason."""
    return pytest.mark.parametrize(
        "backend",
        [
            pytest.param(
                name, marks=pytest.mark.skipif(why_not_loadable(name) is not None, reason=f"{why_not_loadable(name)}")
            )
            for name in names or BACKENDS
        ],
    )
