"""The model that training starts from: whose head it keeps, in which type, at which size, and what of it trains."""

from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, Dataset, Features

from modeling_videomamba import (
    VideoMambaConfig,
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaForVideoClassification,
)
from modeling_videomamba.training.arguments import AlignmentArguments, BackboneArguments, ModelArguments
from modeling_videomamba.training.models import config_fields, start_classifier, start_pretraining_model
from tests.conftest import small_config
from tests.rows import all_rows


NAMES = ["cat", "dog", "eel"]
NEW = '{"hidden_size": 16, "num_hidden_layers": 2, "image_size": 32, "num_frames": 4}'


@pytest.fixture(scope="module")
def parent(tmp_path_factory) -> Path:
    """A trained classifier of three animals, in bf16, with weights of its head far from those of a new one."""
    directory = tmp_path_factory.mktemp("parent")
    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
    config = small_config(hidden_size=16, num_labels=3, **labels)
    torch.manual_seed(0)
    model = VideoMambaForVideoClassification(config).bfloat16()
    torch.nn.init.constant_(model.classifier.weight, 3.0)
    torch.nn.init.constant_(model.classifier.bias, 2.0)
    model.save_pretrained(directory)
    return directory


def named(*labels: str) -> Dataset:
    return Dataset.from_dict({"video": ["-"] * len(labels), "label": list(labels)})


def numbered(*labels: int) -> Dataset:
    return Dataset.from_dict({"video": ["-"] * len(labels), "label": list(labels)})


def of_classes(*names: str) -> Dataset:
    features = Features({"label": ClassLabel(names=list(names))})
    return Dataset.from_dict({"label": list(range(len(names)))}, features)


class TestHead:
    def test_is_kept_if_it_has_the_labels_of_the_data(self, parent):
        def check(files: Dataset, labels: str | None, kept: bool, names: list[str]) -> None:
            model = start_classifier(ModelArguments(model=str(parent)), files, labels)
            is_kept = bool((model.classifier.weight == 3).all() and (model.classifier.bias == 2).all())
            is_new = bool((model.classifier.weight.abs() < 0.2).all() and (model.classifier.bias == 0).all())
            assert (is_kept, is_new) == (kept, not kept)
            assert [model.config.id2label[i] for i in range(model.config.num_labels)] == names
            assert model.config.label2id == {name: i for i, name in enumerate(names)}
            assert model.classifier.weight.shape[0] == len(names)

        (parent / "other.txt").write_text("cat\neel\ndog\n")
        (parent / "same.txt").write_text("cat\ndog\neel\n")
        all_rows(
            check,
            [
                (named("dog", "cat", "eel"), None, True, NAMES),
                (of_classes("eel", "cat", "dog"), None, True, NAMES),  # named in another order
                (named("dog", "cat", "fox"), None, False, ["cat", "dog", "fox"]),  # as many, but others
                (named("dog", "cat"), None, False, ["cat", "dog"]),
                (numbered(0, 2), None, True, NAMES),  # ids of the head itself
                (numbered(0, 3), None, False, [f"LABEL_{i}" for i in range(4)]),
                (numbered(0, 2), str(parent / "same.txt"), True, NAMES),
                (numbered(0, 2), str(parent / "other.txt"), False, ["cat", "eel", "dog"]),  # ids in another order
            ],
        )

    def test_has_as_many_labels_as_the_data_name(self, parent):
        for given in ({"model": str(parent)}, {"model_config": NEW}):
            with pytest.raises(ValueError, match="--num_labels 4, but the data has 2 labels: cat, dog"):
                start_classifier(ModelArguments(**given, num_labels=4), named("dog", "cat"))
            assert start_classifier(ModelArguments(**given, num_labels=4), numbered(0, 1)).config.num_labels == 4

    def test_of_values_is_one_number(self, parent):
        files = Dataset.from_dict({"video": ["-"], "label": [0.5]})
        model = start_classifier(ModelArguments(model=str(parent), problem_type="regression"), files)
        assert model.classifier.weight.shape == (1, 16)
        assert model.config.problem_type == "regression"

    def test_of_random_weights_has_the_names_of_the_data(self):
        model = start_classifier(ModelArguments(model_config=NEW), named("dog", "cat"))
        assert model.config.id2label == {0: "cat", 1: "dog"}
        assert model.config.num_frames == 4


class TestBackbone:
    def test_is_the_parents_in_fp32(self, parent):
        model = start_classifier(ModelArguments(model=str(parent)), named(*NAMES))
        before = VideoMambaForVideoClassification.from_pretrained(parent).state_dict()
        assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
        for name, tensor in model.base_model.state_dict().items():
            assert torch.equal(tensor, before[f"videomamba.{name}"].float()), name

    def test_has_the_size_and_the_drop_path_that_are_asked_for(self, parent):
        def check(given: dict, expected: tuple) -> None:
            for start in ({"model": str(parent)}, {"model_config": NEW}):
                model = start_classifier(ModelArguments(**start, **given), named(*NAMES))
                config = model.config
                assert (config.num_frames, config.image_size, config.drop_path_rate) == expected
                model(torch.zeros(1, expected[0], 3, expected[1], expected[1]))

        usual = VideoMambaConfig().drop_path_rate
        all_rows(
            check,
            [
                ({}, (4, 32, usual)),
                ({"num_frames": 6}, (6, 32, usual)),
                ({"image_size": 48}, (4, 48, usual)),
                ({"drop_path_rate": 0.7}, (4, 32, 0.7)),
            ],
        )

    def test_trains_unless_it_is_frozen(self, parent):
        for frozen in (False, True):
            model = start_classifier(ModelArguments(model=str(parent), freeze_backbone=frozen), named(*NAMES))
            trains = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
            assert all(trains[name] == (not frozen or name.startswith("classifier")) for name in trains)

    def test_of_images_has_one_frame(self, parent):
        files = Dataset.from_dict({"image": ["-"] * 2, "label": ["cat", "dog"]})
        model = start_classifier(ModelArguments(model_config=NEW), files, media="image")
        assert isinstance(model, VideoMambaForImageClassification)
        assert model.config.num_frames is None
        with pytest.raises(ValueError, match="is a model of videos, but the data are images"):
            start_classifier(ModelArguments(model=str(parent)), files, media="image")


def test_masked_pretraining_takes_every_field_of_its_alignment(parent):
    """From a classifier, whose head is left behind."""
    alignment = AlignmentArguments(
        num_aligned_layers=2,
        aligned_layer_interval=0.5,
        alignment_tap="after_norm",
        normalize_alignment=False,
        alignment_loss="mse",
    )
    for start in ({"model": str(parent)}, {"model_config": NEW}):
        model = start_pretraining_model(BackboneArguments(**start), alignment, teacher_width=12)
        assert isinstance(model, VideoMambaForPreTraining)
        config = model.config
        assert (config.num_aligned_layers, config.aligned_layer_interval, config.alignment_size) == (2, 0.5, 12)
        assert (config.alignment_tap, config.normalize_alignment, config.alignment_loss) == ("after_norm", False, "mse")
        assert len(model.alignment_heads) == 2


def test_a_size_is_as_good_as_its_fields():
    def check(size: str) -> None:
        assert VideoMambaConfig(**config_fields(size)).to_dict() == getattr(VideoMambaConfig, size)().to_dict()

    all_rows(check, ["tiny", "small", "middle", "base"])


def test_a_field_that_there_is_not_leads_to_the_one_meant():
    with pytest.raises(
        ValueError, match=r"^--model_config: .* no field embed_dim. .* hidden_size\? .* depth. .* num_hidden_layers"
    ):
        config_fields('{"embed_dim": 64, "depth": 4}')
