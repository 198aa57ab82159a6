"""What the loaders give: views of an evaluation, what stands for a video that cannot be read, and the noise of masks."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from PIL import Image

from modeling_videomamba.checkpoints.default_processor import processor_for
from modeling_videomamba.data.clips import (
    UNREADABLE_LABEL,
    EvaluationViews,
    MaskingCollator,
    UnreadableFiles,
    drawn_from,
    read_frames,
    require_readable,
)
from modeling_videomamba.data.frame_sampling import FRAME_SAMPLINGS
from modeling_videomamba.data.masking import draw_noise
from tests.conftest import render_noise, small_config
from tests.rows import all_rows


@pytest.fixture
def videos(tmp_path) -> Dataset:
    """A video of 24 frames of noise, and a file that is none."""
    render_noise(tmp_path / "0.gif", seed=0, num_frames=24)
    (tmp_path / "bad.gif").write_text("no video")
    return Dataset.from_dict({"video": [str(tmp_path / "0.gif"), str(tmp_path / "bad.gif")]})


def views_of(videos: Dataset, labels: list, sampling: str = "segments", **options) -> EvaluationViews:
    unreadable = UnreadableFiles(Path(videos[0]["video"]).with_name("unreadable.txt"))
    return EvaluationViews(videos, labels, FRAME_SAMPLINGS[sampling], processor_for(small_config()), unreadable, **options)


class TestEvaluation:
    @pytest.mark.parametrize("sampling", ["segments", "ssv2"])
    def test_views_are_the_processors_clip_by_clip_and_crop_by_crop(self, videos, sampling):
        item = views_of(videos, [3, 4], sampling, num_clips=2, num_crops=3)[0]
        assert item["pixel_values"].shape == (2 * 3, 4, 3, 32, 32)
        assert item["labels"].tolist() == [3] * 6
        processor = processor_for(small_config())
        for clip, indices in enumerate(FRAME_SAMPLINGS[sampling].views(24, 4, 2)):
            frames = read_frames(videos[0], lambda total, chosen=indices: chosen)
            expected = processor(frames, do_sample_frames=False, num_crops=3, return_tensors="pt")["pixel_values"]
            torch.testing.assert_close(item["pixel_values"][3 * clip : 3 * clip + 3], expected, rtol=0, atol=1e-2)

    def test_what_cannot_be_read_is_black_and_has_no_label_of_whatever_kind(self, videos):
        def check(label, expected: list) -> None:
            item = views_of(videos, [label, label], num_clips=2)[1]
            assert item["pixel_values"].shape == (2, 4, 3, 32, 32)
            assert torch.equal(item["pixel_values"], item["pixel_values"][:1, :1, :, :1, :1].expand(2, 4, 3, 32, 32))
            assert str(item["labels"].tolist()) == str([expected] * 2)  # nan is not equal to itself

        all_rows(check, [(3, UNREADABLE_LABEL), (0.5, float("nan")), ([1.0, 0.0], [float("nan")] * 2)])

    def test_one_that_can_be_read_is_looked_for_and_the_others_are_named(self, videos):
        unreadable = UnreadableFiles(Path(videos[0]["video"]).with_name("named.txt"))
        require_readable(videos.select([1, 0]), "training", unreadable)
        assert unreadable.names() == [videos[1]["video"]]
        with pytest.raises(ValueError, match="None of the 1 validation videos can be read"):
            require_readable(videos.select([1]), "validation", unreadable)


class TestMasks:
    KEYS = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]  # seed, epoch, index

    def noise(self, *keys: tuple[int, ...], clips: int = 1) -> torch.Tensor:
        items = [{"pixel_values": torch.zeros(clips, 2, 3, 4, 4), "key": key} for key in keys]
        batch = MaskingCollator(2, 3, 5)(items)
        assert batch["pixel_values"].shape == (clips * len(keys), 2, 3, 4, 4)
        assert batch["mask_noise"].shape == (clips * len(keys), 2, 3, 5)
        return batch["mask_noise"]

    def test_depend_on_the_item_and_the_epoch_and_on_nothing_else(self):
        noise = self.noise(*self.KEYS)
        assert len({item.numpy().tobytes() for item in noise}) == len(self.KEYS)
        torch.manual_seed(5)
        assert torch.equal(noise[2:3], self.noise(self.KEYS[2]))

    def test_differ_between_the_clips_of_an_item(self):
        first, second = self.noise((0, 0, 0), clips=2)
        assert not torch.equal(first, second)

    def test_are_not_drawn_from_what_its_frames_are(self):
        """Or a mask would go with a choice of frames and a crop."""
        with drawn_from(0, 0, 0):
            of_frames = draw_noise(2, 3, 5)
        assert not torch.equal(self.noise((0, 0, 0))[0], of_frames)


def test_pictures_of_a_folder_are_frames_in_the_order_of_their_names(tmp_path, monkeypatch):
    """Not in the file system's, which may be any."""
    for i in range(12):
        Image.new("RGB", (4, 4), (20 * i, 0, 0)).save(tmp_path / f"img_{i:05}.png")
    found = sorted(tmp_path.iterdir())
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter(found[::2] + found[::-2]))
    frames = read_frames({"video": str(tmp_path)}, range)
    assert frames[:, 0, 0, 0].tolist() == [20 * i for i in range(12)]
