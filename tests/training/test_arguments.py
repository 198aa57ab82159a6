"""What arguments may be, and what they are by default."""

from pathlib import Path

import pytest

from modeling_videomamba.data.checks import check_picture
from modeling_videomamba.training.arguments import (
    AlignmentArguments,
    AugmentationArguments,
    DataArguments,
    MaskedPretrainingArguments,
    PretrainingDataArguments,
    VideoMambaTrainingArguments,
)
from modeling_videomamba.training.video_text_pretraining import (
    VideoTextAlignmentArguments,
    VideoTextDataArguments,
    VideoTextPretrainingArguments,
)
from tests.rows import all_rows


def training(kind: type = VideoMambaTrainingArguments, **given) -> VideoMambaTrainingArguments:
    return kind(output_dir="unused", use_cpu=True, **given)


def test_ends_of_ranges():
    """What may be, up to its ends, and what may not."""

    def check(make, name: str, good: list, bad: list) -> None:
        for value in good:
            assert getattr(make(**{name: value}), name) == value
        for value in bad:
            with pytest.raises(ValueError, match=f"--{name} must be (in|at least) "):
                make(**{name: value})

    all_rows(
        check,
        [
            (AugmentationArguments, "min_crop_area", [0.01, 1], [0, 1.01]),
            (AugmentationArguments, "random_erasing", [0, 1], [-0.1, 1.1]),
            (AugmentationArguments, "mixup", [0, 9], [-0.1]),
            (AugmentationArguments, "cutmix", [0, 9], [-0.1]),
            (AugmentationArguments, "label_smoothing", [0, 0.9], [1, -0.1]),
            (AugmentationArguments, "repeated_augmentation", [1, 2], [0]),
            (DataArguments, "num_clips", [1], [0]),
            (DataArguments, "num_crops", [1], [0]),
            (AlignmentArguments, "mask_ratio", [0, 0.99], [1, -0.1]),
            (VideoTextAlignmentArguments, "image_mask_ratio", [0, 0.99], [1, -0.1]),
            (VideoTextAlignmentArguments, "mask_ratio", [0, 0.99], [1, -0.1]),
            (training, "num_train_epochs", [0.5], [0, -1]),
            (training, "warmup_epochs", [0, 30], [-1]),
            (training, "learning_rate", [1e-9], [0, -1]),
            (training, "layer_decay", [0.1, 1], [0, 1.1]),
            (training, "validation_fraction", [0, 0.9], [1, -0.1]),
            (training, "weight_decay", [0], [-0.1]),
            (training, "lr_reference", [0], [-1]),
            (training, "per_device_train_batch_size", [1], [0]),
            (training, "gradient_accumulation_steps", [1], [0]),
        ],
    )


def test_the_least_error_is_best():
    assert training(metric_for_best_model="mse").greater_is_better is False
    assert training(metric_for_best_model="eval_mse").greater_is_better is False
    assert training(metric_for_best_model="accuracy").greater_is_better is True
    assert training(metric_for_best_model="mse", greater_is_better=True).greater_is_better is True  # as it is told


def test_the_order_of_the_data_follows_the_seed():
    assert training(seed=7).data_seed == 7
    assert training(seed=7, data_seed=3).data_seed == 3


def test_what_masked_pretraining_has_by_default():
    args = training(MaskedPretrainingArguments)
    assert (args.adam_beta1, args.adam_beta2, args.validation_fraction, args.load_best_model_at_end) == (0.9, 0.95, 0, False)
    assert PretrainingDataArguments().frame_sampling == "ssv2"
    assert DataArguments().frame_sampling == "segments"


def test_what_video_text_pretraining_has_by_default():
    """Its losses compare the pairs of a step, so that a smaller last step would compare fewer."""
    args = training(VideoTextPretrainingArguments)
    assert (args.learning_rate, args.eval_strategy, args.dataloader_drop_last, args.validation_fraction) == (
        1e-4,
        "no",
        True,
        0,
    )


def test_a_picture_needs_a_known_suffix_and_a_directory(tmp_path: Path):
    check_picture(str(tmp_path / "a.PNG"), {".png", ".jpg"})
    with pytest.raises(ValueError, match=r"--picture .*a.txt: there is no such kind of picture"):
        check_picture(str(tmp_path / "a.txt"), {".png", ".jpg"})
    with pytest.raises(ValueError, match="--picture .*nowhere/a.png: there is no directory .*nowhere"):
        check_picture(str(tmp_path / "nowhere/a.png"), {".png", ".jpg"})


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="--labels: there is no file nowhere.txt"):
        DataArguments(labels="nowhere.txt")
    with pytest.raises(ValueError, match="Give --videos, --images, or both"):
        VideoTextDataArguments()
