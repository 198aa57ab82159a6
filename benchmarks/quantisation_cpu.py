"""A classifier's forward pass on a CPU in lower precision, against fp32: S, 8 frames of 224 pixels, batch 1, random weights.

    pip install torchao && python -m benchmarks.quantisation_cpu

int8 is what torchao and `torch.ao.quantization` make of the blocks' linear layers, which hold nine tenths of the weights: of
weights alone or, at every call, of activations too. The rest stays in fp32 or bf16. "Compiled" is `torch.compile` of every
block. The error is the largest of the logits, relative to the largest logit.
"""

import argparse
import copy
import io
import warnings
from pathlib import Path

import torch
import torchao
from torch import Tensor, nn
from torch.ao.quantization import quantize_dynamic
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_

from benchmarks.common import RESULTS, medians, provenance
from benchmarks.models import to_bf16
from modeling_videomamba import VideoMambaConfig, VideoMambaForVideoClassification


def with_torchao(model: nn.Module, config: object) -> nn.Module:
    model = copy.deepcopy(model)
    quantize_(model, config, filter_fn=lambda module, name: isinstance(module, nn.Linear) and name.endswith("_proj"))
    return model


def compiled(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    for layer in model.videomamba.layers:  # alike, so that one compilation serves all
        layer.compile(fullgraph=True)
    return model


def saved_megabytes(model: nn.Module) -> float:
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.tell() / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--layers", type=int, default=24, help="fewer blocks than the 24, to try something quickly")
    parser.add_argument("--output", type=Path, default=RESULTS / "quantisation_cpu.md")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # both libraries are full of deprecated functions

    torch.manual_seed(0)
    config = VideoMambaConfig.small(num_frames=8, num_labels=400, num_hidden_layers=args.layers)
    fp32 = VideoMambaForVideoClassification(config).eval()
    bf16 = to_bf16(copy.deepcopy(fp32))
    weights, activations = Int8WeightOnlyConfig(), Int8DynamicActivationInt8WeightConfig()
    models = {
        "fp32": fp32,
        "bf16": bf16,
        "int8 weights (torchao), fp32": with_torchao(fp32, weights),
        "int8 weights (torchao), bf16": with_torchao(bf16, weights),
        "int8 weights and activations (torchao), fp32": with_torchao(fp32, activations),
        "int8 weights and activations (torchao), bf16": with_torchao(bf16, activations),
        "int8 weights and activations (torch.ao), fp32": quantize_dynamic(fp32, {nn.Linear}),
    }
    clip = torch.randn(1, 8, 3, 224, 224)
    sizes = {name: saved_megabytes(model) for name, model in models.items()}
    models |= {f"{name}, compiled": compiled(model) for name, model in models.items() if "torch.ao" not in name}

    def logits(model: nn.Module) -> Tensor:
        with torch.no_grad():
            return model(clip).logits.float()

    expected = logits(fp32)
    errors = {name: ((logits(model) - expected).abs().max() / expected.abs().max()).item() for name, model in models.items()}
    seconds = medians({name: lambda model=model: logits(model) for name, model in models.items()}, args.repeats)

    lines = ["| | time / fp32 | compiled | weights, MB | error of logits |", "|---|---|---|---|---|"]
    for name, size in sizes.items():
        in_eager, in_compiled = (
            f"{seconds[key] / seconds['fp32']:.2f}" if key in seconds else "–" for key in (name, f"{name}, compiled")
        )
        lines.append(f"| {name} | {in_eager} | {in_compiled} | {size:.0f} | {errors[name]:.1e} |")
    table = "\n".join(lines)
    measured_on = f"{provenance()}; torchao {torchao.__version__}; fp32: {seconds['fp32']:.2f} s, medians of {args.repeats}"
    args.output.write_text(f"{__doc__.splitlines()[0]}\n\n{measured_on}\n\n{table}\n")
    print(measured_on, table, sep="\n")


if __name__ == "__main__":
    main()
