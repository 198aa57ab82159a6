"""The implementations of the selective scan and of the convolutions before it, and the choice among them.

| implementation | runs on                | needs                                   | two directions               |
|----------------|------------------------|-----------------------------------------|------------------------------|
| `triton`       | NVIDIA (ROCm: untried) | nothing: PyTorch for CUDA brings Triton | in one kernel, no copies     |
| `mamba_ssm`    | NVIDIA                 | mamba_ssm built with its CUDA extension | one by one, flipped copies   |
| `numba`        | CPU                    | nothing: Numba is a dependency          | in one walk, no copies       |
| `torch`        | any device             | nothing                                 | one recurrence, no copies    |

The implementation is chosen at every call, by the device of the tensors: a model moved to the CPU goes on working on a
machine that has CUDA kernels installed.

A *lane* is one scan over the whole sequence, a forward or a reversed one. Every implementation has functions of the same
signatures, documented in `causal_conv1d_torch.py` and `selective_scan_torch.py`: `causal_conv1d` and `selective_scan_lanes`,
of one lane or of two that share their length, and but for mamba_ssm, whose kernel starts from zero, `continue_scan`, of one
lane of a part of a sequence.
"""

import os
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from transformers.utils import logging

from .operators import NO_FORWARD_MODE, is_transformed


logger = logging.get_logger(__name__)

SCAN_IMPLEMENTATIONS = ("triton", "mamba_ssm", "numba", "torch")  # in the order in which "auto" prefers them


class ScanInputs(NamedTuple):
    """What one direction scans. Channels are last, unlike in [`selective_scan`], since projections produce them so.

    delta is taken before its bias and softplus; B and C are shared by all channels.
    """

    u: Tensor  # (batch, length, dim)
    delta: Tensor  # (batch, length, dim)
    A: Tensor  # (dim, state), negative
    B: Tensor  # (batch, length, state)
    C: Tensor  # (batch, length, state)
    D: Tensor  # (dim,)
    delta_bias: Tensor  # (dim,)


class Kernels(NamedTuple):
    causal_conv1d: Callable[..., list[Tensor]]
    selective_scan_lanes: Callable[..., tuple[Tensor, Tensor]]
    continue_scan: Callable[..., tuple[Tensor, Tensor]] | None


def scan_directions(
    lanes: list[ScanInputs], reverse: list[bool], gate: Tensor | None = None, implementation: str = "auto"
) -> Tensor:
    """Sum of a scan from the start and one from the end, or of either alone, delta through its softplus, times `silu(gate)`.

    What VideoMamba's mixer needs, in one call, since implementations fuse it. Takes a gate `(batch, length, dim)` and returns
    the same, in u's dtype.
    """
    return run_lanes(lanes, reverse, gate, True, implementation)[0]


def continue_scan(
    lane: ScanInputs,
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
    name = choose_scan_implementation(implementation, lane.u.device, lane.u.dtype, lane.A.shape[1])
    if (scan := _find(name).continue_scan) is None:
        raise RuntimeError(f"The scan implementation {name!r} takes whole sequences only: set `mixer_chunk_size` to `None`.")
    return scan(*lane, gate, reverse, states, output)


def convolve_directions(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], reverse: list[bool], implementation: str = "auto"
) -> list[Tensor]:
    """Causal depthwise convolutions of `x (batch, length, dim)`, each with its SiLU: one for each direction.

    Args:
        weights: `(dim, width)` for each direction.
        biases: `(dim,)` for each direction; an empty list for none.
        reverse: for each direction whether it looks at later steps instead of earlier ones.
    """
    _refuse_tangents(x, *weights, *biases)
    name = choose_scan_implementation(implementation, x.device, x.dtype)
    return _find(name).causal_conv1d(x, weights, biases, reverse)


def run_lanes(
    lanes: list[ScanInputs], reverse: list[bool], gate: Tensor | None, delta_softplus: bool, implementation: str
) -> tuple[Tensor, Tensor]:
    """Sum of the lanes' outputs, gated, `(batch, length, dim)`, and their last states `(lanes, batch, dim, state)`."""
    _refuse_tangents(*(x for lane in lanes for x in lane), *([] if gate is None else [gate]))
    u = lanes[0].u
    kernels = _find(choose_scan_implementation(implementation, u.device, u.dtype, lanes[0].A.shape[1]))
    tensors = (list(tensors) for tensors in zip(*lanes))
    y, last_states = kernels.selective_scan_lanes(*tensors, gate, reverse, delta_softplus)
    return y.to(u.dtype), last_states.transpose(-1, -2)


def _refuse_tangents(*tensors: Tensor) -> None:
    """PyTorch would take derivatives in forward mode for zero: it lets a custom operator define those of reverse mode only."""
    if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(x).tangent is not None for x in tensors):
        raise NotImplementedError(NO_FORWARD_MODE)


def choose_scan_implementation(
    implementation: str, device: torch.device | str, dtype: torch.dtype = torch.float32, state_size: int = 16
) -> str:
    """The implementation that a scan of tensors of `dtype` on `device` runs.

    Raises:
        ValueError: if there is no implementation of that name.
        RuntimeError: if that implementation cannot run such tensors.
    """
    if implementation not in ("auto", *SCAN_IMPLEMENTATIONS):
        known = ", ".join(("auto", *SCAN_IMPLEMENTATIONS))
        raise ValueError(f"Unknown scan implementation {implementation!r}: choose one of {known}.")
    device_type = torch.device(device).type
    if implementation == "auto":
        if not torch.compiler.is_compiling():
            _report_once(device_type)
        return next(name for name in SCAN_IMPLEMENTATIONS if _why_not(name, device_type, dtype, state_size) is None)
    if implementation == "triton" and os.environ.get("TRITON_INTERPRET") == "1":
        device_type = "cuda"  # Triton's interpreter takes tensors of any device
    if (reason := _why_not(implementation, device_type, dtype, state_size)) is not None:
        raise RuntimeError(f"The scan implementation {implementation!r} cannot run: {reason}.")
    return implementation


def scan_report(device: torch.device | str | None = None) -> str:
    """One line that says which implementation `"auto"` takes on `device` (default: CUDA if present), and why not others."""
    device_type = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")).type
    reasons = {name: _why_not(name, device_type, torch.float32) for name in SCAN_IMPLEMENTATIONS}
    chosen = next(name for name, reason in reasons.items() if reason is None)
    refused = [f"{name}: {reason}" for name, reason in reasons.items() if reason is not None]
    return f"selective scan on {device_type}: {chosen}" + (f" (not {'; '.join(refused)})" if refused else "")


@cache
def _report_once(device_type: str) -> None:
    logger.info(scan_report(device_type))


def _why_not(implementation: str, device_type: str, dtype: torch.dtype, state_size: int = 16) -> str | None:
    """Why an implementation cannot run on such tensors; `None` if it can."""
    if implementation == "torch":
        return None
    if implementation == "mamba_ssm" and is_transformed():
        return "transforms of torch.func cannot look into it"
    needed = "cpu" if implementation == "numba" else "cuda"
    if device_type != needed:
        return f"it needs {needed.upper()} tensors, these are on {device_type}"
    if dtype not in (torch.float32, torch.bfloat16) and (implementation == "numba" or dtype != torch.float16):
        return f"it takes fp32, bf16 and on CUDA fp16, these are {dtype}"
    if implementation == "triton" and state_size > 32:
        return f"it takes up to 32 state numbers, here are {state_size}"
    return why_not_importable(implementation)


_FOUND: dict[str, Kernels | str] = {}  # not functools.cache, which torch.compile cannot look into


def _find(implementation: str) -> Kernels | str:
    """The functions of an implementation, or why they cannot be imported."""
    if implementation not in _FOUND:
        try:
            _FOUND[implementation] = _import(implementation)
        except Exception as error:  # a broken build can raise anything: an undefined symbol, a missing library
            _FOUND[implementation] = f"{type(error).__name__}: {error}"
    return _FOUND[implementation]


def _import(implementation: str) -> Kernels:
    """Spelt out, since transformers reads from the import statements which files a saved model needs."""
    continue_scan = None
    if implementation == "triton":
        from .causal_conv1d_triton import causal_conv1d
        from .selective_scan_triton import check_device, continue_scan, selective_scan_lanes

        check_device()
    elif implementation == "mamba_ssm":
        from .selective_scan_mamba_ssm import causal_conv1d, selective_scan_lanes
    elif implementation == "numba":
        from .causal_conv1d_numba import causal_conv1d
        from .selective_scan_numba import continue_scan, selective_scan_lanes
    else:
        from .causal_conv1d_torch import causal_conv1d
        from .selective_scan_torch import continue_scan, selective_scan_lanes
    return Kernels(causal_conv1d, selective_scan_lanes, continue_scan)


def find_implementations() -> None:
    """Imports what can run here, now: torch.compile cannot look for it."""
    for name in SCAN_IMPLEMENTATIONS if torch.cuda.is_available() else ("numba", "torch"):
        _find(name)


def why_not_importable(implementation: str) -> str | None:
    """Why an implementation cannot be imported; `None` if it can."""
    found = _find(implementation)
    return found if isinstance(found, str) else None


__all__ = [
    "SCAN_IMPLEMENTATIONS",
    "ScanInputs",
    "choose_scan_implementation",
    "continue_scan",
    "convolve_directions",
    "find_implementations",
    "run_lanes",
    "scan_directions",
    "scan_report",
    "why_not_importable",
]
