"""The card says what the run was, as it was."""

from pathlib import Path

import pytest

from modeling_videomamba.training.arguments import (
    AlignmentArguments,
    AugmentationArguments,
    DataArguments,
    DistillationArguments,
    ModelArguments,
)
from modeling_videomamba.training.cards import write_classification_card, write_pretraining_card
from tests.rows import all_rows
from tests.training.trainers import trainer_of


LEARNING_RATES = {"learning_rate": 1e-2, "warmup_learning_rate": 1e-4, "min_learning_rate": 1e-3}


@pytest.fixture
def card(tmp_path):
    """The rows of the tables of a card, by their first column; its text is under `""`."""

    def card(labels=(0, 1, 2, 3, 4), augmentation=None, distillation=None, metrics=None, **options) -> dict[str, str]:
        output_dir = tmp_path / "run"
        output_dir.mkdir(exist_ok=True)
        trainer = trainer_of(output_dir, list(labels), eval_labels=list(labels)[:2], **LEARNING_RATES | options)
        augmentation = AugmentationArguments(**augmentation or {})
        arguments = ModelArguments(model="parent"), DataArguments(data="videos"), augmentation, metrics or {}, distillation
        write_classification_card(trainer, *arguments)
        return rows_of(output_dir)

    return card


def rows_of(output_dir: Path) -> dict[str, str]:
    text = (output_dir / "README.md").read_text()
    cells = [line.strip("| ").split(" | ", 1) for line in text.splitlines() if line.startswith("| ") and " | " in line]
    return {"": text} | dict(pair for pair in cells if len(pair) == 2)


class TestClassifiers:
    def test_how_it_was_trained(self, card):
        rows = card(repeats=1, lr_reference=4, lr_schedule="epoch", layer_decay=0.75, weight_decay=0.3, seed=7)

        def check(name: str, value: str) -> None:
            assert rows[name] == value

        all_rows(
            check,
            [
                ("started from", "parent"),
                ("data", "videos: 5 videos to train on, 2 to validate on"),
                ("input", "4 frames of 32 pixels, sampled over the whole video or window"),
                ("epochs", "2, of them 1 to warm up"),
                ("clips a step", "2"),
                ("learning rate", "5e-05 to 0.005, by a cosine to 0.0005 (epoch); layer decay 0.75 (official)"),
                ("precision", "fp32"),
                ("seed", "7"),
            ],
        )
        assert "weight decay 0.3" in rows["optimizer"]
        assert card(bf16=True)["precision"] == "bf16 autocast"

    def test_how_its_clips_were_changed(self, card):
        given = {"mixup": 0.3, "cutmix": 0.7, "label_smoothing": 0.2, "auto_augment": "v0", "min_crop_area": 0.25}
        given |= {"random_erasing": 0.15, "repeated_augmentation": 3}
        for flips, said in ((True, "with"), (False, "no")):
            rows = card(augmentation=given | {"horizontal_flip": flips})
            expected = f"v0, crops from 25% of the area, {said} horizontal flips, random erasing 0.15"
            assert rows["augmentation"] == expected
            assert rows["labels"] == "Mixup 0.3, CutMix 0.7, label smoothing 0.2"
            assert rows["copies"] == "every video 3 time(s)"

    def test_what_validation_said(self, card):
        rows = card(metrics={"eval_accuracy": 0.876, "eval_top5_accuracy": 1.0, "eval_loss": 0.43214, "eval_runtime": 3.0})
        assert (rows["top-1"], rows["top-5"], rows["loss"]) == ("87.6%", "100.0%", "0.4321")
        assert "runtime" not in rows[""]
        assert 'pipeline("video-classification", model="run"' in rows[""]

    def test_of_values(self, card):
        rows = card(labels=(0.5, 1.5, 2.5), metrics={"eval_mse": 0.876})
        assert (rows["mean squared error"], rows["labels"]) == ("0.8760", "values")
        assert "video regressor" in rows[""]

    def test_its_teacher(self, card):
        for epochs, until in ((None, "all along"), (3.0, "for 3 epochs")):
            rows = card(distillation=DistillationArguments(teacher="a-teacher", distillation_epochs=epochs))
            assert rows["self-distillation"] == f"its tokens were aligned with those of a-teacher, {until}"
        assert "self-distillation" not in card()


def test_masked_pretraining(tmp_path):
    (tmp_path / "run").mkdir()
    trainer = trainer_of(tmp_path / "run", [0, 1, 2], **LEARNING_RATES)
    alignment = AlignmentArguments(teacher="a-clip", mask_type="tube", mask_ratio=0.65, horizontal_flip=False)
    for metrics, said in (({"eval_loss": 0.12345}, True), ({}, False)):
        write_pretraining_card(trainer, ModelArguments(model_config="tiny"), DataArguments(data="videos"), alignment, metrics)
        rows = rows_of(tmp_path / "run")
        assert rows["started from"] == "random weights"
        assert rows["teacher"] == "a-clip, imagenet statistics"
        assert rows["mask"] == "tube, 65%"
        assert rows["augmentation"] == "multi-scale crops, no horizontal flips"
        assert ("with masks that stay the same: 0.1235." in rows[""] or "0.1234." in rows[""]) == said
