"""Images: tables of them, one view for evaluation, and copies in training."""

import io
import struct

import datasets
import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import ClassLabel, Dataset, DatasetDict, Features
from PIL import EpsImagePlugin, Image
from torch.utils.data import BatchSampler, DataLoader

from modeling_videomamba.checkpoints.default_processor import processor_for
from modeling_videomamba.data.clips import EvaluationViews, TrainingClips, UnreadableFiles
from modeling_videomamba.data.frame_sampling import FRAME_SAMPLINGS
from modeling_videomamba.data.images import ImageTrainingTransform, read_image
from modeling_videomamba.data.media_lists import label_names, load_media, name_of
from modeling_videomamba.data.repeated_augmentation import RepeatedAugmentationSampler
from tests.conftest import small_config


SEGMENTS = FRAME_SAMPLINGS["segments"]


@pytest.fixture
def folder(tmp_path):
    """train/ of 3 images in two classes, val/ of one."""
    random = np.random.default_rng(0)
    for name in ("train/cat/a.png", "train/cat/b.JPEG", "train/dog/c.webp", "val/dog/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


class TestTables:
    def test_a_folder_a_class(self, folder):
        images = load_media(str(folder), "train", media="image")
        assert [row["image"].removeprefix(f"{folder}/") for row in images] == [
            "train/cat/a.png",
            "train/cat/b.JPEG",
            "train/dog/c.webp",
        ]
        assert label_names(images) == ["cat", "dog"]
        assert load_media(str(folder), "test", media="image") is None

    def test_a_list_as_the_official_code_takes_it(self, folder):
        (folder / "train.txt").write_text("cat/a.png 0\ndog/c.webp 1\n")
        images = load_media(str(folder / "train.txt"), "train", str(folder / "train"), media="image")
        assert [(row["image"], row["label"]) for row in images] == [
            (f"{folder}/train/cat/a.png", 0),
            (f"{folder}/train/dog/c.webp", 1),
        ]

    @pytest.mark.parametrize("column", ["image", "picture"])
    def test_a_data_set_whose_images_are_bytes(self, folder, column):
        content = (folder / "val/dog/d.png").read_bytes()
        features = Features({column: datasets.Image(), "label": ClassLabel(names=["cat", "dog"])})
        rows = {column: [{"bytes": content, "path": None}], "label": [1]}
        DatasetDict({"train": Dataset.from_dict(rows, features)}).save_to_disk(folder / "saved")
        [row] = load_media(str(folder / "saved"), "train", media="image")
        assert row["image"]["bytes"] == content
        assert name_of(row) == f"<{len(content)} bytes>"
        images = load_media(str(folder / "saved"), "train", media="image")
        clips = TrainingClips(images, [1], SEGMENTS, 1, lambda frames: frames[0], 1, 0, None)
        torch.testing.assert_close(clips[0]["pixel_values"][0], read_image(str(folder / "val/dog/d.png")))


def test_a_training_image(folder):
    frames = read_image(str(folder / "train/cat/a.png"))[None]
    image = ImageTrainingTransform(32)(frames)
    assert (image.shape, image.dtype) == ((3, 32, 32), torch.float32)
    assert "AutoAugment" in repr(ImageTrainingTransform(32, "v0").transform)


def test_the_training_pipeline_is_the_references():
    """As timm 0.4.12 printed it for the reference, see its `image_sm/datasets.py`."""
    crop, flip, policy, *_, normalize, erasing = ImageTrainingTransform(224).transform.transforms
    assert (tuple(crop.scale), tuple(crop.ratio)) == ((0.08, 1.0), (3 / 4, 4 / 3))
    assert "bicubic" in repr(crop)
    assert flip.p == 0.5
    assert [policy.num_layers, len(policy.ops)] == [2, 15]
    assert {op.prob for op in policy.ops} == {0.5}
    assert policy.ops[0].hparams["img_mean"] == (124, 116, 104)  # ImageNet's mean fills what is moved out
    torch.testing.assert_close(torch.as_tensor(normalize.mean), torch.tensor([0.485, 0.456, 0.406]))
    torch.testing.assert_close(torch.as_tensor(normalize.std), torch.tensor([0.229, 0.224, 0.225]))
    assert (erasing.probability, erasing.per_pixel, erasing.max_count) == (0.25, True, 1)


def test_what_training_is_told_of_crops_flips_and_erasing_is_done(folder):
    crop, *_, erasing = ImageTrainingTransform(32, None, 0.5, False, 0.75).transform.transforms
    assert tuple(crop.scale) == (0.5, 1)
    assert erasing.probability == 0.75
    frame = torch.arange(64, dtype=torch.uint8).expand(1, 3, 64, 64)  # brighter to the right
    for flips, expected in ((True, {True, False}), (False, {False})):
        torch.manual_seed(0)
        transform = ImageTrainingTransform(32, None, 0.5, flips, 0)
        assert {bool((transform(frame)[0].diff(dim=1) < 0).all()) for _ in range(30)} == expected


def test_only_what_asks_for_it_is_turned_upright(tmp_path):
    """Frames of a video are; images are not, as in the reference."""
    tags = Image.Exif()
    tags[0x0112] = 6  # a quarter turn clockwise
    Image.new("RGB", (64, 48)).save(tmp_path / "a.jpg", exif=tags)
    assert read_image(tmp_path / "a.jpg").shape == (3, 48, 64)
    assert read_image(tmp_path / "a.jpg", upright=True).shape == (3, 64, 48)


def test_a_damaged_image_is_an_error_of_value():
    """Pillow has an error of its own for a header that promises too many pixels."""
    Image.new("RGB", (4, 4)).save(file := io.BytesIO(), "BMP")
    header = bytearray(file.getvalue())
    header[18:26] = (100_000).to_bytes(4, "little") * 2
    with pytest.raises(ValueError, match=r"Cannot read the image of \d+ bytes: Image size"):
        read_image(bytes(header))


@pytest.mark.parametrize("error", [IndexError("index"), struct.error("unpack"), MemoryError(), OverflowError("big\nand more")])
def test_whatever_pillow_raises_is_an_error_that_names_the_image(monkeypatch, error):
    def fail(file):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ValueError, match="Cannot read the image folder/a.png: [^\n]+$"):
        read_image("folder/a.png")


def test_grey_images_and_those_with_transparency_become_rgb(tmp_path):
    for mode, colour in (("L", 7), ("RGBA", (7, 7, 7, 0)), ("P", 0)):
        Image.new(mode, (4, 5), colour).save(tmp_path / f"{mode}.png")
        assert read_image(str(tmp_path / f"{mode}.png")).shape == (3, 5, 4)


def test_images_of_16_bits_and_of_printers_colours(tmp_path):
    levels = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    Image.fromarray(levels.astype(np.uint16) * 257).save(tmp_path / "16.png")
    Image.fromarray(levels.astype(np.uint16) * 257).save(tmp_path / "16.tiff")
    Image.fromarray(levels).convert("CMYK").save(tmp_path / "cmyk.tiff")
    for name in ("16.png", "16.tiff", "cmyk.tiff"):
        assert np.array_equal(read_image(tmp_path / name), np.stack([levels] * 3)), name
    Image.fromarray(levels.astype(np.float32)).save(tmp_path / "32.tiff")
    with pytest.raises(ValueError, match="32 bits a pixel"):
        read_image(tmp_path / "32.tiff")


def test_an_image_never_starts_another_program(tmp_path, monkeypatch):
    """As PostScript would."""
    Image.new("RGB", (4, 5)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **kwargs: pytest.fail("Ghostscript was started"))
    with pytest.raises((ValueError, OSError), match="cannot identify image file"):
        read_image(tmp_path / "a.jpg")


def test_evaluation_is_what_the_processor_makes(folder):
    processor = processor_for(small_config(num_frames=None))
    images = load_media(str(folder), "val", media="image")
    [item] = EvaluationViews(images, [1], SEGMENTS, processor, None)
    expected = processor(Image.open(folder / "val/dog/d.png"), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(item["pixel_values"], expected)
    assert item["labels"].tolist() == [1]


def test_an_image_that_cannot_be_read_does_not_count(folder, tmp_path):
    (folder / "val/dog/d.png").write_text("no image")
    images = load_media(str(folder), "val", media="image")
    unreadable = UnreadableFiles(tmp_path / "unreadable.txt")
    [item] = EvaluationViews(images, [1], SEGMENTS, processor_for(small_config(num_frames=None)), unreadable)
    assert item["labels"].tolist() == [-100]
    assert unreadable.names() == [str(folder / "val/dog/d.png")]


class Numbers(TrainingClips):
    """Items that are their own number."""

    def __init__(self, length: int):
        super().__init__(Dataset.from_dict({"image": ["-"] * length}), None, SEGMENTS, 1, None, 1, 5, None)

    def __getitem__(self, index: int) -> int:
        return index


class TestCopies:
    def items(self, length, copies=3, batch_size=4, processes=1, epoch=0) -> list[int]:
        numbers = Numbers(length)
        numbers.epoch.fill_(epoch)
        return list(RepeatedAugmentationSampler(numbers, copies, batch_size, processes))

    def test_an_epoch_goes_through_a_part_of_the_images(self):
        items = self.items(300)
        assert len(items) == 256  # of 300, rounded down to what 256 divides, as in the reference
        images = [item % 300 for item in items]
        assert images[:6] == [images[0]] * 3 + [images[3]] * 3
        assert len(set(images)) == 86
        assert len(set(items)) == 256  # every copy is another item, and is augmented otherwise

    def test_few_images_are_not_rounded(self):
        assert len(self.items(10)) == 10

    def test_epochs_differ_and_come_again(self):
        assert self.items(300) == self.items(300)
        assert self.items(300) != self.items(300, epoch=1)

    def test_processes_take_turns_within_a_step(self):
        """accelerate hands whole batches out in turn; each process gets every second of what one process would."""
        alone, shared = (self.items(300, processes=1), self.items(300, processes=2))
        batches = BatchSampler(shared, batch_size=4, drop_last=True)
        for process in (0, 1):
            own = [item for batch in BatchSamplerShard(batches, 2, process) for item in batch]
            assert own == alone[process::2]
        first, second = list(batches)[:2]
        assert {item % 300 for item in first} & {item % 300 for item in second}, "copies of an image on both"

    def test_a_data_loader_takes_it(self):
        numbers = Numbers(12)
        loader = DataLoader(numbers, batch_size=4, sampler=RepeatedAugmentationSampler(numbers, 3, 4, 1))
        assert [len(batch) for batch in loader] == [4, 4, 4]

    def test_copies_are_the_same_image_augmented_otherwise(self, folder):
        images = load_media(str(folder), "train", media="image")
        clips = TrainingClips(images, [0, 0, 1], SEGMENTS, 1, ImageTrainingTransform(32), 1, 0, None)
        first, copy = clips[2], clips[2 + 3]
        assert first["labels"] == copy["labels"] == 1
        assert not torch.equal(first["pixel_values"], copy["pixel_values"])
        torch.testing.assert_close(clips[5]["pixel_values"], copy["pixel_values"])
