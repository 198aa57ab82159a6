"""Whole models on a GPU: clips per second and peak memory of inference and of a training step, against attention."""

import gc
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common import extra_memory, medians
from benchmarks.gpu_operator import has_mamba_ssm
from benchmarks.models import timesformer, to_bf16, videomae, videomamba


def peers(device: str) -> dict[str, Callable[[int, int], nn.Module]]:
    """Every model by name, in the order of the tables."""
    models = {
        f"VideoMamba-{name}": videomamba(size, "auto") for name, size in (("Ti", "tiny"), ("S", "small"), ("M", "middle"))
    }
    if has_mamba_ssm(device):
        sizes = (("Ti", "tiny"), ("S", "small"), ("M", "middle"))
        models |= {f"VideoMamba-{name}, mamba_ssm": videomamba(size, "mamba_ssm") for name, size in sizes}
    models |= {"TimeSformer-Ti joint, eager": timesformer(sdpa=False), "TimeSformer-Ti joint, SDPA": timesformer(sdpa=True)}
    return models | {"VideoMAE-S, SDPA": videomae(384), "VideoMAE-B, SDPA": videomae(768)}


def inference(model: nn.Module, *shape: int) -> Callable[[], object]:
    model = to_bf16(model).eval()
    clips = torch.randn(shape, dtype=torch.bfloat16, device=model.device)

    @torch.inference_mode()
    def call() -> Tensor:
        return model(clips).logits

    return call


def training(model: nn.Module, *shape: int) -> Callable[[], object]:
    """A step in bf16 autocast with fp32 weights and AdamW, as the Trainer makes it."""
    model = model.train()
    clips = torch.randn(shape, device=model.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    labels = torch.zeros(len(clips), dtype=torch.long, device=clips.device)

    def call() -> None:
        with torch.autocast(clips.device.type, torch.bfloat16):
            loss = F.cross_entropy(model(clips).logits.float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return call


def peak_memory(run: Callable[[], object], device: str) -> float:
    """GiB that a call allocates at its peak, weights included (on a CPU: beyond what was resident before)."""
    if device != "cuda":
        return extra_memory(run) / 1024
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() / 2**30


def measure(name: str, frames: int, pixels: int, frames_in_a_batch: int, device: str, repeats: int) -> list[dict]:
    """A row for inference and one for a training step; without figures where a model does not fit."""
    rows = []
    for mode, prepare in (("inference", inference), ("training", training)):
        row = {"model": name, "frames": frames, "pixels": pixels, "mode": mode}
        try:
            torch.manual_seed(0)
            batch = max(1, frames_in_a_batch // frames)
            with torch.device(device):  # or the CPU would take longer for the random weights than the GPU for all else
                model = peers(device)[name](frames, pixels)
            run = prepare(model, batch, frames, 3, pixels, pixels)
            [seconds] = medians({name: run}, repeats, device).values()
            row |= {"clips/s": batch / seconds, "GiB": peak_memory(run, device)}
        except torch.OutOfMemoryError:
            row |= {"clips/s": None, "GiB": None}
        rows.append(row)
        model = run = None
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
    return rows
