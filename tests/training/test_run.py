"""A run starts from the checkpoint that it should, and says what it does."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from modeling_videomamba.training import run
from tests.training.trainers import trainer_of


FIVE = [0, 1, 2, 3, 4]


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Starts a run that does not train; what it would have trained from, and the seed it set."""

    def start(process: int = 0, **options) -> SimpleNamespace:
        trainer, seen = trainer_of(tmp_path / "run", FIVE, **options), SimpleNamespace()

        def train(resume_from_checkpoint=None):
            seen.checkpoint = resume_from_checkpoint
            return SimpleNamespace(metrics={"train_loss": 1.0})

        monkeypatch.setattr(trainer, "train", train)
        monkeypatch.setattr(run, "set_seed", lambda seed: setattr(seen, "seed", seed))
        monkeypatch.setattr(type(trainer.args), "process_index", process)
        run.train(trainer, {"seed": 1})
        return seen

    return start


def checkpoint(directory: Path, step: int) -> Path:
    folder = directory / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text("{}")
    return folder


def test_a_run_starts_from_nothing_or_the_last_checkpoint_of_its_directory(start, tmp_path, capsys):
    assert start().checkpoint is None
    checkpoint(tmp_path / "run", 9)
    last = checkpoint(tmp_path / "run", 10)
    assert start().checkpoint == str(last)
    assert f"going on from {last}" in capsys.readouterr().out


def test_or_from_the_one_that_it_is_told(start, tmp_path):
    told = checkpoint(tmp_path / "run", 9)
    checkpoint(tmp_path / "run", 10)
    assert start(resume_from_checkpoint=str(told)).checkpoint == str(told)
    with pytest.raises(FileNotFoundError, match="nowhere is not a checkpoint of a training"):
        start(resume_from_checkpoint=str(tmp_path / "nowhere"))


def test_every_process_draws_for_itself(start):
    """Which paths are dropped; what clips are is drawn otherwise."""
    assert [start(process, seed=7).seed for process in (0, 1, 2)] == [7, 8, 9]


def test_what_is_announced(tmp_path):
    trainer = trainer_of(tmp_path, FIVE, repeats=2, learning_rate=2e-4, lr_reference=8, recipe="a/b.yaml")
    assert run.describe(trainer) == (
        "recipe b: 6 steps of 4 clips, 3 of them to warm up, peak learning rate 0.0001 (0.0002 x 4 clips / 8)"
    )
