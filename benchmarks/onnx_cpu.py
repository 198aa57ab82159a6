"""An exported classifier in onnxruntime on a CPU, against the model in PyTorch: Ti, 8 frames of 224 pixels, batch 1, fp32.

    pip install ".[cpu,export]" && python -m benchmarks.onnx_cpu

ONNX has no operator for the scan. In its place it has a loop over the steps, of six elementary operators each.
"""

import argparse
import tempfile
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from benchmarks.common import RESULTS, medians, provenance
from modeling_videomamba import VideoMambaConfig, VideoMambaForVideoClassification
from modeling_videomamba.commands.export import export, load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=Path, default=RESULTS / "onnx_cpu.md")
    args = parser.parse_args()

    def make(implementation: str) -> nn.Module:
        torch.manual_seed(0)
        config = VideoMambaConfig.tiny(num_frames=8, num_labels=400, scan_implementation=implementation)
        return VideoMambaForVideoClassification(config).eval()

    def logits(model: nn.Module, clips: Tensor) -> Tensor:
        with torch.no_grad():
            return model(clips).logits

    clips = torch.randn(2, 8, 3, 224, 224)
    models = {name: make(name) for name in ("numba", "torch")}
    with tempfile.TemporaryDirectory() as folder:
        export(models["torch"], clips, Path(folder) / "model.onnx", description="{}")
        run_onnx = load(Path(folder) / "model.onnx", description="{}")
    runs = {f"PyTorch, `{name}` scan": lambda model=model: logits(model, clips[:1]) for name, model in models.items()}
    runs["onnxruntime"] = lambda: run_onnx(clips[:1])
    expected = runs["PyTorch, `torch` scan"]()
    seconds = medians(runs, args.repeats)

    lines = ["| | ms | difference of logits |", "|---|---|---|"]
    for name, run in runs.items():
        difference = ((run() - expected).abs().max() / expected.abs().max()).item()
        lines.append(f"| {name} | {seconds[name] * 1e3:.0f} | {difference:.1e} |")
    table = "\n".join(lines)
    measured_on = f"{provenance()}; onnxruntime {onnxruntime.__version__}; medians of {args.repeats}"
    args.output.write_text(f"{__doc__.splitlines()[0]}\n\n{measured_on}\n\n{table}\n")
    print(measured_on, table, sep="\n")


if __name__ == "__main__":
    main()
