"""Linear layers of inference on AMD's processors: oneDNN's matrix products, of numbers of rows that it is fast at.

PyTorch hands fp32 products on a CPU to MKL, whose take about twice as long on an AMD EPYC (Zen 5) as those of oneDNN, which
comes with PyTorch as well and does its bf16 products. And oneDNN cuts the rows into blocks: where a few are left over, as of
the 3137 tokens of 16 frames, all of a product may take a third longer, so these few become a product of their own. On other
processors, and wherever somebody looks at the operators or differentiates them, this is `torch.nn.functional.linear`.
"""

import math
import platform
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook


DTYPES = (torch.float32, torch.bfloat16)
BLOCK, FEW = 64, 16  # rows


def project(module: nn.Module, input: Tensor) -> Tensor:
    """`module(input)`, by oneDNN if that is a plain `nn.Linear`, with nothing attached to it.

    Libraries quantise, adapt, offload or watch a linear layer by replacing it, its class or its `forward`, or by hooks. All of
    them find an `nn.Linear` in the model, and are called as they expect.
    """
    if _is_plain_linear(module) and _can_take_onednn(input, module.weight, module.bias):
        return _linear_by_onednn(input, module.weight, module.bias)
    return module(input)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, `(..., in_features)` to `(..., out_features)`; the results agree to the dtype's rounding.

    `torch.backends.mkldnn.flags(enabled=False)` turns oneDNN off here, as it does in the rest of PyTorch.
    """
    return (_linear_by_onednn if _can_take_onednn(input, weight, bias) else F.linear)(input, weight, bias)


def _linear_by_onednn(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    *shape, features = input.shape
    rows = math.prod(shape)
    if rows < BLOCK or not 0 < rows % BLOCK < FEW:
        return _product(input, weight, bias)
    x, output = input.reshape(rows, features), input.new_empty(rows, len(weight))
    whole = rows // BLOCK * BLOCK
    for part in (slice(whole), slice(whole, None)):
        _product(x[part], weight, bias, output[part])
    return output.view(*shape, -1)


def _is_plain_linear(module: nn.Module) -> bool:
    return (
        not torch.compiler.is_compiling()
        and type(module) is nn.Linear
        and "forward" not in module.__dict__
        and not (module._forward_pre_hooks or module._forward_hooks or _has_any_global_hook())
    )


def _product(input: Tensor, weight: Tensor, bias: Tensor | None, output: Tensor | None = None) -> Tensor:
    """By oneDNN, and into `output` if there is one."""
    if input.dtype == torch.float32:
        product = torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")
        return product if output is None else output.copy_(product)
    if output is None:
        return F.linear(input, weight, bias)
    torch.mm(input, weight.T, out=output)
    return output if bias is None else output.add_(bias)


def _can_take_onednn(input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    return (
        not torch.compiler.is_compiling()
        and onednn_is_faster()
        and torch.backends.mkldnn.enabled
        and all(x is None or (_is_plain(x) and x.dtype == input.dtype) for x in (input, weight, bias))
        and (bias is None or bias.is_contiguous())  # it does not look at the strides of a bias
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.jit.is_tracing()
        and torch._C._len_torch_dispatch_stack() == 0  # a FlopCounterMode, say, does not know it
        and torch._C._functorch.peek_interpreter_stack() is None  # nor do torch.func.jvp and vmap
        and forward_ad._current_level < 0
    )


def _is_plain(x: Tensor) -> bool:
    """Not a quantised, a sparse or a fake tensor, say."""
    is_dense = type(x) in (Tensor, torch.nn.Parameter) and x.layout == torch.strided
    return is_dense and x.dtype in DTYPES and x.device.type == "cpu"


@cache
def onednn_is_faster() -> bool:
    """Whether this is an AMD processor with AVX-512 and a PyTorch whose fp32 products are MKL's."""
    cpu_info = Path("/proc/cpuinfo")  # Linux; elsewhere `platform` names the vendor
    vendor = cpu_info.read_text() if cpu_info.exists() else platform.processor()
    has_both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    return has_both and "AuthenticAMD" in vendor and torch.backends.cpu.get_cpu_capability() == "AVX512"
