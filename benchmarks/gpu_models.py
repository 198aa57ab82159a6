"""Whole models on a GPU: clips per second and peak memory of inference and of a training step, against attention."""

import gc
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import TimesformerConfig, TimesformerForVideoClassification, VideoMAEConfig, VideoMAEForVideoClassification
from transformers.models.timesformer.modeling_timesformer import TimesformerSelfAttention

from benchmarks.common import extra_memory, medians
from benchmarks.gpu_operator import has_mamba_ssm
from modeling_videomamba import VideoMambaConfig, VideoMambaForVideoClassification


class SdpaAttention(TimesformerSelfAttention):
    """TimeSformer's attention, for which transformers has the eager form only, as one call of PyTorch's."""

    def forward(self, hidden_states: Tensor, output_attentions: bool = False) -> tuple[Tensor]:
        qkv = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return (F.scaled_dot_product_attention(*qkv, scale=self.scale).transpose(1, 2).flatten(2),)


def videomamba(size: str, implementation: str) -> Callable[[int, int], nn.Module]:
    def build(frames: int, pixels: int) -> nn.Module:
        config = getattr(VideoMambaConfig, size)(num_frames=frames, image_size=pixels, scan_implementation=implementation)
        return VideoMambaForVideoClassification(config)

    return build


def timesformer(sdpa: bool) -> Callable[[int, int], nn.Module]:
    """Of tiny size, with joint attention over space and time: what Fig. 1 of the paper compares with."""

    def build(frames: int, pixels: int) -> nn.Module:
        sizes = {"hidden_size": 192, "num_attention_heads": 3, "num_hidden_layers": 12, "intermediate_size": 768}
        config = TimesformerConfig(
            **sizes, num_frames=frames, image_size=pixels, patch_size=16, attention_type="joint_space_time", num_labels=400
        )
        model = TimesformerForVideoClassification(config)
        for module in model.modules():
            if sdpa and type(module) is TimesformerSelfAttention:
                module.__class__ = SdpaAttention
        return model

    return build


def videomae(width: int) -> Callable[[int, int], nn.Module]:
    def build(frames: int, pixels: int) -> nn.Module:
        sizes = {"hidden_size": width, "num_attention_heads": width // 64, "intermediate_size": 4 * width}
        config = VideoMAEConfig(**sizes, num_frames=frames, image_size=pixels, num_labels=400, attn_implementation="sdpa")
        return VideoMAEForVideoClassification(config)

    return build


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
    model = model.eval().bfloat16()
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
            run = prepare(peers(device)[name](frames, pixels).to(device), batch, frames, 3, pixels, pixels)
            [seconds] = medians({name: run}, repeats, device).values()
            row |= {"clips/s": batch / seconds, "GiB": peak_memory(run, device)}
        except torch.OutOfMemoryError:
            row |= {"clips/s": None, "GiB": None}
        rows.append(row)
        run = None
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
    return rows
