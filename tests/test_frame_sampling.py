"""Which frames the examples take from a video, and from a window of a long one: the reference's, exactly."""

import json
import random

import numpy as np
import pytest

from examples.common.clips import read_frames
from examples.common.frame_sampling import FRAME_SAMPLINGS, lvu_windows, window_frames

from .conftest import FIXTURES, render_clip


REFERENCE = json.loads((FIXTURES / "frame_sampling.json").read_text())
OURS = {"Kinetics_sparse": "segments", "LVU": "segments", "SSV2 (decord)": "ssv2"}


def samples_of(dataset: str, mode: str) -> list[dict]:
    return [sample for sample in REFERENCE["samples"] if (sample["dataset"], sample["mode"]) == (dataset, mode)]


class TestIndicesOfTheReference:
    @pytest.mark.parametrize(("dataset", "count"), [("Kinetics_sparse", 9), ("SSV2 (decord)", 6)])
    def test_training(self, dataset, count):
        samples = samples_of(dataset, "train")
        assert len(samples) == count
        for sample in samples:
            random.seed(1234)
            np.random.seed(77)
            indices = FRAME_SAMPLINGS[OURS[dataset]].train(sample["video_len"], sample["num_frames"])
            assert indices == sample.get("python_random_seed_1234", sample.get("numpy_seed_77")), sample

    @pytest.mark.parametrize(
        ("dataset", "mode", "count"),
        [
            ("Kinetics_sparse", "validation", 9),
            ("Kinetics_sparse", "test", 40),
            ("SSV2 (decord)", "validation", 6),
            ("SSV2 (decord)", "test", 12),
            ("LVU", "validation", 3),
            ("LVU", "test", 10),
        ],
    )
    def test_evaluation(self, dataset, mode, count):
        """LVU gives windows in frames, which are seconds of a video that shows one frame a second."""
        samples = samples_of(dataset, mode)
        assert len(samples) == count
        for sample in samples:
            num_clips = sample.get("test_num_segment", 1)
            first, total = window_frames(sample["video_len"], 1.0, sample.get("start_frame"), sample.get("end_frame"))
            views = FRAME_SAMPLINGS[OURS[dataset]].views(total, sample["num_frames"], num_clips)
            assert views.shape == (num_clips, sample["num_frames"])
            assert (first + views[sample.get("chunk_nb", 0)]).tolist() == sample["indices"], sample


class TestTraining:
    def test_segments_reach_both_of_their_ends(self):
        random.seed(0)
        for sample in samples_of("Kinetics_sparse", "train"):
            draws = np.array(
                [FRAME_SAMPLINGS["segments"].train(sample["video_len"], sample["num_frames"]) for _ in range(800)]
            )
            assert draws.min(0).tolist() == sample["exact_low"]
            assert draws.max(0).tolist() == sample["exact_high"]

    def test_ssv2_segments_do_not_overlap(self):
        np.random.seed(0)
        draws = np.array([FRAME_SAMPLINGS["ssv2"].train(121, 8) for _ in range(800)])
        assert draws.min(0).tolist() == [0, 15, 30, 45, 60, 75, 90, 105]
        assert draws.max(0).tolist() == [14, 29, 44, 59, 74, 89, 104, 119]

    def test_a_video_shorter_than_the_clip(self):
        assert FRAME_SAMPLINGS["ssv2"].train(7, 8) == [0] * 8
        indices = FRAME_SAMPLINGS["segments"].train(2, 8)
        assert len(indices) == 8
        assert set(indices) <= {0, 1}


def test_more_ssv2_clips_interleave():
    assert FRAME_SAMPLINGS["ssv2"].views(24, 4, 3).tolist() == [[0, 6, 12, 18], [2, 8, 14, 20], [4, 10, 16, 22]]


class TestWindows:
    def test_windows_of_the_reference(self):
        assert len(REFERENCE["lvu_windows"]) == 6
        for case in REFERENCE["lvu_windows"]:
            windows = lvu_windows(case["duration"], case["trimmed"], case["time_stride"])
            assert windows == [tuple(window) for window in case["windows"]], case

    def test_the_last_window_may_be_half_as_long(self):
        assert lvu_windows(90, 60, 60) == [(0, 60), (60, 90)]
        assert lvu_windows(89.9, 60, 60) == [(0, 60)]

    def test_lengths_that_are_not_whole_seconds(self):
        assert lvu_windows(10.0, 2.5, 2.5) == [(0, 2.5), (2.5, 5), (5, 7.5), (7.5, 10)]

    def test_frames_of_a_window(self):
        assert window_frames(9000, 30.0, 10.0, 70.0) == (300, 1801)  # 300 ... 2100, both ends included
        assert window_frames(9000, 29.97, 1.0, 2.0) == (29, 31)  # times are rounded down
        assert window_frames(9000, 30.0, None, None) == (0, 9000)

    def test_a_window_ends_where_the_video_ends(self):
        assert window_frames(1000, 30.0, 20.0, 80.0) == (600, 400)
        assert window_frames(1000, 30.0, 0.0, 1000.0) == (0, 1000)
        assert window_frames(1000, 30.0, 50.0, 110.0) == (999, 1)  # a list that promises more than there is

    def test_a_video_that_does_not_tell_its_frame_rate(self):
        with pytest.raises(ValueError, match="does not say how many frames it shows a second"):
            window_frames(1000, None, 0.0, 60.0)
        assert window_frames(1000, None, None, None) == (0, 1000)

    def test_frames_are_read_from_the_window(self, tmp_path):
        drawn = render_clip(tmp_path / "clip.mp4")  # 25 frames a second
        row = {"video": str(tmp_path / "clip.mp4"), "start": 0.4, "end": 1.2}
        lengths = []

        def ends(total):
            lengths.append(total)
            return [0, total - 1]

        frames = read_frames(row, ends)
        assert lengths == [21]
        assert frames.float().mean((1, 2, 3)).tolist() == pytest.approx([drawn[i].mean() for i in (10, 30)], abs=1.5)
