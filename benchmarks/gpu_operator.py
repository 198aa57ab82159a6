"""The scan of one block on a GPU, both directions with D and gate, against mamba_ssm and against the GPU's own limits."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import medians
from modeling_videomamba.scan_backends import why_not_loadable
from modeling_videomamba.scan_operators import ScanInputs, scan_directions


REVERSE = [False, True]
STATE = 16


def scan_inputs(batch: int, length: int, dim: int, device: str) -> tuple[list[ScanInputs], Tensor]:
    """bf16 inputs of both directions and a gate, with the time steps of a trained model: softplus(bias) in [0.001, 0.1]."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=torch.bfloat16)

    def direction() -> ScanInputs:
        step = torch.exp(torch.rand(dim, device=device) * torch.tensor(100.0).log() + torch.tensor(1e-3).log())
        A_log = torch.arange(1.0, STATE + 1, device=device).log().repeat(dim, 1)
        u, delta = F.silu(normal(batch, length, dim)), normal(batch, length, dim)
        B, C = normal(batch, length, 2 * STATE).split(STATE, -1)
        return ScanInputs(u, delta, A_log, B, C, torch.ones(dim, device=device), step + torch.log(-torch.expm1(-step)))

    gate = normal(batch, length, 2 * dim).chunk(2, -1)[1]
    return [direction(), direction()], gate


def channels_first(inputs: list[ScanInputs], gate: Tensor) -> tuple[list[dict[str, Tensor]], Tensor]:
    """What mamba_ssm takes. Its reversed direction gets delta, B and C in its own order: in the reference they come from
    what has been flipped before."""
    directions = []
    for direction, reverse in zip(inputs, REVERSE):
        tensors = direction._asdict()
        tensors["A"] = -torch.exp(tensors.pop("A_log"))
        for name in ("delta", "B", "C"):
            x = tensors[name].flip(1) if reverse else tensors[name]
            tensors[name] = x.transpose(1, 2).contiguous()
        directions.append(tensors | {"u": tensors["u"].transpose(1, 2).contiguous()})
    return directions, gate.transpose(1, 2).contiguous()


def as_the_reference_calls_it(directions: list[dict[str, Tensor]], gate: Tensor) -> Tensor:
    """Two scans, the second on flipped copies of the input and the gate, its output flipped back."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    forward, backward = directions
    y = selective_scan_fn(**forward, z=gate, delta_softplus=True)
    backward = backward | {"u": backward["u"].flip(-1)}
    return y + selective_scan_fn(**backward, z=gate.flip(-1), delta_softplus=True).flip(-1)


def stacked(directions: list[dict[str, Tensor]], gate: Tensor) -> Tensor:
    """One scan of both directions, as two groups of channels, since each has its own A; the gate once, afterwards."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    forward, backward = directions
    backward = backward | {"u": backward["u"].flip(-1)}
    joined = {name: torch.cat((forward[name], backward[name]), -2) for name in ("u", "delta")}
    joined |= {name: torch.stack((forward[name], backward[name]), 1) for name in ("B", "C")}
    joined |= {name: torch.cat((forward[name], backward[name])) for name in ("A", "D", "delta_bias")}
    y, y_back = selective_scan_fn(**joined, delta_softplus=True).chunk(2, 1)
    return (y + y_back.flip(-1)) * F.silu(gate)


def training(run: Callable[..., Tensor], *inputs: object) -> Callable[[], object]:
    """Forward and backward of a run, with gradients of all its inputs."""
    leaves = []

    def leaf(x: object) -> object:
        if isinstance(x, Tensor):
            leaves.append(x.detach().requires_grad_())
            return leaves[-1]
        if isinstance(x, dict):
            return {name: leaf(value) for name, value in x.items()}
        return type(x)(*map(leaf, x)) if isinstance(x, ScanInputs) else [leaf(value) for value in x]

    inputs = [leaf(x) for x in inputs]
    upstream = torch.randn_like(run(*inputs))
    return lambda: torch.autograd.grad(run(*inputs), leaves, upstream)


def inference(run: Callable[..., Tensor], *inputs: object) -> Callable[[], object]:
    @torch.inference_mode()
    def call() -> Tensor:
        return run(*inputs)

    return call


def has_mamba_ssm(device: str) -> bool:
    return device == "cuda" and why_not_loadable("mamba_ssm") is None


def largest_batch(length: int, dim: int, device: str) -> int:
    """The largest power of two, up to 128, for which the peers' tensors in training take half of the free memory or less."""
    if device == "cpu":
        return 2
    bytes_per_sample = 100 * length * dim  # some 40 bf16 tensors of this size
    fitting = torch.cuda.mem_get_info()[0] // 2 // bytes_per_sample
    return min(128, 2 ** (max(fitting, 1).bit_length() - 1))


def limits(batch: int, length: int, dim: int, card: dict[str, float]) -> dict[str, float]:
    """Seconds that the forward pass takes at least: for its bytes, and for its exponentials."""
    numbers = batch * length * (6 * dim + 4 * STATE)  # u, delta for both directions, gate, output; B, C for both
    exponentials = 2 * batch * length * dim * STATE
    return {"bytes": 2 * numbers / card["bytes_per_s"], "exponentials": exponentials / card["exponentials_per_s"]}


def ours(directions: list[ScanInputs], gate: Tensor) -> Tensor:
    return scan_directions(directions, REVERSE, gate)


def measure(length: int, dim: int, batch: int, card: dict[str, float], device: str, repeats: int) -> dict[str, float]:
    """Milliseconds of all peers, and of the limits of the forward pass."""
    torch.manual_seed(0)
    inputs = scan_inputs(batch, length, dim, device)
    runs = {"ours": (ours, *inputs)}
    if has_mamba_ssm(device):
        first = channels_first(*inputs)
        runs |= {"mamba_ssm": (as_the_reference_calls_it, *first), "mamba_ssm stacked": (stacked, *first)}
    row = {"length": length, "dim": dim, "batch": batch}
    row |= {f"limit, {name}": seconds * 1e3 for name, seconds in limits(batch, length, dim, card).items()}
    for mode, prepare in (("forward", inference), ("training", training)):
        prepared = {name: prepare(run, *inputs) for name, (run, *inputs) in runs.items()}
        row |= {f"{name}, {mode}": seconds * 1e3 for name, seconds in medians(prepared, repeats, device).items()}
    return row


def check(device: str) -> float:
    """How far ours and mamba_ssm are apart, relative to the largest output."""
    inputs = scan_inputs(1, 300, 384, device)
    theirs = as_the_reference_calls_it(*channels_first(*inputs)).mT
    return ((ours(*inputs) - theirs).abs().max() / theirs.abs().max()).item()
