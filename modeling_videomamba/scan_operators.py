"""The selective scan and the convolutions before it, in one direction or two: custom operators over all backends.

An operator is one node to torch.compile and torch.export, whatever the length. There is one for the scan and one for the
convolutions, and one for the gradients of each. What they run is a backend's, see [`scan_contract.Kernels`].
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .operators import NO_FORWARD_MODE, custom_operator
from .precision import at_least_fp32, raised
from .scan_backends import choose_backend, load
from .scan_contract import Directions


class ScanInputs(NamedTuple):
    """What one direction of a mixer scans: see [`Directions`]. `A = -exp(A_log)`."""

    u: Tensor  # (batch, length, dim)
    delta: Tensor  # (batch, length, dim)
    A_log: Tensor  # (dim, state)
    B: Tensor  # (batch, length, state)
    C: Tensor  # (batch, length, state)
    D: Tensor  # (dim,)
    delta_bias: Tensor  # (dim,)


def scan_directions(
    directions: list[ScanInputs], reverse: list[bool], gate: Tensor | None = None, implementation: str = "auto"
) -> Tensor:
    """Sum of a scan from the start and one from the end, or of either alone, delta through its softplus, times `silu(gate)`.

    What VideoMamba's mixer needs, in one call, since backends fuse it. Takes a gate `(batch, length, dim)` and returns the
    same, in u's dtype.
    """
    tensors = [list(tensors) for tensors in zip(*directions)]
    return scan(tensors, gate, reverse, True, True, implementation)[0]


def scan(
    tensors: list[list[Tensor]],
    gate: Tensor | None,
    reverse: list[bool],
    delta_softplus: bool,
    A_is_log: bool,
    implementation: str,
) -> tuple[Tensor, Tensor]:
    """Differentiable: the sum over the directions, gated, and their last states.

    Args:
        tensors: u, delta, A, B, C, D and delta_bias, each a list with one tensor for each direction, see [`Directions`].
        A_is_log: whether `A_log` is in the place of A.

    Returns:
        `(batch, length, dim)` in u's dtype, and `(directions, batch, state, dim)` in fp32, or in fp64 for fp64 inputs.
    """
    inputs = [x for x in (gate, *(x for group in tensors for x in group)) if x is not None]
    _refuse_tangents(inputs)
    u, A = tensors[0][0], tensors[2][0]
    name = choose_backend(implementation, u.device, u.dtype, A.shape[1])
    kernels = load(name)
    if kernels.scan_backward is None:
        directions = Directions(*_with_A(tensors, A_is_log), gate, reverse, delta_softplus)
        return kernels.scan(directions, False)[:2]
    is_trained = torch.is_grad_enabled() and not torch.compiler.is_exporting() and any(x.requires_grad for x in inputs)
    y, last_states, *_ = scan_operator(name, *tensors, gate, reverse, delta_softplus, A_is_log, is_trained)
    return y, last_states


@torch.no_grad()
def continue_scan(
    direction: ScanInputs,
    reverse: bool,
    gate: Tensor | None = None,
    states: Tensor | None = None,
    output: Tensor | None = None,
    implementation: str = "auto",
) -> tuple[Tensor, Tensor]:
    """One direction of a part of a sequence, in inference: the scan goes on from `states`, and adds to `output`.

    Both are `None` or what an earlier call has returned: states of the part before in this direction, output of this part in
    the other one. Go on with what is returned: it may or may not be in their place. The gate comes with the last direction.
    """
    u, A_log = direction.u, direction.A_log
    name = choose_backend(implementation, u.device, u.dtype, A_log.shape[1])
    if (continue_ := load(name).continue_scan) is None:
        raise RuntimeError(f"The scan implementation {name!r} takes whole sequences only: set `segment_length` to `None`.")
    with torch.cuda.device_of(u), torch.autocast(u.device.type, enabled=False):
        tensors = _with_A([[x] for x in direction], True)
        return continue_(Directions(*tensors, gate, [reverse], True), states, output)


def convolve_directions(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], reverse: list[bool], implementation: str = "auto"
) -> list[Tensor]:
    """Causal depthwise convolutions of `x (batch, length, dim)`, each with its SiLU: one for each direction.

    Args:
        weights: `(dim, width)` for each direction.
        biases: `(dim,)` for each direction; an empty list for none.
        reverse: for each direction whether it looks at later steps instead of earlier ones.
    """
    _refuse_tangents([x, *weights, *biases])
    name = choose_backend(implementation, x.device, x.dtype)
    kernels = load(name)
    if kernels.convolve_backward is None:
        return kernels.convolve(x, weights, biases, reverse)
    return convolution_operator(name, x, weights, biases, reverse)


def _refuse_tangents(tensors: list[Tensor]) -> None:
    """PyTorch would take derivatives in forward mode for zero: it lets a custom operator define those of reverse mode only."""
    if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(x).tangent is not None for x in tensors):
        raise NotImplementedError(NO_FORWARD_MODE)


def _negative_exponential(A_log: Tensor) -> Tensor:
    return -torch.exp(raised(A_log))


def _with_A(tensors: list[list[Tensor]], A_is_log: bool) -> list[list[Tensor]]:
    u, delta, A, *others = tensors
    return [u, delta, [_negative_exponential(a) for a in A] if A_is_log else A, *others]


# The scan


def _scan(
    backend: str,
    u: list[Tensor],
    delta: list[Tensor],
    A: list[Tensor],
    B: list[Tensor],
    C: list[Tensor],
    D: list[Tensor],
    delta_bias: list[Tensor],
    gate: Tensor | None,
    reverse: list[bool],
    delta_softplus: bool,
    A_is_log: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tensors = _with_A([u, delta, A, B, C, D, delta_bias], A_is_log)
    with torch.cuda.device_of(u[0]), torch.autocast(u[0].device.type, enabled=False):
        return load(backend).scan(Directions(*tensors, gate, reverse, delta_softplus), save)


def _fake_scan(backend, u, delta, A, B, C, D, delta_bias, gate, reverse, delta_softplus, A_is_log, save):
    (batch, _, dim), state = u[0].shape, A[0].shape[1]
    states = u[0].new_empty(len(u), batch, state, dim, dtype=at_least_fp32(u[0].dtype))
    y = u[0].new_empty(u[0].shape if save and gate is not None else 0)
    starts = states.new_empty(load(backend).starts_shape(u, A) if save else 0)
    return u[0].new_empty(u[0].shape), states, y, starts


def _scan_backward(
    backend: str,
    grad: Tensor,
    y: Tensor,
    starts: Tensor,
    u: list[Tensor],
    delta: list[Tensor],
    A: list[Tensor],
    B: list[Tensor],
    C: list[Tensor],
    D: list[Tensor],
    delta_bias: list[Tensor],
    gate: Tensor | None,
    reverse: list[bool],
    delta_softplus: bool,
    A_is_log: bool,
) -> list[Tensor]:
    """Without `None`, which an operator cannot return: a gate that is not there has no gradient."""
    tensors = _with_A([u, delta, A, B, C, D, delta_bias], A_is_log)
    with torch.cuda.device_of(grad), torch.autocast(grad.device.type, enabled=False):
        directions = Directions(*tensors, gate, reverse, delta_softplus)
        dgate, *grads = load(backend).scan_backward(grad, y, starts, directions)
        if A_is_log:
            grads[2] = grads[2] * torch.stack(tensors[2])
        return grads if gate is None else [dgate, *grads]


def _fake_scan_backward(backend, grad, y, starts, u, delta, A, B, C, D, delta_bias, gate, reverse, delta_softplus, A_is_log):
    dtype = at_least_fp32(u[0].dtype)
    grads = [] if gate is None else [gate.new_empty(gate.shape)]
    grads += [x[0].new_empty(len(x), *x[0].shape) for x in (u, delta)]
    return grads + [x[0].new_empty(len(x), *x[0].shape, dtype=dtype) for x in (A, B, C, D, delta_bias)]


def _keep_scan(ctx, inputs, output):
    ctx.backend, *tensors, gate, ctx.reverse, ctx.delta_softplus, ctx.A_is_log, ctx.saved = inputs
    ctx.set_materialize_grads(False)  # the states have none
    ctx.save_for_backward(*output[2:], gate, *(x for group in tensors for x in group))


def _differentiate_scan(ctx, grad, *_):
    y, starts, gate, *flat = ctx.saved_tensors
    n, settings = len(ctx.reverse), (ctx.reverse, ctx.delta_softplus, ctx.A_is_log)
    if grad is None:
        return None, *([None] * n for _ in range(len(flat) // n)), None, None, None, None, None
    tensors = [flat[i : i + n] for i in range(0, len(flat), n)]
    if not ctx.saved:  # it was traced without gradients, by torch.export, and is differentiated after all
        *_, y, starts = scan_operator(ctx.backend, *tensors, gate, *settings, True)
    grads = _scan_backward_operator(ctx.backend, grad, y, starts, *tensors, gate, *settings)
    dgate = None if gate is None else grads.pop(0)
    grads = [list(stacked) for stacked in grads]  # PyTorch gives them the dtypes of their inputs
    return None, *grads, dgate, None, None, None, None


scan_operator = custom_operator("selective_scan", _scan, _fake_scan, _differentiate_scan, _keep_scan)
_scan_backward_operator = custom_operator("selective_scan_backward", _scan_backward, _fake_scan_backward)


# The convolutions


def _convolve(backend: str, x: Tensor, weights: list[Tensor], biases: list[Tensor], reverse: list[bool]) -> list[Tensor]:
    with torch.cuda.device_of(x):
        return load(backend).convolve(x, weights, biases, reverse)


def _fake_convolve(backend, x, weights, biases, reverse):
    return [x.new_empty(x.shape) for _ in weights]


def _convolve_backward(
    backend: str, grads: list[Tensor], x: Tensor, weights: list[Tensor], biases: list[Tensor], reverse: list[bool]
) -> list[Tensor]:
    with torch.cuda.device_of(x):
        return load(backend).convolve_backward(grads, x, weights, biases, reverse)


def _fake_convolve_backward(backend, grads, x, weights, biases, reverse):
    (dim, width), n = weights[0].shape, len(weights)
    return [x.new_empty(x.shape), *(x.new_empty(shape, dtype=torch.float32) for shape in ((n, dim, width), (n, dim)))]


def _keep_convolution(ctx, inputs, output):
    ctx.backend, x, weights, biases, ctx.reverse = inputs
    ctx.save_for_backward(x, *weights, *biases)


def _differentiate_convolution(ctx, grads):
    x, *parameters = ctx.saved_tensors
    n = len(ctx.reverse)
    weights, biases = parameters[:n], parameters[n:]
    dx, dweights, dbiases = _convolution_backward_operator(ctx.backend, grads, x, weights, biases, ctx.reverse)
    return None, dx, list(dweights), list(dbiases) if biases else [], None


convolution_operator = custom_operator(
    "causal_conv1d", _convolve, _fake_convolve, _differentiate_convolution, _keep_convolution
)
_convolution_backward_operator = custom_operator("causal_conv1d_backward", _convolve_backward, _fake_convolve_backward)

__all__ = ["ScanInputs", "continue_scan", "convolve_directions", "scan", "scan_directions"]
