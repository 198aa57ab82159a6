"""The example scripts, run as a person runs them."""

import subprocess
import sys
from pathlib import Path

from modeling_videomamba import VideoMambaForVideoClassification, VideoMambaVideoProcessor

from .conftest import small_config


ROOT = Path(__file__).parents[1]


def run(*args):
    return subprocess.run([sys.executable, *map(str, args)], capture_output=True, text=True, cwd=ROOT)


def test_classify_video_with_the_demo_model(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    process = run("examples/classify_video.py", "examples/bouncing_ball.mp4", "--num-clips", 2, "--num-crops", 3)
    assert process.returncode == 0, process.stderr
    assert "weights are random" in process.stdout
    assert "75 frames of 320 x 240, 6 view(s) of 4 frames" in process.stdout
    assert process.stdout.count("LABEL_") == 5
    assert process.stderr == ""


def test_classify_video_goes_on_after_a_bad_file(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    process = run("examples/classify_video.py", tmp_path / "text.mp4", "examples/bouncing_ball.mp4", "--num-frames", 6)
    assert process.returncode == 1
    assert "error: Cannot decode the video" in process.stderr
    assert "view(s) of 6 frames" in process.stdout


def test_classify_video_prints_values_for_regression(tmp_path):
    model = VideoMambaForVideoClassification(small_config(num_labels=1, problem_type="regression"))
    model.save_pretrained(tmp_path)
    VideoMambaVideoProcessor(num_frames=4, size={"shortest_edge": 32}, crop_size=32).save_pretrained(tmp_path)
    process = run("examples/classify_video.py", "examples/bouncing_ball.mp4", "--model", tmp_path)
    assert process.returncode == 0, process.stderr
    value = float(process.stdout.splitlines()[-1].split()[0])
    assert abs(value) < 1  # a number near zero at initialisation, not 100 %
