"""The GPU benchmark, as far as it can be tested without a GPU: its arithmetic, and that its commands run."""

import json
import subprocess
import sys

import pytest
import torch

from tests.training_runs import ROOT


gpu = pytest.importorskip("benchmarks.gpu", reason="needs Triton", exc_type=ImportError)


def model_row(model, frames, clips_per_second, gib, mode="inference"):
    return {"model": model, "frames": frames, "pixels": 224, "mode": mode, "clips/s": clips_per_second, "GiB": gib}


def operator_row(length, ours, theirs):
    times = {"ours, forward": ours, "ours, training": 3 * ours, "mamba_ssm, forward": theirs, "mamba_ssm, training": 6 * ours}
    return {"dim": 1152, "length": length, "batch": 1, "limit, bytes": 0.1, "limit, exponentials": 0.3, **times}


def test_limits_of_the_middle_model_at_64_frames_are_those_worked_out_for_an_h200():
    card = {"bytes_per_s": 4.3e12, "exponentials_per_s": 132 * 16 * 1.755e9}
    limits = gpu.gpu_operator.limits(1, 12545, 1152, card)
    assert limits["exponentials"] == pytest.approx(0.125e-3, rel=0.02)
    assert limits["bytes"] == pytest.approx(0.04e-3, rel=0.1)


def test_a_row_of_the_operator_is_in_multiples_of_ours():
    row = gpu.operator_row(operator_row(12545, ours=0.5, theirs=1.25))
    assert (row["bound by"], row["limit / ours"]) == ("exponentials", 0.6)
    assert (row["mamba_ssm / ours, forward"], row["mamba_ssm / ours, training"]) == (2.5, 2.0)
    assert row["mamba_ssm stacked / ours, forward"] is None


def test_memory_that_does_not_fit_is_extrapolated_with_the_attention_maps_and_marked():
    rows = [model_row(gpu.EAGER, 16, 5.0, 10.0), model_row(gpu.EAGER, 64, None, None)]
    gpu.extrapolate_memory(rows)
    assert rows[1]["GiB, extrapolated"] == 40.0  # a quarter of the clips, each with 16 times the attention
    assert "| – | (40, extrapolated) |" in gpu.models_table(rows)
    assert "extrapolated" not in rows[0]


def test_targets_are_compared_with_what_this_run_reached():
    models = [model_row("VideoMamba-Ti", 64, 12.0, 1.0), model_row(gpu.EAGER, 64, 2.0, 80.0)]
    models += [
        model_row("VideoMamba-M", 16, 3.0, 6.0, "training"),
        model_row("VideoMamba-M, mamba_ssm", 16, 2.0, 8.0, "training"),
    ]
    reached = {row["what"]: row["reached"] for row in gpu.targets([operator_row(3137, 0.5, 1.25)], models)}
    assert reached["M, length 3137, batch 1: mamba_ssm / ours, forward"] == 2.5
    assert reached["Ti, 64 frames: clips/s, ours / TimeSformer-Ti eager"] == 6.0
    assert reached["Ti, 64 frames: memory, ours / TimeSformer-Ti eager"] == 1 / 80
    assert reached["M, 16 frames: the same, training"] == 1.5
    assert reached["M, 16 frames: memory, ours / mamba_ssm, training"] == 0.75
    assert reached["Ti, 64 frames: clips/s, ours / TimeSformer-Ti SDPA"] is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device: it would run")
def test_without_a_card_it_says_how_to_try_it():
    run = subprocess.run([sys.executable, ROOT / "benchmarks/gpu.py"], capture_output=True, text=True)
    assert run.returncode == 2
    assert "there is no CUDA device; --dry-run shows what the script does" in run.stderr


@pytest.mark.slow
def test_the_dry_run_writes_tables_plots_and_raw_numbers(tmp_path):
    command = [sys.executable, ROOT / "benchmarks/gpu.py", "--dry-run", "--repeats", "1", "--output", tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    raw = json.loads((tmp_path / "gpu.json").read_text())
    assert len(raw["operator"]) == 2 * 2 * 2  # dims, lengths, batches
    assert {row["model"] for row in raw["models"]} >= {"VideoMamba-M", gpu.EAGER, gpu.SDPA, "VideoMAE-S, SDPA"}
    assert all(row["clips/s"] > 0 for row in raw["models"])
    for title in ("The scan of one block", "Models, batches of 4 frames", "Targets:"):
        assert title in (tmp_path / "gpu.md").read_text()
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("gpu_operator.png", "gpu_figure_1.png"))
