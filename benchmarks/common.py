"""What the benchmarks share: interleaved timing, memory, and a header that says where numbers come from."""

import ctypes
import math
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from matplotlib.figure import Figure


RESULTS = Path(__file__).parent / "results"


def medians(runs: dict[str, Callable[[], object]], repeats: int, device: str = "cpu") -> dict[str, float]:
    """Median seconds of each run, taken in turn, A B C A B C ..., so that drift of a shared machine hits all alike.

    Each timed call follows an untimed one of the same kind. Otherwise it would pay the page faults for memory that the call
    before it, of another kind, has given back to the system.
    """
    time_call = _seconds_on_gpu if device == "cuda" else _seconds
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            run()
            seconds[name].append(time_call(run))
    return {name: statistics.median(values) for name, values in seconds.items()}


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _seconds_on_gpu(run: Callable[[], object], enough: float = 0.05) -> float:
    """Of one of so many calls in a row as take `enough` seconds, so that the GPU does not wait for Python where its work is
    longer than that."""

    def of_each(calls: int) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / calls

    alone = of_each(1)
    return alone if alone > enough else of_each(math.ceil(enough / alone))


def extra_memory(run: Callable[[], object]) -> float:
    """MiB of resident memory that a call takes at its peak beyond what was resident before. Linux only."""

    def status(field: str) -> int:
        [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
        return int(line.split()[1])

    run()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status("VmRSS")
    run()
    return (status("VmHWM") - before) / 1024


def table(rows: list[dict[str, object]]) -> str:
    """Markdown; numbers with three digits, nothing where there is none."""

    def cell(x: object) -> str:
        if x is None or (isinstance(x, float) and math.isnan(x)):
            return "–"
        return f"{x:.3g}" if isinstance(x, float) else str(x)

    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([cell(row[name]) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def save_figure(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def provenance() -> str:
    """Machine, versions and commit, as a line of markdown."""
    models = [x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
    card = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, " if torch.cuda.is_available() else ""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    return (
        f"{card}{models[0] if models else platform.processor()}, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}; torch {torch.__version__}, transformers {transformers.__version__}; "
        f"commit {commit or 'unknown'}"
    )
