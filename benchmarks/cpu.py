"""The scan, whole models and long videos on this machine's CPU: against matrix products, a loop in Python, and attention.

    python -m benchmarks.cpu               # tables and plots into benchmarks/results/cpu*, in about half an hour
    python -m benchmarks.cpu --dry-run     # the same at toy sizes, to see that the script works

Everything is in fp32 unless it says otherwise. What is compared is timed in turn in one process, which it has to itself;
numbers are medians. The peers are transformers' own classes: TimeSformer-Ti with joint attention over space and time, as it is
and through PyTorch's scaled dot product (SDPA), and VideoMAE-S, which has SDPA of its own and joins two frames in a token.
"""

import argparse
import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import matplotlib


matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator

from benchmarks import cpu_models, cpu_scan
from benchmarks.common import RESULTS, provenance, save_figure, table


NAMES = {"tiny": "Ti", "small": "S", "middle": "M"}


def alone(measure: Callable, *args: object) -> object:
    """Calls it in a process of its own, so that nothing depends on what ran before."""
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(measure, args)


def scan_rows(dry: bool) -> list[dict]:
    lengths = (17, 40) if dry else (1569, 3137, 12545)
    return [alone(cpu_scan.measure, length, 2 if dry else 9, length <= 3137) for length in lengths]


def middle_rows(dry: bool) -> list[dict]:
    return alone(cpu_models.measure_middle, 1 if dry else 16, 1 if dry else 5, not dry)


def peer_rows(dry: bool) -> list[dict]:
    if dry:
        return [alone(cpu_models.measure_peers, frames, 1, 32) for frames in (2, 4)]
    return [alone(cpu_models.measure_peers, frames, repeats) for frames, repeats in ((8, 7), (16, 5), (32, 3), (64, 1))]


def long_rows(dry: bool) -> list[dict]:
    frames = ((4, 2), (8, 1)) if dry else ((64, 3), (300, 1), (900, 1))
    sizes = ("tiny",) if dry else ("tiny", "middle")
    return [alone(cpu_models.measure_long, size, n, repeats, 32 if dry else 224) for size in sizes for n, repeats in frames]


def peers_table(rows: list[dict]) -> str:
    """Seconds, and the others' in those of ours; VideoMAE's also where it has as many tokens, at twice the frames."""
    by_frames = {row["frames"]: row for row in rows}
    printed = []
    for row in rows:
        line = dict(row)
        for name, ours in (("TimeSformer-Ti", "Ti"), ("TimeSformer-Ti, SDPA", "Ti"), ("VideoMAE-S", "S")):
            line[f"{name} / {ours}"] = row[name] / row[ours]
        twice = by_frames.get(2 * row["frames"])
        line["at equal tokens"] = twice["VideoMAE-S"] / row["S"] if twice else None
        printed.append(line)
    return table(printed)


def long_table(rows: list[dict]) -> str:
    first = {}
    printed = []
    for row in rows:
        line = dict(row)
        seconds, peak, difference = (line.pop(name) for name in ("s / frame", "peak GiB", "difference to all at once"))
        first.setdefault(row["model"], seconds)
        line |= {"model": NAMES[row["model"]], "s / frame": seconds, "/ that of the first": seconds / first[row["model"]]}
        printed.append(line | {"peak GiB": peak, "difference to all at once": difference})
    return table(printed)


def plot_peers(rows: list[dict], path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    frames = [row["frames"] for row in rows]
    for axis, names in zip(axes, (("Ti", "TimeSformer-Ti", "TimeSformer-Ti, SDPA"), ("S", "VideoMAE-S"))):
        for name in names:
            label = f"VideoMamba-{name}" if name in ("Ti", "S") else name
            axis.plot(frames, [row[name] for row in rows], marker="o", label=label)
        axis.set(xlabel="frames of 224 pixels", ylabel="seconds a clip", xscale="log", yscale="log")
        axis.set_xticks(frames, labels=frames)
        axis.minorticks_off()
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.legend()
    save_figure(figure, path)


def plot_long(rows: list[dict], path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    for axis, what in zip(axes, ("s / frame", "peak GiB")):
        for size in dict.fromkeys(row["model"] for row in rows):
            points = [(row["frames"], row[what]) for row in rows if row["model"] == size]
            axis.plot(*zip(*points), marker="o", label=f"VideoMamba-{NAMES[size]}")
        axis.set(xlabel="frames of 224 pixels", ylabel=what, ylim=(0, None), xlim=(0, None))
        axis.legend()
    save_figure(figure, path)


PARTS = {
    "scan": (scan_rows, table, "The scan of one block of M, both directions; `torch` is the package without the extra:"),
    "middle": (middle_rows, table, "M, 16 frames of 224 pixels, with different scans in it, and its matrix products alone:"),
    "peers": (peer_rows, peers_table, "Seconds a clip, and of attention over ours:"),
    "long": (
        long_rows,
        long_table,
        'Long videos, tokens in chunks of 8192; "first" is the model\'s row with the fewest frames:',
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="at toy sizes")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    file = args.output / "cpu.json"
    raw, header = json.loads(file.read_text()) if file.exists() else {}, provenance()
    for part in args.parts:  # a part that is not measured now is taken from the run before
        measure, as_table, title = PARTS[part]
        raw[part] = {"rows": measure(args.dry_run), "provenance": header}
        print(f"{title}\n\n{as_table(raw[part]['rows'])}\n\n{raw[part]['provenance']}\n", flush=True)
        file.write_text(json.dumps(raw, indent=1) + "\n")

    sections = [__doc__.splitlines()[0]]
    for part, (_, as_table, title) in PARTS.items():
        if part in raw:
            sections += [title, as_table(raw[part]["rows"]), raw[part]["provenance"]]
    (args.output / "cpu.md").write_text("\n\n".join(sections) + "\n")
    if "peers" in raw:
        plot_peers(raw["peers"]["rows"], args.output / "cpu_attention.png")
    if "long" in raw:
        plot_long(raw["long"]["rows"], args.output / "cpu_long.png")


if __name__ == "__main__":
    main()
