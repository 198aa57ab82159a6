"""Windows of long videos: which there are, and which frames they hold, as in the reference."""

import json

import pytest

from modeling_videomamba.data.captions import CaptionedFile
from modeling_videomamba.data.clips import read_frames
from modeling_videomamba.data.windows import lvu_windows, window_frames
from modeling_videomamba.inference.retrieval import read_middle_frames
from tests.conftest import FIXTURES, render_clip
from tests.video_files import brightness, copy_packets


REFERENCE = json.loads((FIXTURES / "frame_sampling.json").read_text())


def test_windows_of_the_reference():
    assert len(REFERENCE["lvu_windows"]) == 6
    for case in REFERENCE["lvu_windows"]:
        windows = lvu_windows(case["duration"], case["trimmed"], case["time_stride"])
        assert windows == [tuple(window) for window in case["windows"]], case


def test_the_last_window_may_be_half_as_long():
    assert lvu_windows(90, 60, 60) == [(0, 60), (60, 90)]
    assert lvu_windows(89.9, 60, 60) == [(0, 60)]


def test_lengths_that_are_not_whole_seconds():
    assert lvu_windows(10.0, 2.5, 2.5) == [(0, 2.5), (2.5, 5), (5, 7.5), (7.5, 10)]


def test_frames_of_a_window():
    assert window_frames(9000, 30.0, 10.0, 70.0) == (300, 1801)  # 300 ... 2100, both ends included
    assert window_frames(9000, 29.97, 1.0, 2.0) == (29, 31)  # times are rounded down
    assert window_frames(9000, 30.0, None, None) == (0, 9000)


def test_a_window_ends_where_the_video_ends():
    assert window_frames(1000, 30.0, 20.0, 80.0) == (600, 400)
    assert window_frames(1000, 30.0, 0.0, 1000.0) == (0, 1000)
    assert window_frames(1000, 30.0, 50.0, 110.0) == (999, 1)  # a list that promises more than there is


def test_a_video_that_does_not_tell_its_frame_rate():
    with pytest.raises(ValueError, match="does not say how many frames it shows a second"):
        window_frames(1000, None, 0.0, 60.0)
    assert window_frames(1000, None, None, None) == (0, 1000)


def test_windows_of_a_varying_rate_follow_the_times_of_the_frames():
    """A frame is shown until the next: a window begins with the one that is there at its start."""
    times = [0.0, 0.2, 1.0, 4.0, 5.0, 5.04]
    assert window_frames(6, 1.2, 1.0, 4.5, times) == (2, 2)
    assert window_frames(6, 1.2, 0.9, 1.1, times) == (1, 2)
    assert window_frames(6, 1.2, 5.0, 9.0, times) == (4, 2)
    assert window_frames(6, 1.2, 8.0, 9.0, times) == (5, 1)
    assert window_frames(6, 1.2, None, None, times) == (0, 6)


def test_frames_are_read_from_the_window_of_a_varying_rate(tmp_path):
    """Twenty frames in five seconds, then ten in 0.4 s."""
    drawn = render_clip(tmp_path / "even.mkv", num_frames=30, codec_options={"bf": "0"})
    times = [250 * i for i in range(20)] + [5000 + 40 * i for i in range(10)]

    def retime(packet):
        packet.pts = packet.dts = times[packet.pts // 40]

    copy_packets(tmp_path / "even.mkv", tmp_path / "a.mkv", change=retime)
    frames = read_frames({"video": str(tmp_path / "a.mkv"), "start": 5.0, "end": 5.4}, range)
    assert brightness(frames) == pytest.approx(drawn[20:].mean((1, 2, 3)), abs=1.5)
    frames = read_middle_frames(CaptionedFile(str(tmp_path / "a.mkv"), "video", ()), 4, seconds=1.0)
    assert brightness(frames) == pytest.approx(drawn[:4].mean((1, 2, 3)), abs=1.5)


def test_frames_are_read_from_the_window(tmp_path):
    drawn = render_clip(tmp_path / "clip.mp4")  # 25 frames a second
    row = {"video": str(tmp_path / "clip.mp4"), "start": 0.4, "end": 1.2}
    lengths = []

    def ends(total):
        lengths.append(total)
        return [0, total - 1]

    frames = read_frames(row, ends)
    assert lengths == [21]
    assert frames.float().mean((1, 2, 3)).tolist() == pytest.approx([drawn[i].mean() for i in (10, 30)], abs=1.5)
