"""The CPU benchmark: its arithmetic, and that its one command runs."""

import json
import subprocess
import sys

import pytest

from benchmarks import cpu
from tests.training_runs import ROOT


def test_attention_is_compared_at_equal_frames_and_at_equal_tokens():
    times = {"Ti": 1.0, "TimeSformer-Ti": 4.0, "TimeSformer-Ti, SDPA": 3.0, "S": 2.0}
    rows = [{"frames": 8, **times, "VideoMAE-S": 1.0}, {"frames": 16, **times, "VideoMAE-S": 5.0}]
    names, _, first, second = ([cell.strip() for cell in line.split("|")[1:-1]] for line in cpu.peers_table(rows).splitlines())
    assert dict(zip(names, first))["TimeSformer-Ti / Ti"] == "4"
    assert dict(zip(names, first))["VideoMAE-S / S"] == "0.5"
    assert dict(zip(names, first))["at equal tokens"] == "2.5"  # VideoMAE joins two frames in a token
    assert dict(zip(names, second))["at equal tokens"] == "–"


def test_long_videos_are_compared_with_the_shortest_of_the_same_model():
    rows = [
        {"model": model, "frames": frames, "s / frame": seconds, "peak GiB": 1.0, "difference to all at once": None}
        for model, frames, seconds in (("tiny", 64, 0.1), ("tiny", 900, 0.12), ("middle", 64, 0.5))
    ]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in cpu.long_table(rows).splitlines()]
    ratios = [dict(zip(lines[0], line))["/ that of the first"] for line in lines[2:]]
    assert ratios == ["1", "1.2", "1"]


@pytest.mark.slow
def test_the_dry_run_writes_tables_plots_and_raw_numbers(tmp_path):
    command = [sys.executable, ROOT / "benchmarks/cpu.py", "--dry-run", "--output", tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    raw = json.loads((tmp_path / "cpu.json").read_text())
    assert set(raw) == set(cpu.PARTS)
    assert all(title in (tmp_path / "cpu.md").read_text() for _, _, title in cpu.PARTS.values())
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("cpu_attention.png", "cpu_long.png"))
