"""The selective scan of Mamba: its contract, a naive oracle, and the choice among its implementations.

For every channel, with a state h of `state_size` numbers that starts at zero (arXiv 2312.00752, section 3.2):

    h[t] = exp(delta[t] A) h[t - 1] + delta[t] B[t] u[t]
    y[t] = C[t] . h[t] + D u[t]

| implementation | runs on          | needs                                    | reversed scan       |
|----------------|------------------|------------------------------------------|---------------------|
| `torch`        | any device       | nothing                                  | in place, no copies |
| `mamba_ssm`    | NVIDIA (and ROCm)| mamba_ssm built with its CUDA extension  | on flipped copies   |

The implementation is chosen at every call, by the device of the tensors: a model moved to the CPU goes on working on a
machine that has CUDA kernels installed.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from transformers.utils import logging

from .selective_scan_torch import selective_scan_lanes


logger = logging.get_logger(__name__)

SCAN_IMPLEMENTATIONS = ("mamba_ssm", "torch")  # in the order in which "auto" prefers them


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


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    reverse: bool = False,
    implementation: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Selective scan with the signature, layouts and dtypes of `mamba_ssm`'s `selective_scan_fn`, plus `reverse`.

    State and recurrence are in fp32 whatever the dtype of u (in fp64 if u is fp64). Differentiable in all tensors; as in
    mamba_ssm, no gradient flows from the last state.

    Args:
        u (`Tensor` of shape `(batch, dim, length)`): input, fp32, fp16 or bf16.
        delta (`Tensor` of shape `(batch, dim, length)`): time step, before `delta_bias` and softplus.
        A (`Tensor` of shape `(dim, state)`): negative, fp32.
        B, C (`Tensor` of shape `(batch, state, length)`): input and output maps, shared by all channels.
        D (`Tensor` of shape `(dim,)`, *optional*): skip connection.
        z (`Tensor` of shape `(batch, dim, length)`, *optional*): gate; the output is multiplied by `silu(z)`.
        delta_bias (`Tensor` of shape `(dim,)`, *optional*): added to delta.
        delta_softplus (`bool`): whether delta goes through a softplus.
        return_last_state (`bool`): whether to return the state after the last step as well.
        reverse (`bool`): whether to scan from the end to the start; the "last" state is then that of step 0.
        implementation (`str`): one of `SCAN_IMPLEMENTATIONS`, or `"auto"`.

    Returns:
        `(batch, dim, length)` in u's dtype; with `return_last_state` also `(batch, dim, state)` in fp32.

    Raises:
        ValueError: for shapes that do not fit, or an unknown implementation.
        RuntimeError: for an implementation that cannot run here, with the reason.
    """
    _check_shapes(u, delta, A, B, C, D, z, delta_bias)
    channels = u.new_zeros(u.shape[1], dtype=A.dtype)
    lane = ScanInputs(
        *(u.transpose(1, 2), delta.transpose(1, 2), A, B.transpose(1, 2), C.transpose(1, 2)),
        D=channels if D is None else D,
        delta_bias=channels if delta_bias is None else delta_bias,
    )
    y, last_state = _run_lanes([lane], [reverse], delta_softplus, implementation)
    y = y.transpose(1, 2)  # (batch, dim, length)
    if z is not None:
        y = y * torch.nn.functional.silu(z.to(y.dtype))
    y = y.to(u.dtype)
    return (y, last_state[0].detach()) if return_last_state else y


def scan_directions(forward: ScanInputs | None, backward: ScanInputs | None = None, implementation: str = "auto") -> Tensor:
    """Sum of a scan from the start and one from the end, delta through its softplus: what VideoMamba's mixer needs.

    Both run as one recurrence where the implementation can. Either direction may be left out. Returns
    `(batch, length, dim)`, ungated, in fp32 (`mamba_ssm`: in u's dtype).
    """
    lanes = [(inputs, reverse) for inputs, reverse in ((forward, False), (backward, True)) if inputs is not None]
    inputs, reverse = (list(values) for values in zip(*lanes))
    return _run_lanes(inputs, reverse, True, implementation)[0]


def selective_scan_reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    reverse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The oracle: [`selective_scan`] as its definition reads, step by step in fp64. Returns fp64. Slow."""
    u, delta, A, B, C = (x.double() for x in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.double()[:, None]
    if delta_softplus:
        delta = torch.nn.functional.softplus(delta)
    batch, dim, length = u.shape
    state = u.new_zeros(batch, dim, A.shape[1])
    y = [state] * length
    for t in reversed(range(length)) if reverse else range(length):
        decay = torch.exp(delta[:, :, t, None] * A)
        state = decay * state + delta[:, :, t, None] * B[:, None, :, t] * u[:, :, t, None]
        y[t] = (state * C[:, None, :, t]).sum(-1)
    y = torch.stack(y, dim=-1)  # (batch, dim, length)
    if D is not None:
        y = y + D.double()[:, None] * u
    if z is not None:
        y = y * torch.nn.functional.silu(z.double())
    return (y, state) if return_last_state else y


def choose_scan_implementation(implementation: str, device: torch.device | str, dtype: torch.dtype = torch.float32) -> str:
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
        return next(name for name in SCAN_IMPLEMENTATIONS if _why_not(name, device_type, dtype) is None)
    if (reason := _why_not(implementation, device_type, dtype)) is not None:
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


def _why_not(implementation: str, device_type: str, dtype: torch.dtype) -> str | None:
    """Why an implementation cannot run on such tensors; `None` if it can."""
    if implementation == "torch":
        return None
    if device_type != "cuda":
        return f"it needs CUDA tensors, these are on {device_type}"
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"it takes fp32, fp16 and bf16, these are {dtype}"
    return _extensions()["mamba_ssm"][1]


_FOUND: dict[str, tuple[Callable | None, str | None]] = {}  # not functools.cache, which torch.compile cannot look into


def _extensions() -> dict[str, tuple[Callable | None, str | None]]:
    """The functions of mamba_ssm and causal_conv1d, or why they cannot be imported.

    mamba_ssm itself imports without its CUDA extension, whose build is optional: only importing the extension proves it.
    """
    if not _FOUND:
        try:
            import selective_scan_cuda  # noqa: F401
            from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

            _FOUND["mamba_ssm"] = selective_scan_fn, None
        except Exception as error:  # a broken build can raise anything: an undefined symbol, a missing library
            reason = f"{type(error).__name__}: {error}"
            _FOUND["mamba_ssm"] = None, f"{reason}; install mamba-ssm built with its CUDA extension"
        try:
            from causal_conv1d import causal_conv1d_fn

            _FOUND["causal_conv1d"] = causal_conv1d_fn, None
        except Exception as error:
            _FOUND["causal_conv1d"] = None, f"{type(error).__name__}: {error}"
    return _FOUND


def find_extensions() -> None:
    """Looks for the CUDA extensions if there is a CUDA device; otherwise they are of no use, and importing them takes long."""
    if torch.cuda.is_available():
        _extensions()


def find_causal_conv1d() -> Callable | None:
    """`causal_conv1d_fn`, if it is installed."""
    return _extensions()["causal_conv1d"][0]


def mamba_ssm_import_error() -> str | None:
    """Why mamba_ssm's CUDA scan cannot be imported; `None` if it can."""
    return _extensions()["mamba_ssm"][1]


def _run_lanes(
    lanes: list[ScanInputs], reverse: list[bool], delta_softplus: bool, implementation: str
) -> tuple[Tensor, Tensor]:
    """Sum of the lanes' outputs `(batch, length, dim)`, and their last states `(lanes, batch, dim, state)`."""
    if choose_scan_implementation(implementation, lanes[0].u.device, lanes[0].u.dtype) == "mamba_ssm":
        return _run_mamba_ssm(lanes, reverse, delta_softplus)
    y, last_states = selective_scan_lanes(*(list(tensors) for tensors in zip(*lanes)), reverse, delta_softplus)
    return y, last_states.transpose(-1, -2)


def _run_mamba_ssm(lanes: list[ScanInputs], reverse: list[bool], delta_softplus: bool) -> tuple[Tensor, Tensor]:
    selective_scan_fn, _ = _extensions()["mamba_ssm"]
    total, last_states = None, []
    for lane, reverse_lane in zip(lanes, reverse):
        u, delta, B, C = (x.to(lane.u.dtype).transpose(1, 2) for x in (lane.u, lane.delta, lane.B, lane.C))
        if reverse_lane:
            u, delta, B, C = (x.flip(-1) for x in (u, delta, B, C))
        y, last_state = selective_scan_fn(  # (batch, dim, length), (batch, dim, state)
            u=u,
            delta=delta,
            A=lane.A.float(),
            B=B,
            C=C,
            D=lane.D.float(),
            delta_bias=lane.delta_bias.float(),
            delta_softplus=delta_softplus,
            return_last_state=True,
        )
        y = (y.flip(-1) if reverse_lane else y).transpose(1, 2)  # (batch, length, dim)
        total = y if total is None else total + y
        last_states.append(last_state)
    return total, torch.stack(last_states)


def _check_shapes(u, delta, A, B, C, D, z, delta_bias) -> None:
    if u.ndim != 3 or A.ndim != 2:
        raise ValueError(f"`u` must be (batch, dim, length) and `A` (dim, state), got {tuple(u.shape)} and {tuple(A.shape)}.")
    if not u.is_floating_point() or A.is_complex():
        raise ValueError(f"`u` must be floating point and `A` real, got {u.dtype} and {A.dtype}.")
    (batch, dim, length), state = u.shape, A.shape[1]
    expected = {
        "delta": (delta, u.shape),
        "A": (A, (dim, state)),
        "B": (B, (batch, state, length)),
        "C": (C, (batch, state, length)),
        "D": (D, (dim,)),
        "z": (z, u.shape),
        "delta_bias": (delta_bias, (dim,)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tensor.shape != torch.Size(shape):
            raise ValueError(f"`{name}` must have shape {tuple(shape)} beside u {tuple(u.shape)}, got {tuple(tensor.shape)}.")


__all__ = [
    "SCAN_IMPLEMENTATIONS",
    "ScanInputs",
    "choose_scan_implementation",
    "find_causal_conv1d",
    "find_extensions",
    "scan_directions",
    "scan_report",
    "selective_scan",
    "selective_scan_reference",
]
