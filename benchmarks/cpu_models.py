"""Whole models on a CPU, in inference: against their matrix products, against attention, and on long videos. Batch 1."""

import resource
import time
from collections.abc import Callable
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import medians
from benchmarks.cpu_scan import matrix_products, time_step_bias, transformers_scan
from benchmarks.models import timesformer, to_bf16, videomae, videomamba
from modeling_videomamba import VideoMambaForVideoClassification, modeling_videomamba
from modeling_videomamba.linear_onednn import linear
from modeling_videomamba.scan_operators import ScanInputs


def inference(model: torch.nn.Module, clips: Tensor) -> Callable[[], Tensor]:
    model.eval()

    @torch.inference_mode()
    def call() -> Tensor:
        return model(clips.to(model.dtype)).logits

    return call


def with_long_memory(model: VideoMambaForVideoClassification) -> VideoMambaForVideoClassification:
    """With the time steps of a trained model. Random weights forget half of a state at every token, and hide what is far."""
    for layer in model.videomamba.layers:
        for scan in (layer.mixer.forward_scan, layer.mixer.backward_scan):
            scan.dt_proj.bias.data = time_step_bias(model.config.intermediate_size)
    return model


def tokens(model: VideoMambaForVideoClassification, clips: Tensor) -> Callable[[], Tensor]:
    """All that comes out of the last block, not only what a classifier looks at."""
    model.eval()

    @torch.inference_mode()
    def call() -> Tensor:
        return model.videomamba(clips.to(model.dtype)).last_hidden_state

    return call


def difference(actual: Tensor, expected: Tensor) -> float:
    """Of the largest expected number."""
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def all_products(
    model: VideoMambaForVideoClassification, frames: int, product: Callable[[Tensor, Tensor], Tensor] = F.linear
) -> Callable[[], None]:
    """The matrix products of all blocks and of the patch embedding."""
    config = model.config
    patches = frames * config.grid_size[0] * config.grid_size[1]
    block = matrix_products(1 + patches, product)
    pixels, embedding = (
        torch.randn(patches, 3 * config.patch_size**2),
        torch.randn(config.hidden_size, 3 * config.patch_size**2),
    )

    @torch.inference_mode()
    def run() -> None:
        product(pixels, embedding)
        for _ in range(config.num_hidden_layers):
            block()

    return run


def with_transformers_scan(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The same model with the scan of transformers' Mamba in it: a loop over the tokens, once a direction."""

    def scan(directions: list[ScanInputs], reverse: list[bool], gate: Tensor, implementation: str) -> Tensor:
        return transformers_scan(directions) * F.silu(gate)

    def run() -> Tensor:
        with mock.patch.object(modeling_videomamba, "scan_directions", scan):
            return call()

    return run


def measure_middle(frames: int, repeats: int, with_peer: bool) -> list[dict[str, object]]:
    """The middle model, with each scan and in bf16, beside its matrix products."""
    torch.manual_seed(0)
    clips = torch.randn(1, frames, 3, 224, 224)
    models = {name: with_long_memory(videomamba("middle", name)(frames, 224)) for name in ("numba", "torch")}
    half = videomamba("middle", "numba")(frames, 224)
    for model in (models["torch"], half):
        model.load_state_dict(models["numba"].state_dict())
    runs = {name: tokens(model, clips) for name, model in models.items()}
    runs["numba, bf16"] = tokens(to_bf16(half), clips)
    products = {"products": all_products(half, frames), "as ours": all_products(half, frames, linear)}
    seconds = medians(products | runs, repeats)
    if with_peer:
        runs["transformers' scan"] = with_transformers_scan(runs["numba"])
        start = time.perf_counter()
        runs["transformers' scan"]()  # once: it takes a minute
        seconds["transformers' scan"] = time.perf_counter() - start
    expected = runs["torch"]()
    return [
        {
            "scan": name,
            "s": seconds[name],
            "/ products": seconds[name] / seconds["products"],
            "/ products as ours": seconds[name] / seconds["as ours"],
            "/ numba": seconds[name] / seconds["numba"],
            "difference of tokens": difference(run(), expected),
        }
        for name, run in runs.items()
    ]


def measure_peers(frames: int, repeats: int, pixels: int = 224) -> dict[str, object]:
    """Seconds a clip, ours and attention's."""
    torch.manual_seed(0)
    models = {
        "Ti": videomamba("tiny", "auto"),
        "TimeSformer-Ti": timesformer(sdpa=False),
        "TimeSformer-Ti, SDPA": timesformer(sdpa=True),
        "S": videomamba("small", "auto"),
        "VideoMAE-S": videomae(384),
    }
    clips = torch.randn(1, frames, 3, pixels, pixels)
    return {"frames": frames} | medians({n: inference(build(frames, pixels), clips) for n, build in models.items()}, repeats)


def measure_long(size: str, frames: int, repeats: int, pixels: int = 224) -> dict[str, object]:
    """Seconds a frame and the process's peak memory; for the shortest also the difference to all tokens at once."""
    torch.manual_seed(0)
    model = with_long_memory(videomamba(size, "auto")(64, pixels))
    tokens(model, torch.zeros(1, 1, 3, pixels, pixels))()  # kernels are compiled
    call = tokens(model, torch.randn(1, frames, 3, pixels, pixels))
    row = {"model": size, "frames": frames, "tokens": 1 + frames * (pixels // 16) ** 2}
    if repeats > 1:
        call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        in_chunks = call()
        seconds.append(time.perf_counter() - start)
    row["s / frame"] = sorted(seconds)[len(seconds) // 2] / frames
    row["peak GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    row["difference to all at once"] = None
    if repeats > 1:
        for layer in model.videomamba.layers:
            layer.mixer.segment_length = None
        row["difference to all at once"] = difference(call(), in_chunks)
    return row
