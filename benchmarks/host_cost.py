"""What a layer costs the processor that drives a GPU, measured without one: operators, kernel launches, and microseconds.

    python -m benchmarks.host_cost

A few tokens go through a narrow layer on a CPU, so that there is next to nothing to compute. The launches of the Triton
kernels, and the functions of mamba_ssm and of transformers' Mamba, are replaced by nothing: what is left is Python and
PyTorch. On a GPU, each launch of Triton's costs some 16 us more. Views are not counted as operators.
"""

import argparse
import os


os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: its kernels can be launched without a GPU, or not at all

import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import MambaConfig, TimesformerConfig
from transformers.models.mamba import modeling_mamba
from transformers.models.timesformer.modeling_timesformer import TimesformerLayer
from triton.runtime.interpreter import InterpretedFunction

from benchmarks.common import RESULTS, provenance
from modeling_videomamba import VideoMambaConfig, scan_backends
from modeling_videomamba.modeling_videomamba import VideoMambaLayer


TOKENS, WIDTH = 9, 32
LAUNCHES = Counter()


class OperatorCounter(TorchDispatchMode):
    """Counts the operators that are not views; a conversion is one if it converts."""

    def __init__(self):
        super().__init__()
        self.operators = Counter()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        output = operator(*args, **(kwargs or {}))
        is_view = operator.is_view or operator.name() in ("aten::detach", "aten::alias")
        if operator.name().startswith("aten::to."):
            is_view = output is args[0]
        self.operators[operator.name()] += not is_view
        return output


def no_launch(kernel: InterpretedFunction, grid: tuple) -> Callable[..., None]:
    LAUNCHES[kernel.fn.__name__] += 1
    return lambda *args, **kwargs: None


class Nothing(torch.autograd.Function):
    """A function of another library: an output like u, and gradients like the inputs, without computing any."""

    @staticmethod
    def forward(ctx, u: Tensor, *others: Tensor) -> Tensor:
        ctx.save_for_backward(u, *others)
        return torch.empty_like(u)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors)


def selective_scan_fn(
    *, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, **_
) -> tuple:
    return Nothing.apply(u, delta, A, B, C, D, delta_bias), u.new_empty(len(u), *A.shape)


def causal_conv1d_fn(*, x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
    return Nothing.apply(x, weight, bias)


@contextmanager
def nothing_is_computed() -> Iterator[None]:
    """mamba_ssm and causal_conv1d seem to be installed, and no kernel runs."""
    modules = {
        "selective_scan_cuda": {},
        "mamba_ssm": {},
        "mamba_ssm.ops": {},
        "mamba_ssm.ops.selective_scan_interface": {"selective_scan_fn": selective_scan_fn},
        "causal_conv1d": {"causal_conv1d_fn": causal_conv1d_fn},
    }
    their_scan = mock.patch.object(
        modeling_mamba, "mamba_selective_scan", lambda u, delta, A, B, C, D, **_: Nothing.apply(u, delta, A, B, C, D)
    )
    their_convolution = mock.patch.object(
        modeling_mamba, "causal_conv1d_fn", lambda x, weight, bias, **_: Nothing.apply(x, weight, bias)
    )
    with (
        mock.patch.dict(sys.modules, {name: SimpleNamespace(**content) for name, content in modules.items()}),
        mock.patch.object(InterpretedFunction, "__getitem__", no_launch),
        mock.patch.object(scan_backends, "_why_not", lambda *_: None),
        mock.patch.dict(scan_backends._LOADED, clear=True),
        torch.backends.mkldnn.flags(enabled=False),  # whose products cost a CPU more than those on a GPU cost its host
        their_scan,
        their_convolution,
    ):
        yield


def layers(dtype: torch.dtype) -> dict[str, nn.Module]:
    """A layer of each kind, in training mode."""
    config = VideoMambaConfig(hidden_size=WIDTH)
    mamba = MambaConfig(hidden_size=WIDTH, state_size=16, num_hidden_layers=1)
    timesformer = TimesformerConfig(hidden_size=WIDTH, num_attention_heads=2, intermediate_size=4 * WIDTH, num_frames=1)
    timesformer.attention_type = "joint_space_time"

    def ours(backend: str) -> nn.Module:
        config.scan_implementation = backend
        layer = VideoMambaLayer(config, 0).to(dtype)
        for scan in (layer.mixer.forward_scan, layer.mixer.backward_scan):
            scan.float().x_proj.to(dtype), scan.conv1d.to(dtype)  # as `from_pretrained` keeps A_log, D and the bias in fp32
            scan.dt_proj.weight.data = scan.dt_proj.weight.data.to(dtype)
        return layer

    return {
        "VideoMamba, triton": ours("triton"),
        "VideoMamba, mamba_ssm": ours("mamba_ssm"),
        "transformers' Mamba (one direction)": modeling_mamba.MambaBlock(mamba, 0).to(dtype),
        "transformers' TimeSformer": TimesformerLayer(timesformer, 0).to(dtype),
    }


def call(layer: nn.Module, hidden_states: Tensor) -> Tensor:
    if isinstance(layer, TimesformerLayer):
        return layer(hidden_states)[0]
    output = layer(hidden_states)
    return output if isinstance(output, Tensor) else output[0]


def microseconds(run: Callable[[], object], repeats: int) -> list[float]:
    for _ in range(repeats // 4):
        run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return sorted(second * 1e6 for second in seconds)


def measure(layer: nn.Module, hidden_states: Tensor, training: bool, repeats: int) -> dict[str, float]:
    layer.train(training)
    hidden_states = hidden_states.clone().requires_grad_(training)
    upstream = torch.ones_like(hidden_states)

    def run() -> None:
        if training:
            torch.autograd.grad(call(layer, hidden_states), [hidden_states, *layer.parameters()], upstream)
        else:
            with torch.inference_mode():
                call(layer, hidden_states)

    run()
    LAUNCHES.clear()
    with OperatorCounter() as counter:
        run()
    launches = sum(LAUNCHES.values())
    taken = microseconds(run, repeats)
    return {
        "operators": sum(counter.operators.values()),
        "launches": launches,
        "us, min": round(taken[0]),
        "us, median": round(statistics.median(taken)),
    }


def rows(dtype: torch.dtype, repeats: int) -> list[dict[str, object]]:
    torch.manual_seed(0)
    hidden_states = torch.randn(1, TOKENS, WIDTH)
    table = []
    with nothing_is_computed():
        for name, layer in layers(dtype).items():
            inputs = hidden_states if "VideoMamba" in name else hidden_states.to(dtype)  # whose residual stream is fp32
            row = {"layer": name}
            for training in (False, True) if "Mamba (" not in name else (False,):  # it trains by another function
                part = "training step" if training else "inference"
                row |= {f"{part}, {key}": x for key, x in measure(layer, inputs, training, repeats).items()}
            table.append(row)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=RESULTS / "host_cost.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    text = [__doc__.splitlines()[0], "", provenance()]
    for dtype in (torch.float32, torch.bfloat16):
        table = rows(dtype, args.repeats)
        names = list(table[0])
        lines = [names, ["---"] * len(names), *([str(row.get(name, "–")) for name in names] for row in table)]
        text += ["", f"Weights in {str(dtype).removeprefix('torch.')}:", ""]
        text += [f"| {' | '.join(line)} |" for line in lines]
    args.output.write_text("\n".join(text) + "\n")
    print("\n".join(text[2:]))


if __name__ == "__main__":
    main()
