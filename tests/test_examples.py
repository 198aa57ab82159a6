"""The example scripts, run as a person runs them."""

import subprocess
import sys
from pathlib import Path


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
