"""The selective scan and the convolution of mamba_ssm and causal_conv1d, if they are installed.

Both know one direction only and want channels before time: the reversed direction runs on flipped copies.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .causal_conv1d_torch import causal_conv1d as causal_conv1d_torch


try:  # in a try block, since transformers would ask all users of a saved model to install what is imported outside of one
    import selective_scan_cuda  # noqa: F401  (mamba_ssm imports without its CUDA extension, whose build is optional)
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
except ImportError as error:
    raise ImportError(f"{error}; install mamba-ssm built with its CUDA extension") from error

try:
    from causal_conv1d import causal_conv1d_fn
except Exception:  # a broken build can raise anything: an undefined symbol, a missing library
    causal_conv1d_fn = None


def causal_conv1d(x: Tensor, weights: list[Tensor], biases: list[Tensor], reverse: list[bool]) -> list[Tensor]:
    """As [`causal_conv1d_torch.causal_conv1d`], which it is where causal_conv1d is not installed or not made for the width."""
    if causal_conv1d_fn is None or not 2 <= weights[0].shape[1] <= 4:
        return causal_conv1d_torch(x, weights, biases, reverse)
    outputs = []
    for i, (weight, flag) in enumerate(zip(weights, reverse)):
        x_ = (x.flip(1) if flag else x).transpose(1, 2)  # (batch, dim, length)
        y = causal_conv1d_fn(x=x_, weight=weight, bias=biases[i] if biases else None, activation="silu").transpose(1, 2)
        outputs.append(y.flip(1) if flag else y)
    return outputs


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
    """As [`selective_scan_torch.selective_scan_lanes`]."""
    total, last_states = None, []
    for u_, delta_, A_, B_, C_, D_, bias, reverse_ in zip(u, delta, A, B, C, D, delta_bias, reverse):
        tensors = [x.to(u_.dtype).transpose(1, 2) for x in (u_, delta_, B_, C_)]  # (batch, dim or state, length)
        u_, delta_, B_, C_ = (x.flip(-1) for x in tensors) if reverse_ else tensors
        y, last_state = selective_scan_fn(  # (batch, dim, length), (batch, dim, state)
            u=u_,
            delta=delta_,
            A=A_.float(),
            B=B_,
            C=C_,
            D=D_.float(),
            delta_bias=bias.float(),
            delta_softplus=delta_softplus,
            return_last_state=True,
        )
        y = (y.flip(-1) if reverse_ else y).transpose(1, 2)  # (batch, length, dim)
        total = y if total is None else total + y
        last_states.append(last_state.transpose(1, 2))
    return total if z is None else total * F.silu(z.to(total.dtype)), torch.stack(last_states)
