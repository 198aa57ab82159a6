"""The Trainer: what a step and an epoch are, which rate each step has, and which checkpoint is the last."""

import math
from pathlib import Path

import pytest
import torch

from modeling_videomamba.training.learning_rate import epoch_cosine, warmup_cosine
from modeling_videomamba.training.trainer import last_complete_checkpoint
from tests.rows import all_rows
from tests.training.trainers import trainer_of


pytestmark = pytest.mark.usefixtures("one_thread")

FIVE = [0, 1, 2, 3, 4]
UNSAVED = {"save_strategy": "no", "eval_strategy": "no", "load_best_model_at_end": False}
LEARNING_RATES = {"learning_rate": 1e-2, "warmup_learning_rate": 1e-4, "min_learning_rate": 1e-3}


class TestSteps:
    def test_every_clip_of_a_step_counts(self, tmp_path):
        """Those of all accumulated batches, and all copies of a video."""
        trainer = trainer_of(tmp_path, FIVE, repeats=2, gradient_accumulation_steps=3)
        assert trainer.clips_per_step == 2 * 2 * 3

    def test_a_run_has_as_many_as_were_announced(self, tmp_path):
        """Five videos in batches of two, for two epochs: the last batch of an epoch is smaller, and counts unless it is left
        out; so does the last part of an accumulated one."""

        def check(expected: int, options: dict) -> None:
            trainer = trainer_of(tmp_path, FIVE, **UNSAVED, **options)
            assert trainer.num_steps == expected
            trainer.train()
            assert trainer.state.global_step == expected

        all_rows(
            check,
            [
                (6, {}),
                (4, {"dataloader_drop_last": True}),
                (4, {"gradient_accumulation_steps": 2}),
                (3, {"max_steps": 3}),
                (2, {"num_train_epochs": 0.5, "warmup_epochs": 0}),
            ],
        )

    def test_an_epoch_is_told_to_the_clips(self, tmp_path):
        epochs = []
        trainer = trainer_of(tmp_path, FIVE, **UNSAVED)
        collate = trainer.data_collator
        trainer.data_collator = lambda items: epochs.append(int(trainer.train_dataset.epoch)) or collate(items)
        trainer.train()
        assert epochs == [0, 0, 0, 1, 1, 1]

    def test_the_loss_of_a_step_is_a_mean_over_its_clips(self, tmp_path):
        """Accumulated in whatever parts, whose losses add up."""
        losses = []
        for size, parts in ((4, 1), (2, 2)):
            step = {"per_device_train_batch_size": size, "gradient_accumulation_steps": parts, "max_steps": 1}
            trainer = trainer_of(tmp_path, [0, 1, 2, 3], **step, **UNSAVED)
            trainer.train()
            losses.append(next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry))
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        assert losses[0] == pytest.approx(math.log(5), abs=0.2)  # that of weights near 0


class TestLearningRates:
    def test_are_taken_as_they_are_or_scaled_by_the_clips_of_a_step(self, tmp_path):
        def check(options: dict, expected: tuple) -> None:
            assert trainer_of(tmp_path, FIVE, **LEARNING_RATES, **options).learning_rates == pytest.approx(expected)

        half = {"lr_reference": 4}  # of two clips
        all_rows(
            check,
            [
                ({}, (1e-2, 1e-4, 1e-3)),
                (half | {"lr_scaling": "all"}, (5e-3, 5e-5, 5e-4)),
                (half | {"lr_scaling": "peak"}, (5e-3, 1e-4, 1e-3)),
            ],
        )

    def test_are_those_of_the_schedule_at_every_step(self, tmp_path):
        """Of ten epochs of three steps, two and a half of which warm up."""
        peak, start, _ = ends = 5e-3, 5e-5, 5e-4
        by_step = [warmup_cosine(step, 30, round(30 * 2.5 / 10), *ends) for step in range(30)]
        by_epoch = [epoch_cosine(step // 3, 10, 2.5, *ends) for step in range(30)]
        late = [epoch_cosine(step // 3, 10, 2.5, *ends, lag=True) for step in range(30)]

        def check(schedule: str, expected: list[float]) -> None:
            options = {"num_train_epochs": 10, "warmup_epochs": 2.5, "lr_reference": 4, "lr_schedule": schedule}
            trainer = trainer_of(tmp_path, FIVE, **LEARNING_RATES, **options)
            trainer.create_optimizer_and_scheduler(num_training_steps=30)
            rates = []
            for _ in range(30):
                rates.append(trainer.optimizer.param_groups[0]["lr"])
                trainer.optimizer.step()
                trainer.lr_scheduler.step()
            assert rates == pytest.approx(expected)
            assert max(rates) == pytest.approx(peak) or schedule != "step"

        all_rows(check, [("step", by_step), ("epoch", by_epoch), ("epoch_lag", late)])
        assert by_step[0] == start
        assert len({*map(tuple, (by_step, by_epoch, late))}) == 3

    def test_and_weight_decay_of_each_parameter_are_those_of_the_arguments(self, tmp_path):
        options = {"layer_decay": 0.5, "layer_decay_mode": "true", "weight_decay": 0.3}
        trainer = trainer_of(tmp_path, FIVE, **LEARNING_RATES, **options)
        groups = trainer.create_optimizer().param_groups
        found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
        parameters = dict(trainer.model.named_parameters())

        def check(name: str, expected: tuple[float, float]) -> None:
            assert found[id(parameters[name])] == pytest.approx(expected)

        all_rows(
            check,
            [
                ("classifier.weight", (1e-2, 0.3)),
                ("classifier.bias", (1e-2, 0)),
                ("videomamba.layers.1.mixer.in_proj.weight", (1e-2 / 2, 0.3)),
                ("videomamba.layers.0.mixer.in_proj.weight", (1e-2 / 4, 0.3)),
                ("videomamba.embeddings.cls_token", (1e-2 / 8, 0)),
            ],
        )


class TestEvaluation:
    def test_goes_through_all_videos_whatever_training_leaves_out(self, tmp_path):
        trainer = trainer_of(tmp_path, FIVE, dataloader_drop_last=True)
        labels = [label for batch in trainer.get_eval_dataloader() for label in batch["labels"].tolist()]
        assert labels == FIVE
        assert trainer.args.dataloader_drop_last
        assert len(trainer.get_train_dataloader()) == 2

    def test_its_loss_is_a_mean_over_what_can_be_read(self, tmp_path):
        """In one batch, of which a value is missing."""
        values = [0.0, 1.0, 3.0, math.nan]
        trainer = trainer_of(tmp_path, [0.0, 1.0], eval_labels=values, per_device_eval_batch_size=4)
        with torch.no_grad():
            clips = torch.cat([trainer.eval_dataset[i]["pixel_values"] for i in range(3)])
            predicted = trainer.model.eval()(clips).logits[:, 0]
        expected = (predicted - torch.tensor(values[:3])).square().mean().item()
        assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


class TestLastCheckpoint:
    def write(self, directory: Path, **states: str) -> None:
        for number, state in states.items():
            folder = directory / f"checkpoint-{number[1:]}"
            folder.mkdir()
            (folder / "trainer_state.json").write_text(state)

    def test_is_the_one_of_the_most_steps(self, tmp_path):
        """Not the last by name, which 9 is."""
        self.write(tmp_path, _9="{}", _10="{}", _100="{}", _20="{}")
        assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")

    def test_that_was_not_written_to_its_end_is_left_out(self, tmp_path, capsys):
        self.write(tmp_path, _9="{}", _10="{}", _11='{"epoch": ', _100="")
        (tmp_path / "checkpoint-200").mkdir()
        assert last_complete_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-10")
        assert capsys.readouterr().out.count("is not complete and is left out") == 3

    def test_of_another_name_is_none_of_the_runs(self, tmp_path):
        self.write(tmp_path, _9="{}")
        (tmp_path / "checkpoint-best").mkdir()
        assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-9")

    def test_may_not_be_there(self, tmp_path):
        assert last_complete_checkpoint(tmp_path) is None
        assert last_complete_checkpoint(tmp_path / "nowhere") is None
