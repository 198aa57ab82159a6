"""The demo: its clips, its model, and the command that makes both."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import pipeline

from examples.demos import render_demo_clips, train_demo
from examples.demos.render_demo_clips import CLASSES, PHOTOGRAPHS, draw_path
from modeling_videomamba import VideoMambaForVideoClassification
from modeling_videomamba.checkpoints.by_name import DEMO_MODEL as MODEL
from modeling_videomamba.commands import evaluate as evaluate_command

from . import demos


ROOT = Path(__file__).parents[2]
RESULTS = json.loads((MODEL / "results.json").read_text())


class TestClips:
    def test_no_photograph_is_in_two_splits(self):
        names = [name for names in PHOTOGRAPHS.values() for name in names]
        assert len(names) == len(set(names))

    @pytest.mark.parametrize("label", CLASSES)
    def test_only_the_named_axis_ends_elsewhere_than_it_starts(self, label):
        random = np.random.default_rng(0)
        paths = np.stack([draw_path(label, random) for _ in range(100)])  # (clips, frames, 4)
        axis, direction = CLASSES[label]
        ranges = paths.max(axis=1) - paths.min(axis=1)  # (clips, 4)
        moved = (paths[:, -1] - paths[:, 0]) / ranges
        expected = np.zeros(4)
        expected[axis] = direction
        np.testing.assert_allclose(moved, np.broadcast_to(expected, moved.shape), atol=1e-12)

    def test_neither_one_frame_nor_two_in_disorder_tell_the_class(self):
        """Every axis has the same distribution of values, and of distances between two frames, whatever the label."""
        random = np.random.default_rng(0)
        widths = np.array(render_demo_clips.WIDEST_RANGE)
        paths = np.stack([[draw_path(label, random) for _ in range(300)] for label in CLASSES]) / widths
        quantiles = np.quantile(paths, np.linspace(0, 1, 11), axis=(1, 2))  # (11, classes, 4)
        assert np.ptp(quantiles, axis=1).max() < 0.06
        frames = [random.permutation(paths.shape[2])[:2] for _ in range(20)]
        distances = np.stack([np.abs(paths[:, :, a] - paths[:, :, b]).mean(axis=1) for a, b in frames]).mean(axis=0)
        assert np.ptp(distances, axis=0).max() < 0.06  # (classes, 4)

    def test_directions_are_as_named(self):
        """A dark picture on a light wall, and where its middle, its size and its slant go; y points down."""
        rows, columns = torch.meshgrid(torch.linspace(-1, 1, 60), torch.linspace(-4 / 3, 4 / 3, 80), indexing="ij")
        picture = torch.zeros(3, 50, 80)

        def look(label: str) -> tuple[torch.Tensor, ...]:
            path = np.zeros((2, 4))
            axis, direction = CLASSES[label]
            path[:, axis] = np.array([-0.5, 0.5]) * direction * render_demo_clips.WIDEST_RANGE[axis]
            frames = render_demo_clips.render(path, picture, 60, np.random.default_rng(0))
            dark = (frames[..., 0] < 128).float()
            size = dark.sum((1, 2))
            x, y = ((dark * axis).sum((1, 2)) / size for axis in (columns, rows))
            slant = (dark * (columns - x[:, None, None]) * (rows - y[:, None, None])).sum((1, 2))
            return tuple((values[1] - values[0]).item() for values in (x, y, size, slant))

        assert look("pan_right")[0] < -0.5 < 0.5 < look("pan_left")[0]  # the camera goes right, what it sees goes left
        assert look("pan_down")[1] < -0.5 < 0.5 < look("pan_up")[1]
        assert look("zoom_out")[2] < -200 < 200 < look("zoom_in")[2]
        assert look("rotate_left")[3] < -50 < 50 < look("rotate_right")[3]  # to the right: its right end goes down

    def test_a_seed_gives_the_same_files(self, tmp_path, monkeypatch):
        monkeypatch.setattr(render_demo_clips, "PHOTOGRAPHS", {"train": ["chelsea"], "test": ["coffee"]})
        for name in ("a", "b"):
            monkeypatch.setattr(sys, "argv", ["", str(tmp_path / name), "--clips-per-class", "1"])
            render_demo_clips.main()
        files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.mp4"))
        assert len(files) == len(CLASSES)
        for file in files:
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


class TestModel:
    @pytest.mark.parametrize("label", ["pan_left", "rotate_right", "zoom_in"])
    def test_the_bundled_clips_are_recognised(self, label):
        [best, *_] = pipeline("video-classification", model=str(MODEL))(str(ROOT / f"examples/demo_clips/{label}.mp4"))
        assert best["label"] == label
        assert best["score"] > 0.5

    def test_it_is_small_and_complete(self):
        assert (MODEL / "model.safetensors").stat().st_size <= 6e6
        _, loading = VideoMambaForVideoClassification.from_pretrained(MODEL, output_loading_info=True)
        assert not any(loading.values()), loading

    def test_it_knows_new_clips_and_is_lost_without_their_order(self, tmp_path, monkeypatch):
        """Clips of another seed, of the photographs that are in no training split; chance is 1/8."""
        monkeypatch.setattr(render_demo_clips, "PHOTOGRAPHS", {"test": PHOTOGRAPHS["test"]})
        monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "clips"), "--clips-per-class", "15", "--seed", "1"])
        render_demo_clips.main()

        def accuracy(*options: str) -> float:
            output_dir = tmp_path / ("results" + "".join(options))
            where = ["--model", str(MODEL), "--data", str(tmp_path / "clips"), "--output_dir", str(output_dir)]
            evaluate_command.main([*where, "--num_workers", "0", *options])
            return json.loads((output_dir / "results.json").read_text())["accuracy"]

        assert accuracy() >= 0.8  # 24 clips
        assert accuracy("--shuffle_frames") <= 0.5

    def test_its_card_says_what_was_measured(self):
        card = (MODEL / "README.md").read_text()
        assert RESULTS["ordered"] >= 0.9
        assert RESULTS["shuffled"] <= 0.2
        assert RESULTS["ordered"] - RESULTS["one_frame"] >= 0.5
        for name in ("ordered", "shuffled", "one_frame"):
            assert f"| {RESULTS[name]:.1%} |" in card

    def test_its_log_has_the_curves(self):
        with (MODEL / "training_log.csv").open() as file:
            rows = list(csv.DictReader(file))
        losses = [float(row["loss"]) for row in rows if row["loss"]]
        assert losses[-1] < losses[0] / 2
        assert max(float(row["eval_accuracy"]) for row in rows if row["eval_accuracy"]) > 0.9
        assert (MODEL / "recipe.yaml").read_text() == (ROOT / "modeling_videomamba/training/recipes/demo.yaml").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_one_command_makes_it_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_demo, "run", demos.run)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path), "--clips-per-class", "10", "--epochs", "1"])
    train_demo.main()
    made = {path.name for path in (tmp_path / "videomamba-demo").iterdir()}
    assert made == {path.name for path in MODEL.iterdir()}
    assert "percentage points lie between" in capsys.readouterr().out
