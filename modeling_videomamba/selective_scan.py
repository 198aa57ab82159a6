"""The selective scan of Mamba: the public function, and its definition in fp64.

For every channel, with a state h of `state_size` numbers that starts at zero (arXiv 2312.00752, section 3.2):

    h[t] = exp(delta[t] A) h[t - 1] + delta[t] B[t] u[t]
    y[t] = C[t] . h[t] + D u[t]
"""

import torch
from torch import Tensor

from .scan_operators import scan


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
    """Selective scan with the signature of `mamba_ssm`'s `selective_scan_fn`, plus `reverse`, for the layouts below.

    State and recurrence are in fp32 whatever the dtype of u (in fp64 if u is fp64). Differentiable in all tensors; as in
    mamba_ssm, no gradient flows from the last state.

    Args:
        u (`Tensor` of shape `(batch, dim, length)`): input, fp32, fp16, bf16 or fp64.
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
        `(batch, dim, length)` in u's dtype; with `return_last_state` also `(batch, dim, state)` in fp32, or fp64.

    Raises:
        ValueError: for shapes that do not fit, or an unknown implementation.
        RuntimeError: for an implementation that cannot run here, with the reason.
    """
    _check_shapes(u, delta, A, B, C, D, z, delta_bias)
    channels = u.new_zeros(u.shape[1], dtype=A.dtype)
    D, delta_bias = (channels if x is None else x for x in (D, delta_bias))
    direction = (u.transpose(1, 2), delta.transpose(1, 2), A, B.transpose(1, 2), C.transpose(1, 2), D, delta_bias)
    gate = None if z is None else z.transpose(1, 2)
    y, last_states = scan([[x] for x in direction], gate, [reverse], delta_softplus, False, implementation)
    y = y.transpose(1, 2)  # (batch, dim, length)
    return (y, last_states[0].transpose(1, 2).detach()) if return_last_state else y


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
    """The reference: [`selective_scan`] as its definition reads, step by step in fp64. Returns fp64. Slow."""
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


def _check_shapes(u, delta, A, B, C, D, z, delta_bias) -> None:
    if u.ndim != 3 or A.ndim != 2:
        raise ValueError(f"`u` must be (batch, dim, length) and `A` (dim, state), got {tuple(u.shape)} and {tuple(A.shape)}.")
    if not u.is_floating_point() or A.is_complex():
        raise ValueError(f"`u` must be floating point and `A` real, got {u.dtype} and {A.dtype}.")
    (batch, dim, length), state = u.shape, A.shape[1]
    if state == 0:
        raise ValueError("`A` must have at least one state number for each channel, got none.")
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


__all__ = ["selective_scan", "selective_scan_reference"]
