"""The trained retrieval demo: what it finds, and that its card says so."""

import io
import json
import re
import sys

import pytest

from examples.demos import render_captioned_clips, train_retrieval_demo
from examples.demos.render_captioned_clips import THINGS, caption
from modeling_videomamba import VideoMambaForVideoTextRetrieval
from modeling_videomamba.checkpoints.by_name import DEMO_MODELS
from modeling_videomamba.commands import evaluate_retrieval
from modeling_videomamba.commands import index as index_command
from modeling_videomamba.commands import search as search_command
from tests.training_runs import ROOT

from . import demos


MODEL, CLIPS = DEMO_MODELS / "videomamba-retrieval-demo", ROOT / "examples/retrieval_demo_clips"
CAPTIONS = {clip.name: caption(*clip.stem.split("-")[:2]) for clip in sorted(CLIPS.iterdir())}


def test_sentences_find_the_bundled_clips(tmp_path, capsys, monkeypatch):
    index = str(tmp_path / "index")
    index_command.main([str(CLIPS), "--model", str(MODEL), "--index", index])
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(CAPTIONS.values())))
    search_command.main(["--index", index, "--top", "1"])
    found = re.findall(r"1\. .*/(.*)\n", capsys.readouterr().out)
    assert len(found) == len(CAPTIONS)
    assert sum(name == expected for name, expected in zip(found, CAPTIONS)) >= 0.8 * len(CAPTIONS) > 10


def test_new_clips_are_found_both_ways(tmp_path, monkeypatch):
    """25 clips of another seed, each with a caption of its own; chance is 4 %."""
    monkeypatch.setattr(render_captioned_clips, "NUM_TEST_CLIPS", 25)
    monkeypatch.setattr(render_captioned_clips, "CLIPS_PER_CAPTION", {"train": 0, "test": 1})
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "clips"), "--seed", "1"])
    render_captioned_clips.main()
    results = tmp_path / "results"
    data = ["--data", str(tmp_path / "clips/test.json"), "--num_workers", "0"]
    evaluate_retrieval.main(["--model", str(MODEL), *data, "--output_dir", str(results)])
    metrics = json.loads((results / "metrics.json").read_text())
    assert metrics["num_videos"] == 25
    for way in ("text_to_video", "video_to_text"):
        assert metrics[f"{way}_r1"] >= 0.5
        assert metrics[f"dual_{way}_r1"] >= 0.5


def test_it_is_small_and_complete():
    assert sum(file.stat().st_size for file in MODEL.iterdir()) <= 12e6
    _, loading = VideoMambaForVideoTextRetrieval.from_pretrained(MODEL, output_loading_info=True)
    assert not any(loading.values()), loading


def test_its_card_has_at_least_sixty_percent_in_the_first_place():
    rows = [line for line in (MODEL / "README.md").read_text().splitlines() if line.startswith(("| text", "| video"))]
    assert len(rows) == 4
    assert all(float(row.split("|")[2]) >= 60 for row in rows)


def test_the_bundled_clips_are_every_eighth_of_the_test(tmp_path, monkeypatch):
    monkeypatch.setattr(render_captioned_clips, "render", lambda *args: None)
    monkeypatch.setattr(render_captioned_clips, "write", lambda frames, file: file.touch())
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path)])
    render_captioned_clips.main()
    assert [path.name for path in sorted((tmp_path / "test").iterdir())[::8]] == list(CAPTIONS)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_one_command_makes_it_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(render_captioned_clips, "THINGS", {name: THINGS[name] for name in ("coffee", "moon")})
    monkeypatch.setitem(train_retrieval_demo.TRAINING, "per_device_train_batch_size", 8)
    monkeypatch.setattr(train_retrieval_demo, "run", demos.run)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path), "--clips-per-caption", "1", "--epochs", "2"])
    train_retrieval_demo.main()
    made = {path.name for path in (tmp_path / MODEL.name).iterdir()}
    assert made == {path.name for path in MODEL.iterdir()}
    assert len(list((tmp_path / CLIPS.name).iterdir())) == 2  # of 16
    assert "text to video, dual encoder alone" in capsys.readouterr().out
