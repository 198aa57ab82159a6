"""Time and memory of a step of masked pretraining, against the same model on all patches: M, 8 frames of 224 pixels.

    python -m benchmarks.masked_pretraining

A step is forward, backward and AdamW. Memory is what it takes at its peak beyond weights, gradients and the optimizer's state,
which are there before and the same for all; measured in a process of its own. "With teacher" adds the forward pass of a CLIP
ViT-B/16 (random weights) on all patches, which a mask cannot make cheaper.
"""

import argparse
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from benchmarks.common import RESULTS, extra_memory, medians, provenance
from modeling_videomamba import VideoMambaConfig, VideoMambaForPreTraining
from modeling_videomamba.data.masking import draw_noise, mask_patches
from modeling_videomamba.training.teachers import ClipTeacher


CLIP_B16 = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "patch_size": 16,
}
RATIOS = {"all patches": 0.0, "50 %": 0.5, "80 %": 0.8, "90 %": 0.9}


def steps(batch: int, num_layers: int | None) -> dict[str, Callable[[], None]]:
    """A step for each ratio, all of the same model, and the teacher."""
    torch.manual_seed(0)
    layers = {} if num_layers is None else {"num_hidden_layers": num_layers}
    config = VideoMambaConfig.middle(num_frames=8, **layers)
    model = VideoMambaForPreTraining(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    clips = torch.randn(batch, 8, 3, 224, 224)
    noise = torch.stack([draw_noise(8, *config.grid_size) for _ in range(batch)])

    def step(ratio: float) -> None:
        masked = mask_patches(noise, "random", ratio)
        visible = int((~masked[0]).sum())
        targets = torch.full((1, batch, 1 + visible, config.alignment_size), config.alignment_size**-0.5)
        optimizer.zero_grad(set_to_none=False)
        model(clips, masked, targets).loss.backward()
        optimizer.step()

    step(0.9)  # gradients and the optimizer's state are there from now on
    teacher = ClipTeacher(CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP_B16)), config.grid_size)
    runs = {name: lambda ratio=ratio: step(ratio) for name, ratio in RATIOS.items()}
    return runs | {"teacher": lambda: teacher(clips)}


def measure_time(batch: int, repeats: int, num_layers: int | None) -> dict[str, float]:
    return medians(steps(batch, num_layers), repeats)


def measure_memory(batch: int, name: str, num_layers: int | None) -> float:
    return extra_memory(steps(batch, num_layers)[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--layers", type=int, help="fewer blocks than the 32, to try something quickly")
    parser.add_argument("--output", type=Path, default=RESULTS / "masked_pretraining.md")
    args = parser.parse_args()
    measured_on = provenance()

    def in_its_own_process(function: Callable, *arguments: object) -> object:
        with multiprocessing.get_context("spawn").Pool(1) as process:
            return process.apply(function, (args.batch, *arguments, args.layers))

    seconds = in_its_own_process(measure_time, args.repeats)
    mebibytes = {name: in_its_own_process(measure_memory, name) for name in RATIOS}
    whole = seconds["all patches"]
    lines = ["| masked | time / all patches | with teacher | memory / all patches |", "|---|---|---|---|"]
    for name in RATIOS:
        with_teacher = (seconds[name] + seconds["teacher"]) / (whole + seconds["teacher"])
        memory = mebibytes[name] / mebibytes["all patches"]
        lines.append(f"| {name} | {seconds[name] / whole:.2f} | {with_teacher:.2f} | {memory:.2f} |")
    table = "\n".join(lines)
    measured_on = f"{measured_on}; batch {args.batch}, medians of {args.repeats}"
    args.output.write_text(f"{__doc__.splitlines()[0]}\n\n{measured_on}\n\n{table}\n")
    print(measured_on, table, sep="\n")


if __name__ == "__main__":
    main()
