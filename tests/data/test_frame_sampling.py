"""Which frames are taken from a video, and from a window of a long one: the reference's, exactly."""

import json
import random

import numpy as np
import pytest
from PIL import Image

from modeling_videomamba.data.clips import read_frames
from modeling_videomamba.data.frame_sampling import FRAME_SAMPLINGS
from modeling_videomamba.data.windows import window_frames
from tests.conftest import FIXTURES


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


class TestFoldersOfPictures:
    @pytest.fixture
    def folder(self, tmp_path):
        for i in range(4):
            Image.new("RGB", (32, 24), (20 * i,) * 3).save(tmp_path / f"{i}.png")
        return tmp_path

    @pytest.mark.parametrize(
        "content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(30), b"\xff\xd8\xff\xe0" + bytes(30)]
    )
    def test_a_damaged_picture_is_named(self, folder, content):
        (folder / "2.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"^Cannot read the image .*/2\.png: [^\n]+$"):
            read_frames({"video": str(folder)}, range)
        assert len(read_frames({"video": str(folder)}, lambda total: [0, 3])) == 2

    @pytest.mark.parametrize("error", [IndexError("index"), RuntimeError("many\nlines"), MemoryError()])
    def test_whatever_the_decoder_raises_names_the_picture(self, folder, monkeypatch, error):
        def fail(*args, **kwargs):
            raise error

        monkeypatch.setattr(Image, "open", fail)
        with pytest.raises(ValueError, match=r"^Cannot read the image .*/0\.png: [^\n]+$"):
            read_frames({"video": str(folder)}, range)

    def test_pictures_of_different_sizes(self, folder):
        Image.new("RGB", (16, 24)).save(folder / "3.png")
        with pytest.raises(ValueError, match=r"not of one size: 3\.png is 24 x 16, others are 24 x 32"):
            read_frames({"video": str(folder)}, range)

    def test_photographs_come_out_upright(self, tmp_path):
        """By what EXIF says of how the camera was held."""
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[:24, :32] = 200
        tags = Image.Exif()
        tags[0x0112] = 6  # a quarter turn clockwise
        Image.fromarray(picture).save(tmp_path / "a.jpg", exif=tags)
        [frame] = read_frames({"video": str(tmp_path)}, range)
        assert np.abs(frame.permute(1, 2, 0).numpy() - np.rot90(picture, -1).astype(float)).mean() < 3
