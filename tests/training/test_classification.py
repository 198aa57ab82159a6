"""What a run of a classifier starts from is what its options say: data, transforms, mixing, labels, and the best metric."""

from pathlib import Path

import pytest
from PIL import Image
from torchvision.transforms import v2

from modeling_videomamba.data.augmentation import ClipAutoAugment, ClipRandomErasing
from modeling_videomamba.data.clips import read_frames
from modeling_videomamba.data.frame_sampling import FRAME_SAMPLINGS
from modeling_videomamba.training.arguments import AugmentationArguments, DataArguments, ModelArguments
from modeling_videomamba.training.classification import Classification, choose_best_metric, prepare_classification
from tests.conftest import render_noise
from tests.rows import all_rows
from tests.training.trainers import arguments


MODEL = '{"hidden_size": 16, "num_hidden_layers": 2, "image_size": 32, "num_frames": 4}'
SEVERAL = "multi_label_classification"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """videos/ and images/, three of each of two classes to train on, one of each to validate on."""
    root = tmp_path_factory.mktemp("data")
    for split, numbers in (("train", range(3)), ("val", range(3, 4))):
        for label in ("jump", "run"):
            for media in ("videos", "images"):
                (root / media / split / label).mkdir(parents=True)
            for i in numbers:
                render_noise(root / f"videos/{split}/{label}/{i}.gif", seed=i, num_frames=12)
                Image.effect_noise((40, 48), 50).convert("RGB").save(root / f"images/{split}/{label}/{i}.png")
    return root


@pytest.fixture
def prepare(data, tmp_path):
    def prepare(source: str | Path = "videos", media: str = "video", model: dict | None = None, **options) -> Classification:
        given = {kind: {} for kind in ("data", "augmentation", "training")}
        for name, value in options.items():
            kind, _, option = name.partition("__")
            given[kind][option] = value
        return prepare_classification(
            media,
            ModelArguments(model_config=MODEL, **model or {}),
            DataArguments(data=str(data / source), **given["data"]),
            AugmentationArguments(**given["augmentation"]),
            arguments(tmp_path / "run", **given["training"]),
        )

    return prepare


def step(transform: v2.Compose, kind: type) -> v2.Transform:
    (found,) = (part for part in transform.transforms if isinstance(part, kind))
    return found


class TestTraining:
    def test_clips_are_changed_as_it_is_said(self, prepare):
        options = {"auto_augment": "rand-m5-n2", "min_crop_area": 0.3, "horizontal_flip": True, "random_erasing": 0.2}
        run = prepare(**{f"augmentation__{name}": value for name, value in options.items()})
        transform, processor = run.for_trainer["train_dataset"].transform, run.for_trainer["processing_class"]
        assert step(transform, ClipAutoAugment).policy == "rand-m5-n2"
        assert step(transform, v2.RandomResizedCrop).scale == (0.3, 1)
        assert step(transform, v2.RandomHorizontalFlip).p == 0.5
        assert step(transform, ClipRandomErasing).p == 0.2
        normalize = step(transform, v2.Normalize)
        assert (list(normalize.mean), list(normalize.std)) == (list(processor.image_mean), list(processor.image_std))

    def test_or_left_as_they_are(self, prepare):
        run = prepare(augmentation__auto_augment="none", augmentation__horizontal_flip=False)
        transform = run.for_trainer["train_dataset"].transform
        assert not any(isinstance(part, ClipAutoAugment) for part in transform.transforms)
        assert step(transform, v2.RandomHorizontalFlip).p == 0

    def test_images_are_changed_as_it_is_said(self, prepare):
        options = {"min_crop_area": 0.3, "random_erasing": 0.2, "auto_augment": "none"}
        run = prepare("images", "image", **{f"augmentation__{name}": value for name, value in options.items()})
        crop, *_, erasing = run.for_trainer["train_dataset"].transform.transform.transforms
        assert (tuple(crop.scale), erasing.probability) == ((0.3, 1), 0.2)

    def test_clips_and_labels_are_mixed_as_it_is_said(self, prepare):
        options = {"mixup": 0.4, "cutmix": 1.3, "label_smoothing": 0.25}
        mixing = (
            prepare(**{f"augmentation__{name}": value for name, value in options.items()}).for_trainer["data_collator"].mixing
        )
        assert (mixing.mixup_alpha, mixing.cutmix_alpha, mixing.label_smoothing, mixing.num_labels) == (0.4, 1.3, 0.25, 2)

    def test_copies_of_a_video_are_in_its_item_and_those_of_an_image_are_items(self, prepare):
        videos = prepare(augmentation__repeated_augmentation=3).for_trainer
        images = prepare("images", "image", augmentation__repeated_augmentation=3).for_trainer
        assert (videos["train_dataset"].repeats, videos["image_copies"]) == (3, 1)
        assert (images["train_dataset"].repeats, images["image_copies"]) == (1, 3)

    def test_frames_and_seed_are_those_of_the_options(self, prepare):
        run = prepare(data__frame_sampling="ssv2", training__seed=7, model={"num_frames": 6}).for_trainer
        clips = run["train_dataset"]
        assert (clips.sampling, clips.num_frames, clips.seed) == (FRAME_SAMPLINGS["ssv2"], 6, 7)
        assert run["eval_dataset"].sampling == FRAME_SAMPLINGS["ssv2"]

    def test_each_split_has_its_own_videos_and_their_labels(self, prepare):
        run = prepare()
        assert run.model.config.id2label == {0: "jump", 1: "run"}
        for name, count in (("train_dataset", 6), ("eval_dataset", 2)):
            clips = run.for_trainer[name]
            assert len(clips) == count
            for row, label in zip(clips.videos, clips.labels):
                assert f"/{'train' if count == 6 else 'val'}/{run.model.config.id2label[label]}/" in row["video"]


class TestOtherLabels:
    def list_of(self, data: Path, tmp_path: Path, labels: list[str]) -> Path:
        files = sorted((data / "videos/train").rglob("*.gif"))
        for split in ("train", "val"):
            lines = [f"{file},{label}\n" for file, label in zip(files, labels)]
            (tmp_path / f"{split}.csv").write_text("".join(lines))
        return tmp_path

    def test_values_are_neither_mixed_nor_smoothed(self, prepare, data, tmp_path):
        source = self.list_of(data, tmp_path, ["0.5", "1", "2"])
        run = prepare(source, model={"problem_type": "regression"}, augmentation__mixup=0.8)
        assert run.for_trainer["data_collator"].mixing is None
        assert run.for_trainer["train_dataset"].labels == [0.5, 1, 2]
        assert run.loss.problem_type == "regression"
        args = run.for_trainer["args"]
        assert (args.metric_for_best_model, args.greater_is_better) == ("mse", False)

    def test_several_labels_are_vectors(self, prepare, data, tmp_path):
        source = self.list_of(data, tmp_path, ["a;b", "b", ""])
        run = prepare(source, model={"problem_type": SEVERAL, "class_weights": "[1, 2]"})
        assert run.for_trainer["train_dataset"].labels == [[1, 1], [0, 1], [0, 0]]
        assert run.loss.class_weights.tolist() == [1, 2]
        args = run.for_trainer["args"]
        assert (args.metric_for_best_model, args.greater_is_better) == ("map", True)

    def test_windows_of_both_splits(self, prepare, data, tmp_path):
        files = sorted((data / "videos/train").rglob("*.gif"))
        (tmp_path / "train.csv").write_text(f"{files[0]},0,0.4\n{files[1]},1,0.2\n")
        (tmp_path / "val.csv").write_text(f"{files[2]},1,0.4\n")
        run = prepare(tmp_path, data__window_seconds=0.2, data__window_stride=0.2)
        windows = [(row["start"], row["end"]) for row in run.for_trainer["train_dataset"].videos]
        assert windows == [(0, 0.2), (0.2, 0.4), (0, 0.2)]
        assert all("start" in row for row in run.for_trainer["eval_dataset"].videos)
        assert len(read_frames(run.for_trainer["eval_dataset"].videos[0], range)) < 12


def test_what_is_best_unless_something_else_is_asked_for(tmp_path):
    def check(problem_type: str, asked: dict, expected: tuple) -> None:
        args = arguments(tmp_path, **asked)
        choose_best_metric(args, problem_type)
        assert (args.metric_for_best_model, args.greater_is_better) == expected

    all_rows(
        check,
        [
            ("single_label_classification", {}, ("accuracy", True)),
            ("single_label_classification", {"metric_for_best_model": "top5_accuracy"}, ("top5_accuracy", True)),
            ("single_label_classification", {"metric_for_best_model": "loss"}, ("loss", False)),
            (SEVERAL, {}, ("map", True)),
            (SEVERAL, {"metric_for_best_model": "micro_f1"}, ("micro_f1", True)),
            ("regression", {}, ("mse", False)),
        ],
    )
    with pytest.raises(ValueError, match=r"--metric_for_best_model acuracy: there is accuracy, .*Did you mean accuracy"):
        choose_best_metric(arguments(tmp_path, metric_for_best_model="acuracy"), "single_label_classification")


def test_a_policy_that_is_none_is_an_error(prepare):
    with pytest.raises(ValueError, match="--auto_augment rand-x9 is not a policy of timm"):
        prepare(augmentation__auto_augment="rand-x9")
