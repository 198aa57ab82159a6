"""The selective scan and the convolution of mamba_ssm and causal_conv1d, if they are installed.

Both know one direction only and want channels before time: the reversed direction runs on flipped copies. Where mamba_ssm is
not installed, or without its CUDA extension, the `kernels` package fetches both from the hub ready built, as it does for
transformers' own Mamba.
"""

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from .causal_conv1d_torch import convolve as convolve_in_torch
from .scan_contract import Directions


def _from_the_hub(name: str) -> ModuleType:
    """
    Raises:
        ImportError: if `kernels` is not installed, or has no build for this device.
    """
    from transformers.integrations.hub_kernels import lazy_load_kernel
    from transformers.utils import is_kernels_available

    if not is_kernels_available():
        raise ImportError("the package kernels is not installed")
    if (module := lazy_load_kernel(name)) is None:
        raise ImportError(f"kernels has no {name} for this device")
    return module


try:  # in a try block, since transformers would ask all users of a saved model to install what is imported outside of one
    import selective_scan_cuda  # noqa: F401  (mamba_ssm imports without its CUDA extension, whose build is optional)
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
except ImportError as error:
    try:
        selective_scan_fn = _from_the_hub("mamba-ssm").ops.selective_scan_interface.selective_scan_fn
    except (ImportError, AttributeError) as hub_error:
        raise ImportError(f"{error} ({hub_error}); install mamba-ssm built with its CUDA extension, or kernels") from error

try:
    from causal_conv1d import causal_conv1d_fn
except Exception:  # a broken build can raise anything: an undefined symbol, a missing library
    try:
        causal_conv1d_fn = _from_the_hub("causal-conv1d").causal_conv1d_fn
    except (ImportError, AttributeError):
        causal_conv1d_fn = None


def convolve(x: Tensor, weights: list[Tensor], biases: list[Tensor], reverse: list[bool]) -> list[Tensor]:
    """As [`causal_conv1d_torch.convolve`], which it is where causal_conv1d cannot be had or is not made for the width."""
    if causal_conv1d_fn is None or not 2 <= weights[0].shape[1] <= 4:
        return convolve_in_torch(x, weights, biases, reverse)
    outputs = []
    for i, (weight, flag) in enumerate(zip(weights, reverse)):
        x_ = (x.flip(1) if flag else x).transpose(1, 2)  # (batch, dim, length)
        y = causal_conv1d_fn(x=x_, weight=weight, bias=biases[i] if biases else None, activation="silu").transpose(1, 2)
        outputs.append(y.flip(1) if flag else y)
    return outputs


def scan(directions: Directions, save: bool) -> tuple[Tensor, Tensor]:
    """The first two results that [`scan_contract.Kernels`] states; PyTorch can differentiate them."""
    *tensors, gate, reverse, delta_softplus = directions
    total, last_states = None, []
    for u_, delta_, A_, B_, C_, D_, bias, reverse_ in zip(*tensors, reverse):
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
    return total if gate is None else total * F.silu(gate.to(total.dtype)), torch.stack(last_states)
