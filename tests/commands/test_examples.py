"""`videomamba classify`, run as a person runs it."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from modeling_videomamba import VideoMambaForVideoClassification, VideoMambaVideoProcessor
from modeling_videomamba.commands import classify as classify_command
from modeling_videomamba.commands.command_line import run_command
from modeling_videomamba.inference.answer_picture import draw_answers, frame_strip
from tests.conftest import render_clip, small_config

from .running import videomamba


ROOT = Path(__file__).parents[2]
CLIP = str(ROOT / "examples/demo_clips/zoom_in.mp4")

pytestmark = pytest.mark.usefixtures("one_thread")


def test_it_with_the_demo_model(capsys):
    assert videomamba("classify", CLIP, "--num-clips", 2, "--num-crops", 3) == 0
    printed = capsys.readouterr()
    assert "zoom_in.mp4  (6 views of 8 frames of 32 of 320 x 240, decoded by " in printed.out
    assert re.match(r" *\d\d\.\d%  zoom_in +█+$", printed.out.split("\n  ")[1])
    assert printed.err == ""


@pytest.mark.parametrize(("options", "dtype"), [([], torch.float32), (["--bf16"], torch.bfloat16)])
def test_it_runs_in_the_precision_that_is_asked_for(options, dtype, capsys, monkeypatch):
    used = []

    class Model(VideoMambaForVideoClassification):
        def forward(self, *args, **kwargs):
            used.append(self.dtype)
            return super().forward(*args, **kwargs)

    monkeypatch.setattr(classify_command, "AutoModelForVideoClassification", Model)
    assert videomamba("classify", CLIP, *options) == 0
    assert used == [dtype]


def test_it_goes_on_after_a_bad_file(tmp_path, capsys):
    (tmp_path / "text.mp4").write_text("no video")
    assert videomamba("classify", tmp_path / "text.mp4", CLIP, "--num-frames", 4) == 1
    printed = capsys.readouterr()
    assert "error: Cannot decode the video" in printed.err
    assert "(4 frames of 32 of" in printed.out


def test_it_prints_values_for_regression(tmp_path, capsys):
    model = VideoMambaForVideoClassification(small_config(num_labels=1, problem_type="regression"))
    model.save_pretrained(tmp_path)
    VideoMambaVideoProcessor(num_frames=4, size={"shortest_edge": 32}, crop_size=32).save_pretrained(tmp_path)
    assert videomamba("classify", CLIP, "--model", tmp_path) == 0
    value = float(capsys.readouterr().out.splitlines()[-1].split()[0])
    assert abs(value) < 1  # a number near zero at initialisation, not 100 %


def test_it_searches_folders_and_draws_what_it_saw(tmp_path, capsys):
    (tmp_path / "videos/jumps").mkdir(parents=True)
    for name in ("b.MP4", "jumps/a.mkv", ".hidden.mp4"):
        render_clip(tmp_path / "videos" / name, num_frames=8)
    (tmp_path / "videos/notes.txt").write_text("no video")
    picture = tmp_path / "answers.png"
    assert videomamba("classify", tmp_path / "videos", CLIP, "--picture", picture) == 0
    printed = capsys.readouterr()
    named = [line.split("  (")[0] for line in printed.out.splitlines() if "decoded by" in line]
    assert named == [f"{tmp_path}/videos/b.MP4", f"{tmp_path}/videos/jumps/a.mkv", CLIP]
    assert printed.err == f"{tmp_path}/videos: 2 videos, 1 other file passed over (.txt)\n"  # and no progress bar
    assert Image.open(picture).height > 3 * 100  # a row for each


def test_it_prints_and_draws_a_name_that_is_no_utf8_escaped(tmp_path, monkeypatch, capsys):
    shutil.copy(ROOT / CLIP, tmp_path / "caf\udce9.mp4")
    monkeypatch.setattr(sys, "argv", ["classify_video.py", str(tmp_path), "--picture", str(tmp_path / "answers.png")])
    with pytest.raises(SystemExit, match="0"):
        classify_command.main()
    assert f"{tmp_path}/caf\\udce9.mp4  (8 frames of 32" in capsys.readouterr().out
    assert (tmp_path / "answers.png").exists()


def test_it_says_that_a_folder_is_empty(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_command(classify_command.main, [str(tmp_path)])
    assert f"error: The folder {tmp_path} has no videos." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "error"), [("o.xyz", "there is no such kind of picture"), ("nowhere/o.png", "there is no directory")]
)
def test_it_says_at_once_that_it_cannot_draw(name, error, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_command(classify_command.main, [CLIP, "--picture", str(tmp_path / name)])
    printed = capsys.readouterr()
    assert error in printed.err
    assert printed.out == ""


@pytest.mark.parametrize("name", ["num-frames", "num-clips", "num-crops"])
def test_it_needs_at_least_one_of_everything(name, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_command(classify_command.main, [CLIP, f"--{name}", "0"])
    assert "must be at least 1, got 0" in capsys.readouterr().err


def test_the_picture_shows_frames_and_answers():
    clip = (torch.tensor([0.0, 0.25, 0.75]) - 0.5)[:, None, None, None].expand(3, 3, 2, 2) / 0.2  # grey, normalised
    strip = frame_strip(clip, mean=[0.5] * 3, std=[0.2] * 3)
    torch.testing.assert_close(strip[0, :, 0], torch.tensor([0, 0, 1, 0.25, 0.25, 1, 0.75, 0.75]))  # with gaps of white

    figure = draw_answers([("clip.mp4", strip, ["75.0%  jump", "25.0%  run"], [0.75, 0.25])] * 2)
    assert len(figure.axes) == 4
    frames, answers = figure.axes[:2]
    assert frames.get_title(loc="left") == "clip.mp4"
    assert [text.get_text() for text in answers.texts] == ["75.0%  jump", "25.0%  run"]
    assert [bar.get_width() for bar in answers.patches] == [0.75, 0.25]


def test_dollars_in_the_picture_are_no_formulas(tmp_path):
    draw_answers([(r"bad$\frac$.mp4", torch.zeros(2, 2, 3), [r"75.0%  $\frac$"], [0.75])]).savefig(tmp_path / "answers.png")


def test_the_picture_shows_8_of_many_frames():
    strip = frame_strip(torch.arange(64)[:, None, None, None].expand(64, 3, 1, 1) / 64, mean=[0] * 3, std=[1] * 3)
    assert (64 * strip[0, ::2, 0]).tolist() == [0, 9, 18, 27, 36, 45, 54, 63]
