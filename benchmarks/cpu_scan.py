"""The scan of one VideoMamba-M block on a CPU, both directions, beside that block's matrix products and transformers' Mamba.

fp32, batch 1. All of a length runs in one process, in turn, and what counts is the ratio. "Products" are the block's
projections: into the mixer, to delta, B and C for both directions, and out of it, by PyTorch; "as ours" means by whichever
library the model takes (`modeling_videomamba/linear_onednn.py`).
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.mamba import modeling_mamba

from benchmarks.common import extra_memory, medians
from modeling_videomamba import VideoMambaConfig
from modeling_videomamba.linear_onednn import linear
from modeling_videomamba.scan_operators import ScanInputs, scan_directions


CONFIG = VideoMambaConfig.middle()
REVERSE = [False, True]
IMPLEMENTATIONS = ("numba", "torch")


def time_step_bias(dim: int) -> Tensor:
    """Its softplus is log-uniform in [0.001, 0.1], as Mamba starts: states last for ten to a thousand tokens."""
    step = torch.exp(torch.rand(dim) * math.log(100) + math.log(1e-3))
    return step + torch.log(-torch.expm1(-step))


def scan_inputs(length: int, requires_grad: bool = False) -> list[ScanInputs]:
    """Inputs of both directions, with the time steps of a trained model."""
    dim, state = CONFIG.intermediate_size, CONFIG.state_size
    directions = []
    for _ in range(2):
        direction = ScanInputs(
            u=F.silu(torch.randn(1, length, dim)),
            delta=torch.randn(1, length, dim),
            A_log=torch.arange(1.0, state + 1).log().repeat(dim, 1) + 0.1 * torch.randn(dim, state),
            B=torch.randn(1, length, state),
            C=torch.randn(1, length, state),
            D=torch.ones(dim),
            delta_bias=time_step_bias(dim),
        )
        directions.append(ScanInputs(*(x.requires_grad_(requires_grad) for x in direction)))
    return directions


def matrix_products(length: int, product: Callable[[Tensor, Tensor], Tensor] = F.linear) -> Callable[[], None]:
    """The matrix products of one block."""
    hidden, inner, rank, state = CONFIG.hidden_size, CONFIG.intermediate_size, CONFIG.time_step_rank, CONFIG.state_size
    x, y = torch.randn(length, hidden), torch.randn(length, inner)
    in_proj, out_proj = torch.randn(2 * inner, hidden), torch.randn(hidden, inner)
    x_proj, dt_proj = torch.randn(rank + 2 * state, inner), torch.randn(inner, rank)

    @torch.inference_mode()
    def run() -> None:
        product(x, in_proj)
        for _ in range(2):
            product(product(y, x_proj)[:, :rank], dt_proj)
        product(y, out_proj)

    return run


def scans(length: int, implementation: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """Our scan of one block: forward alone, as in inference, and forward and backward."""
    inference, training = scan_inputs(length), scan_inputs(length, requires_grad=True)
    upstream = torch.randn(1, length, CONFIG.intermediate_size)

    def forward() -> None:
        with torch.inference_mode():
            scan_directions(inference, REVERSE, implementation=implementation)

    def forward_and_backward() -> None:
        y = scan_directions(training, REVERSE, implementation=implementation)
        torch.autograd.grad(y, [x for direction in training for x in direction], upstream)

    return forward, forward_and_backward


def transformers_scan(directions: list[ScanInputs]) -> Tensor:
    """Transformers' own fallback for Mamba, once a direction, the backward one on flipped copies."""
    total = 0
    for direction, reverse in zip(directions, REVERSE):
        u, delta, B, C = (x.mT.contiguous() for x in (direction.u, direction.delta, direction.B, direction.C))
        if reverse:
            u, delta, B, C = (x.flip(-1) for x in (u, delta, B, C))
        y = modeling_mamba.mamba_selective_scan(
            u, delta, -torch.exp(direction.A_log), B, C, direction.D, delta_bias=direction.delta_bias, delta_softplus=True
        )
        total = total + (y.flip(-1) if reverse else y)
    return total.mT


def measure(length: int, repeats: int, with_peer: bool) -> dict[str, object]:
    """The row of one length. `with_peer`: whether to run transformers' scan, which is slow."""
    torch.manual_seed(0)
    runs = {"products": matrix_products(length), "as ours": matrix_products(length, linear)}
    for name in IMPLEMENTATIONS:
        runs[f"{name} forward"], runs[f"{name} training"] = scans(length, name)
    median = medians(runs, repeats)
    row = {"length": length, "products, ms": median["products"] * 1e3, "as ours, ms": median["as ours"] * 1e3}
    for name in IMPLEMENTATIONS:
        forward, training = median[f"{name} forward"], median[f"{name} training"]
        row[f"{name} / products"], row[f"{name}, fwd + bwd / fwd"] = forward / median["products"], training / forward
        row[f"{name}, extra MiB fwd"] = extra_memory(runs[f"{name} forward"])
        row[f"{name}, fwd + bwd"] = extra_memory(runs[f"{name} training"])
    row["transformers' scan / numba"] = row["difference"] = None
    if with_peer:
        directions = scan_inputs(length)
        with torch.inference_mode():
            theirs, ours = (
                partial(scan, directions) for scan in (transformers_scan, partial(scan_directions, reverse=REVERSE))
            )
            pair = medians({"theirs": theirs, "ours": ours}, repeats=3)
            row["difference"] = (theirs() - ours()).abs().max().item()
        row["transformers' scan / numba"] = pair["theirs"] / pair["ours"]
    return row
