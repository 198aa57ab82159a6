"""The scan and the models on this machine's GPU: against mamba_ssm, against attention, and against the GPU's own limits.

    python -m benchmarks.gpu               # tables, plots and raw numbers into benchmarks/results/gpu*
    python -m benchmarks.gpu --dry-run     # the same on a CPU at toy sizes, to see that the script works

Nothing is built. Without mamba_ssm's CUDA extension its columns stay empty; `benchmarks/build_mamba_ssm.sh` builds it. What is
compared is timed in turn, in one run; numbers are medians.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import matplotlib
import torch
import triton
import triton.language as tl


matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks import gpu_models, gpu_operator
from benchmarks.common import RESULTS, medians, provenance, save_figure, table
from modeling_videomamba import scan_report
from modeling_videomamba.scan_backends import why_not_loadable


DIMS = (384, 768, 1152)  # of Ti, S and M
LENGTHS = (197, 1569, 3137, 12545, 36865)  # an image; 8, 16 and 64 frames of 224 pixels; 64 of 384
CLIPS = ((8, 224), (16, 224), (32, 224), (64, 224), (64, 384))  # frames, pixels
EAGER, SDPA = "TimeSformer-Ti joint, eager", "TimeSformer-Ti joint, SDPA"


@triton.jit
def exponentials_kernel(out, repeats, BLOCK: tl.constexpr) -> None:
    """`exp2` of `BLOCK` numbers, over and over, in registers."""
    x = tl.arange(0, BLOCK) * 1e-3
    for _ in range(repeats):
        x = tl.exp2(-x)
    tl.store(out + tl.arange(0, BLOCK), x)


def measure_card(device: str) -> dict[str, float]:
    """Bytes that a copy moves and exponentials of fp32 numbers, per second."""
    source = torch.zeros(2**30 if device == "cuda" else 2**24, dtype=torch.uint8, device=device)
    target, numbers = torch.empty_like(source), torch.rand(2**20, device=device)
    if device == "cuda":
        repeats, programs, block = 4096, 4096, 1024
        exponentials, count = (
            partial(exponentials_kernel[(programs,)], numbers, repeats, BLOCK=block),
            repeats * programs * block,
        )
    else:
        exponentials, count = partial(torch.exp2, numbers), numbers.numel()
    seconds = medians({"copy": partial(target.copy_, source), "exponentials": exponentials}, 5, device)
    return {"bytes_per_s": 2 * source.numel() / seconds["copy"], "exponentials_per_s": count / seconds["exponentials"]}


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    return None if numerator is None or not denominator else numerator / denominator


def operator_row(row: dict[str, float]) -> dict[str, object]:
    """A row as it is printed: ours in ms, the others as multiples of ours."""
    binding = max(("bytes", "exponentials"), key=lambda name: row[f"limit, {name}"])
    printed = {name: row[name] for name in ("dim", "length", "batch")} | {"bound by": binding}
    printed["limit / ours"] = row[f"limit, {binding}"] / row["ours, forward"]
    for mode in ("forward", "training"):
        printed[f"ours, {mode}, ms"] = row[f"ours, {mode}"]
        for peer in ("mamba_ssm", "mamba_ssm stacked"):
            printed[f"{peer} / ours, {mode}"] = ratio(row.get(f"{peer}, {mode}"), row[f"ours, {mode}"])
    return printed


def extrapolate_memory(rows: list[dict]) -> None:
    """Where eager attention does not fit: from the largest that does, by the size of all attention maps of a batch, which is
    the number of clips times the tokens of a clip squared. The number of frames in a batch is fixed."""

    def attention(row: dict) -> int:
        return row["frames"] * row["pixels"] ** 4

    for mode in ("inference", "training"):
        eager = [row for row in rows if (row["model"], row["mode"]) == (EAGER, mode)]
        fitting = max((row for row in eager if row["GiB"] is not None), key=attention, default=None)
        for row in eager if fitting else ():
            if row["GiB"] is None:
                row["GiB, extrapolated"] = fitting["GiB"] * attention(row) / attention(fitting)


def models_table(rows: list[dict]) -> str:
    printed = {}
    for row in rows:
        key = (row["model"], row["pixels"], row["frames"])
        line = printed.setdefault(key, dict(zip(("model", "pixels", "frames"), key)))
        line[f"{row['mode']}, clips/s"] = row["clips/s"]
        estimate = row.get("GiB, extrapolated")
        line[f"{row['mode']}, GiB"] = f"({estimate:.3g}, extrapolated)" if estimate else row["GiB"]
    return table(list(printed.values()))


def targets(operator: list[dict], models: list[dict]) -> list[dict[str, object]]:
    """What we set out to reach, and what this run reached."""
    found = {(row["model"], row["frames"], row["pixels"], row["mode"]): row for row in models}

    def model_ratio(what: str, ours: str, theirs: str, frames: int, mode: str = "inference") -> float | None:
        a, b = (found.get((name, frames, 224, mode), {}) for name in (ours, theirs))
        return ratio(a.get(what) or a.get(f"{what}, extrapolated"), b.get(what) or b.get(f"{what}, extrapolated"))

    lines = []
    for row in operator:
        if row["dim"] == 1152 and row["length"] in (3137, 12545):
            where = f"M, length {row['length']}, batch {row['batch']}"
            for mode, target in (("forward", 2), ("training", 1.7)):
                reached = ratio(row.get(f"mamba_ssm, {mode}"), row[f"ours, {mode}"])
                lines.append((f"{where}: mamba_ssm / ours, {mode}", f">= {target}", reached))
            if row["length"] == 12545:
                lines.append((f"{where}: limit / ours, forward", ">= 0.6", operator_row(row)["limit / ours"]))
    tiny, middle, theirs = "VideoMamba-Ti", "VideoMamba-M", "VideoMamba-M, mamba_ssm"
    lines += [
        ("M, 16 frames: clips/s, ours / mamba_ssm, inference", ">= 1.5", model_ratio("clips/s", middle, theirs, 16)),
        ("M, 16 frames: the same, training", ">= 1.3", model_ratio("clips/s", middle, theirs, 16, "training")),
        ("M, 16 frames: memory, ours / mamba_ssm, training", "<= 0.8", model_ratio("GiB", middle, theirs, 16, "training")),
        ("Ti, 64 frames: clips/s, ours / TimeSformer-Ti eager", ">= 6", model_ratio("clips/s", tiny, EAGER, 64)),
        ("Ti, 64 frames: clips/s, ours / TimeSformer-Ti SDPA", "> 1", model_ratio("clips/s", tiny, SDPA, 64)),
        ("Ti, 64 frames: memory, ours / TimeSformer-Ti eager", "<= 0.025", model_ratio("GiB", tiny, EAGER, 64)),
        ("Ti, 8 frames: clips/s, ours / TimeSformer-Ti eager", ">= 1", model_ratio("clips/s", tiny, EAGER, 8)),
    ]
    return [dict(zip(("what", "target", "reached"), line)) for line in lines]


def plot_figure_1(rows: list[dict], path: Path) -> None:
    """The paper's Fig. 1: throughput and memory of tiny models over the number of frames."""
    pixels, frames = min(row["pixels"] for row in rows), sorted({row["frames"] for row in rows})
    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    for axis, what in zip(axes, ("clips/s", "GiB")):
        for name in ("VideoMamba-Ti", SDPA, EAGER):
            points = [row for row in rows if (row["model"], row["mode"], row["pixels"]) == (name, "inference", pixels)]
            points = [(row["frames"], row[what]) for row in points if row[what] is not None]
            axis.plot(*zip(*points), marker="o", label=name)
        axis.set(xlabel="frames", ylabel=f"{what}, inference", xscale="log", yscale="log")
        axis.set_xticks(frames, labels=frames)
        axis.minorticks_off()
        axis.legend()
    save_figure(figure, path)


def plot_operator(rows: list[dict], path: Path) -> None:
    """Forward pass over length, at batch 1, with the limit of the GPU."""
    dims = sorted({row["dim"] for row in rows})
    figure, axes = plt.subplots(1, len(dims), figsize=(4 * len(dims), 4), squeeze=False)
    for axis, dim in zip(axes[0], dims):
        points = [row for row in rows if row["dim"] == dim and row["batch"] == 1]
        lengths = [row["length"] for row in points]
        for peer in ("ours", "mamba_ssm", "mamba_ssm stacked"):
            if f"{peer}, forward" in points[0]:
                axis.plot(lengths, [row[f"{peer}, forward"] for row in points], marker="o", label=peer)
        limit = [max(row["limit, bytes"], row["limit, exponentials"]) for row in points]
        axis.plot(lengths, limit, "k--", label="limit of the GPU")
        axis.set(title=f"dim {dim}, batch 1", xlabel="length", ylabel="forward, ms", xscale="log", yscale="log")
        axis.legend()
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, at toy sizes")
    parser.add_argument("--parts", nargs="+", choices=("operator", "models"), default=("operator", "models"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder")
    args = parser.parse_args()
    device, dims, lengths, clips, frames_in_a_batch = "cuda", DIMS, LENGTHS, CLIPS, 128
    if args.dry_run:
        device, dims, lengths, clips, frames_in_a_batch = "cpu", (32, 64), (17, 40), ((2, 32), (4, 32)), 4
    elif not torch.cuda.is_available():
        parser.error("there is no CUDA device; --dry-run shows what the script does")
    args.output.mkdir(parents=True, exist_ok=True)

    missing = why_not_loadable("mamba_ssm") if device == "cuda" else "not on a CPU"
    lines = [provenance(), f"{scan_report(device)}; mamba_ssm: {missing or 'installed'}"]
    raw = {"provenance": lines[0], "mamba_ssm": missing or "installed", "card": measure_card(device)}
    lines.append(", ".join(f"{name.replace('_per_s', '')}: {value:.3g} / s" for name, value in raw["card"].items()))
    print(*lines, sep="\n", flush=True)
    file = args.output / "gpu.json"
    earlier = json.loads(file.read_text()) if file.exists() else {}
    for part in ("operator", "models"):  # a part that is not measured now is taken from the run before
        raw[part] = [] if part in args.parts else earlier.get(part, [])

    for dim in dims if "operator" in args.parts else ():
        for length in lengths:
            for batch in sorted({1, gpu_operator.largest_batch(length, dim, device)}):
                try:
                    row = gpu_operator.measure(length, dim, batch, raw["card"], device, args.repeats)
                except torch.OutOfMemoryError as error:
                    print(f"dim {dim}, length {length}, batch {batch}: {error}", flush=True)
                    continue
                raw["operator"].append(row)
                file.write_text(json.dumps(raw, indent=1) + "\n")
                print(*(f"{name}: {value:.4g}" for name, value in row.items()), sep=", ", flush=True)
    for frames, pixels in clips if "models" in args.parts else ():
        for name in gpu_models.peers(device):
            rows = gpu_models.measure(name, frames, pixels, frames_in_a_batch, device, args.repeats)
            raw["models"] += rows
            file.write_text(json.dumps(raw, indent=1) + "\n")
            print(*rows, sep="\n", flush=True)
    if missing is None:
        raw["difference to mamba_ssm"] = gpu_operator.check(device)
        lines.append(f"largest difference to mamba_ssm's output, relative: {raw['difference to mamba_ssm']:.1e}")

    parts = [__doc__.splitlines()[0], "\n".join(lines)]
    if raw["operator"]:
        title = "The scan of one block (the shortest are bound by launches, whatever the limits of the GPU):"
        parts += [title, table([operator_row(row) for row in raw["operator"]])]
        plot_operator(raw["operator"], args.output / "gpu_operator.png")
    if raw["models"]:
        extrapolate_memory(raw["models"])
        title = (
            f"Models, batches of {frames_in_a_batch} frames (VideoMAE joins two frames in a token, so it has half as many):"
        )
        parts += [title, models_table(raw["models"])]
        plot_figure_1(raw["models"], args.output / "gpu_figure_1.png")
    if raw["operator"] and raw["models"]:
        parts += ["Targets:", table(targets(raw["operator"], raw["models"]))]
    file.write_text(json.dumps(raw, indent=1) + "\n")
    (args.output / "gpu.md").write_text("\n\n".join(parts) + "\n")
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
