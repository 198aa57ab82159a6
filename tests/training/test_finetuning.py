"""`videomamba finetune`, from videos to a directory that the pipeline takes."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from transformers import pipeline
from transformers.modeling_outputs import ImageClassifierOutput

from examples.demos.render_demo_clips import cut, draw_path, load, render, write
from modeling_videomamba import VideoMambaForVideoClassification
from modeling_videomamba.checkpoints.by_name import DEMO_MODEL
from modeling_videomamba.checkpoints.default_processor import processor_for
from modeling_videomamba.commands import finetune as finetune_command
from modeling_videomamba.data.clips import UNREADABLE_LABEL
from modeling_videomamba.training.arguments import AugmentationArguments
from modeling_videomamba.training.classification import choose_mirroring
from modeling_videomamba.training.losses import ClassificationLoss
from tests.conftest import render_clip, small_config
from tests.training_runs import (
    SMALL_MODEL,
    assert_equal,
    command,
    finish,
    interrupt,
    kill_after_checkpoint,
    losses,
    options,
    start,
    weights,
)


SINGLE = "single_label_classification"
COMMAND = command("finetune")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """8 videos to train on and 4 to validate on: short ones of one class, long, and so brighter, ones of the other."""
    root = tmp_path_factory.mktemp("videos")
    for split, count in (("train", 4), ("val", 2)):
        for label, num_frames in (("long", 40), ("short", 8)):
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                render_clip(root / split / label / f"{i}.mp4", num_frames=num_frames + i, size=(32, 40))
    return root


def finetune(*args, **changed) -> Path:
    """Runs `videomamba finetune` in this process; returns the output directory."""
    output_dir = args[1]
    finetune_command.main(options(*args, **changed))
    return output_dir


def test_a_folder_of_classes_becomes_a_classifier(videos, tmp_path):
    easy = {"mixup": 0, "cutmix": 0, "label_smoothing": 0, "auto_augment": "none", "random_erasing": 0, "min_crop_area": 0.9}
    fast = {"model_config": SMALL_MODEL[:-1] + ', "initializer_range": 0.4}', "layer_decay": 1, "learning_rate": 3e-3}
    output = finetune(videos, tmp_path / "model", num_train_epochs=20, **fast, **easy)

    metrics = json.loads((output / "eval_results.json").read_text())
    assert metrics["eval_accuracy"] == 1  # brightness is enough
    assert metrics["eval_top5_accuracy"] == 1
    assert losses(output)[-1] < losses(output)[0]
    [best, *_] = pipeline("video-classification", model=str(output))(str(videos / "val/long/0.mp4"))
    assert best["label"] == "long"
    assert list(output.glob("runs/*/events.out.tfevents*")), "curves for TensorBoard"
    card = (output / "README.md").read_text()
    assert "8 videos to train on, 4 to validate on" in card
    assert "| top-1 | 100.0% |" in card


def test_a_small_folder_is_learned_with_the_defaults(tmp_path, capsys):
    """Three movements, six clips each; a new head on a model that knows movements, but none of these by name."""
    for index, label in enumerate(("zoom_in", "pan_up", "pan_left")):
        (tmp_path / "videos" / label).mkdir(parents=True)
        for number in range(6):
            random = np.random.default_rng([index, number])
            frames = render(draw_path(label, random), cut(load("china"), random), 48, random)
            write(frames, tmp_path / "videos" / label / f"{number}.mp4")
    asked = {
        "model": DEMO_MODEL,
        "data": tmp_path / "videos",
        "output_dir": tmp_path / "model",
    }
    asked |= {"num_train_epochs": 20, "use_cpu": True, "dataloader_num_workers": 0}
    finetune_command.main([part for name, value in asked.items() for part in (f"--{name}", str(value))])
    printed = capsys.readouterr()
    assert "clips are not mirrored, since classes tell left from right: pan_left" in printed.out
    assert (
        "small-data defaults (no recipe): 40 steps of 8 clips, 4 of them to warm up, peak learning rate 0.0003\n"
        in printed.out
    )
    assert "warning: only 40 optimizer steps; a larger --num_train_epochs or a smaller" in printed.err
    assert json.loads((tmp_path / "model/eval_results.json").read_text())["eval_accuracy"] == 1


def test_a_recipe_is_named_and_says_what_its_rate_is_made_of(videos, tmp_path, capsys):
    finetune(videos, tmp_path / "model", recipe="base/finetuning", learning_rate=2e-4, lr_reference=256)
    line = "recipe finetuning: 4 steps of 8 clips, 2 of them to warm up, peak learning rate 6.25e-06 (0.0002 x 8 clips / 256)"
    assert line in capsys.readouterr().out


def test_clips_are_mirrored_unless_names_of_classes_speak_against_it():
    augmentation = AugmentationArguments()
    choose_mirroring(augmentation, ["jump", "run"], SINGLE, speaks=False)
    assert augmentation.horizontal_flip is True
    augmentation = AugmentationArguments()
    choose_mirroring(augmentation, ["turn left", "run"], SINGLE, speaks=False)
    assert augmentation.horizontal_flip is False


def test_what_a_person_says_of_mirroring_counts_with_a_warning(capsys):
    for said, warnings in ((True, 1), (False, 0)):
        augmentation = AugmentationArguments(horizontal_flip=said)
        choose_mirroring(augmentation, ["turn left", "turn right", "run"], SINGLE, speaks=True)
        assert augmentation.horizontal_flip is said
        assert capsys.readouterr().err.count("warning: clips are mirrored at random, but classes tell left") == warnings


def test_class_weights_are_those_of_the_loss(videos, tmp_path):
    same = {"max_steps": 1, "label_smoothing": 0}
    plain = finetune(videos, tmp_path / "plain", **same)
    doubled = finetune(videos, tmp_path / "doubled", class_weights='{"long": 2, "short": 2}', **same)
    assert losses(doubled) == pytest.approx([2 * loss for loss in losses(plain)], rel=1e-5)
    balanced = finetune(videos, tmp_path / "balanced", class_weights="balanced", **same)  # as many of one as of the other
    assert losses(balanced) == pytest.approx(losses(plain), rel=1e-5)
    assert "| class weights | balanced |" in (balanced / "README.md").read_text()


def test_of_a_frozen_backbone_nothing_learns_and_nothing_is_dropped(videos, parent, tmp_path):
    config = json.loads((parent / "config.json").read_text())
    changes = {"model_config": None, "model": parent, "freeze_backbone": True, "num_frames": 2, "image_size": 16}
    still = finetune(videos, tmp_path / "still", **changes)
    before, after = weights(parent), weights(still)
    for name in before:
        assert torch.equal(before[name], after[name]) == (not name.startswith("classifier")), name

    for probability in ("drop_path_rate", "hidden_dropout_prob"):
        (parent / "config.json").write_text(json.dumps(config | {probability: 0.9}))
        dropping = finetune(videos, tmp_path / probability, **changes)
        assert losses(dropping) == losses(still)
    with pytest.raises(ValueError, match="--drop_path_rate has no effect on a frozen backbone"):
        finetune(videos, tmp_path / "model", drop_path_rate=0.1, **changes)


def test_several_labels_a_video_are_learned(videos, tmp_path):
    lines = [f"{path},{'clip;' * (i % 2)}{path.parent.name}\n" for i, path in enumerate(sorted(videos.rglob("train/*/*")))]
    (tmp_path / "list.csv").write_text("".join(lines))
    several = {"problem_type": "multi_label_classification", "class_weights": "balanced"}
    output = finetune(tmp_path / "list.csv", tmp_path / "model", validation_fraction=0.25, mixup=0.8, **several)
    metrics = json.loads((output / "eval_results.json").read_text())
    assert {"eval_map", "eval_micro_f1"} <= metrics.keys()
    assert json.loads((output / "trainer_state.json").read_text())["best_metric"] <= 1
    config = VideoMambaForVideoClassification.from_pretrained(output).config
    assert config.problem_type == "multi_label_classification"
    assert config.label2id == {"clip": 0, "long": 1, "short": 2}
    assert len((output / "validation.csv").read_text().splitlines()) == 2
    [first, *_] = pipeline("video-classification", model=str(output))(str(videos / "val/long/0.mp4"))
    assert 0 < first["score"] < 1


def test_a_list_of_values_becomes_a_regressor(videos, tmp_path):
    paths = sorted((videos / "train").rglob("*.mp4"))
    (tmp_path / "train.csv").write_text("".join(f"{path},{i / 8}\n" for i, path in enumerate(paths)))
    (tmp_path / "val.csv").write_text("".join(f"{path},{i / 8}\n" for i, path in enumerate(paths[:3])))
    output = finetune(tmp_path, tmp_path / "model", problem_type="regression", num_train_epochs=3)
    state = json.loads((output / "trainer_state.json").read_text())
    assert state["best_metric"] == min(entry["eval_mse"] for entry in state["log_history"] if "eval_mse" in entry)
    assert VideoMambaForVideoClassification.from_pretrained(output).config.num_labels == 1


def test_long_videos_are_cut_into_windows(videos, tmp_path):
    paths = sorted((videos / "train").rglob("*.mp4"))
    (tmp_path / "train.csv").write_text("".join(f"{path},{i % 2},2.0\n" for i, path in enumerate(paths[:4])))
    (tmp_path / "val.csv").write_text(f"{paths[0]},0,2.0\n")
    output = finetune(tmp_path, tmp_path / "model", window_seconds=0.5, window_stride=1)
    assert "8 videos to train on, 2 to validate on" in (output / "README.md").read_text()  # windows at 0 and 1 s


@pytest.fixture
def parent(tmp_path) -> Path:
    """A trained classifier of short and long videos, at another clip size, with its labels in another order."""
    config = small_config(hidden_size=16, num_frames=2, image_size=16, num_labels=2, id2label={0: "short", 1: "long"})
    config.label2id = {"short": 0, "long": 1}
    model = VideoMambaForVideoClassification(config)
    model.save_pretrained(tmp_path / "parent")
    processor_for(config).save_pretrained(tmp_path / "parent")
    return tmp_path / "parent"


def test_a_parent_with_the_same_labels_keeps_its_head(videos, parent, tmp_path):
    changes = {
        "model_config": None,
        "model": parent,
        "num_frames": 4,
        "image_size": 32,
        "learning_rate": 1e-12,
        "max_steps": 1,
    }
    output = finetune(videos, tmp_path / "model", warmup_learning_rate=0, min_learning_rate=0, **changes)
    torch.testing.assert_close(weights(output)["classifier.weight"], weights(parent)["classifier.weight"])
    config = VideoMambaForVideoClassification.from_pretrained(output).config
    assert config.label2id == {"short": 0, "long": 1}
    assert (config.num_frames, config.image_size) == (4, 32)


def test_a_parent_with_other_labels_gets_a_new_head(videos, parent, tmp_path):
    (videos / "train").rename(tmp_path / "train")
    try:
        (tmp_path / "train/long").rename(tmp_path / "train/lengthy")
        changes = {"model_config": None, "model": parent, "max_steps": 1, "validation_fraction": 0.25}
        output = finetune(tmp_path / "train", tmp_path / "model", **changes)
    finally:
        (tmp_path / "train/lengthy").rename(tmp_path / "train/long")
        (tmp_path / "train").rename(videos / "train")
    assert VideoMambaForVideoClassification.from_pretrained(output).config.label2id == {"lengthy": 0, "short": 1}
    assert not torch.allclose(weights(output)["classifier.weight"], weights(parent)["classifier.weight"], atol=1e-2)


def test_accumulated_gradients_are_those_of_the_whole_batch(videos, tmp_path):
    plain = {"mixup": 0, "cutmix": 0}
    whole = finetune(videos, tmp_path / "whole", **plain)
    parts = finetune(videos, tmp_path / "parts", per_device_train_batch_size=1, gradient_accumulation_steps=4, **plain)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)
    assert_equal(weights(parts), weights(whole), rtol=0, atol=1e-6)


def test_gradient_checkpointing_and_bf16(videos, tmp_path):
    plain = finetune(videos, tmp_path / "plain")
    checkpointed = finetune(videos, tmp_path / "checkpointed", gradient_checkpointing=True)
    assert losses(checkpointed) == pytest.approx(losses(plain), rel=1e-5)
    half = finetune(videos, tmp_path / "half", bf16=True)
    assert losses(half) == pytest.approx(losses(plain), rel=2e-2)
    assert losses(half) != losses(plain)


def test_early_stopping_goes_on_counting_after_an_interruption(videos, tmp_path):
    still = {"learning_rate": 1e-12, "warmup_learning_rate": 0, "min_learning_rate": 0, "early_stopping_patience": 2}
    output = finetune(videos, tmp_path / "model", num_train_epochs=9, save_total_limit=9, **still)
    assert json.loads((output / "trainer_state.json").read_text())["epoch"] == 3  # no better than after the first
    shutil.rmtree(output / "checkpoint-6")  # 2 steps an epoch
    finetune(videos, tmp_path / "model", num_train_epochs=9, save_total_limit=9, **still)
    assert json.loads((output / "trainer_state.json").read_text())["epoch"] == 3


def test_a_run_is_not_continued_as_another(videos, tmp_path):
    finetune(videos, tmp_path / "model", num_train_epochs=1)
    with pytest.raises(ValueError, match=r"has results of other settings: seed was 42 and is 7. Give another --output_dir"):
        finetune(videos, tmp_path / "model", num_train_epochs=1, seed=7)


def test_videos_that_are_held_out_are_listed(videos, tmp_path):
    output = finetune(videos / "train", tmp_path / "model", validation_fraction=0.3, num_train_epochs=1)
    held_out = [line.split(",") for line in (output / "validation.csv").read_text().splitlines()]
    assert sorted(label for _, label in held_out) == ["long", "short"]  # of 4 each
    assert all(Path(path).is_file() for path, _ in held_out)


def test_evaluation_loss_is_a_mean_over_readable_videos():
    logits = torch.tensor([[0.5], [2.0], [9.0]])
    labels = torch.tensor([0.0, 1.0, torch.nan])
    assert ClassificationLoss("regression")(ImageClassifierOutput(logits=logits), labels) == (0.25 + 1) / 2
    logits = torch.tensor([[0.0, 0.0], [9.0, -9.0]])
    loss = ClassificationLoss()(ImageClassifierOutput(logits=logits), torch.tensor([1, UNREADABLE_LABEL]))
    torch.testing.assert_close(loss, torch.tensor(2.0).log())


def test_options_without_effect_are_errors(videos, tmp_path):
    with pytest.raises(ValueError, match=r"--lr_scheduler_type has no effect here"):
        finetune(videos, tmp_path / "model", lr_scheduler_type="constant")
    with pytest.raises(ValueError, match=r"--warmup_epochs 5 is more than --num_train_epochs 3: give a smaller number"):
        finetune(videos, tmp_path / "model", num_train_epochs=3, warmup_epochs=5)


def test_what_is_pushed_to_the_hub(videos, tmp_path, monkeypatch):
    """Against a stand-in for the hub: the repository is made first, and gets the model, its code, processor and our card."""
    pushed = {}

    def create_repo(repo_id, **options):
        return SimpleNamespace(repo_id=repo_id, url=f"https://hub.example/{repo_id}")

    def upload_folder(*, repo_id, folder_path, **options):
        pushed[repo_id] = {path.name: path.read_bytes() for path in Path(folder_path).iterdir() if path.is_file()}
        return SimpleNamespace(done=lambda: True, result=lambda: None)

    hub = SimpleNamespace(create_repo=create_repo, upload_folder=upload_folder)
    monkeypatch.setattr(transformers.trainer, "hf_api", lambda: hub)
    push = {"push_to_hub": True, "hub_model_id": "me/short-or-long", "hub_strategy": "end"}
    finetune(videos, tmp_path / "model", num_train_epochs=1, **push)
    files = pushed["me/short-or-long"]
    assert {"config.json", "model.safetensors", "video_preprocessor_config.json", "modeling_videomamba.py"} <= files.keys()
    assert b"8 videos to train on, 4 to validate on" in files["README.md"]


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_doubled_batch(videos, tmp_path):
    plain = {"mixup": 0, "cutmix": 0, "lr_reference": 16}
    one = finetune(videos, tmp_path / "one", **plain)
    two = options(videos, tmp_path / "two", per_device_train_batch_size=2, **plain)
    finish(start("-m", "torch.distributed.run", "--nproc_per_node", 2, *COMMAND, *two))
    assert losses(tmp_path / "two") == pytest.approx(losses(one), rel=1e-5)
    assert_equal(weights(tmp_path / "two"), weights(one), rtol=0, atol=1e-6)


def test_an_interrupted_run_goes_on_to_the_same_weights(videos, tmp_path):
    """From the middle of an epoch, with everything that is random: mixing, augmentation, drop path."""
    changes = {"num_train_epochs": 3, "per_device_train_batch_size": 2, "drop_path_rate": 0.5, "recipe": "base/finetuning"}
    changes |= {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 3, "save_total_limit": 9}
    whole = finetune(videos, tmp_path / "model", **changes).rename(tmp_path / "whole")
    interrupt(whole, tmp_path / "model", after=6)  # 4 steps an epoch
    assert_equal(weights(finetune(videos, tmp_path / "model", **changes)), weights(whole), rtol=0, atol=0)
    assert losses(tmp_path / "model") == losses(whole)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(videos, tmp_path):
    """As it does if it is interrupted; killed where it is at that moment."""
    changes = {"num_train_epochs": 6, "per_device_train_batch_size": 2, "drop_path_rate": 0.5, "recipe": "base/finetuning"}
    changes |= {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 3}
    whole = start(*COMMAND, *options(videos, tmp_path / "whole", **changes))
    killed = start(*COMMAND, *options(videos, tmp_path / "killed", **changes))
    kill_after_checkpoint(killed, tmp_path / "killed", step=6)  # 4 steps an epoch
    finish(start(*COMMAND, *options(videos, tmp_path / "killed", **changes)))
    finish(whole)
    assert_equal(weights(tmp_path / "killed"), weights(tmp_path / "whole"), rtol=0, atol=0)


def list_of(videos: Path, tmp_path: Path, lines: list[str], good: tuple[str, ...] = ("long", "short")) -> Path:
    """A list of `lines` and of `good` videos to train on, and one of two good videos to validate on."""
    rows = {label: f"{videos}/val/{label}/0.mp4,{i}\n" for i, label in enumerate(("long", "short"))}
    (tmp_path / "train.csv").write_text("".join(f"{line}\n" for line in lines) + "".join(rows[label] for label in good))
    (tmp_path / "val.csv").write_text("".join(rows.values()))
    return tmp_path


def test_a_corrupt_video_is_skipped_counted_and_named(videos, tmp_path, capsys):
    (tmp_path / "corrupt.mp4").write_text("no video")
    data = list_of(videos, tmp_path, ["corrupt.mp4,0", "gone.mp4,1"])
    output = finetune(data, tmp_path / "model", per_device_train_batch_size=2)
    named = (output / "unreadable_files.txt").read_text().splitlines()
    assert sorted(named) == sorted([str(tmp_path / "corrupt.mp4"), str(tmp_path / "gone.mp4")])
    assert "2 file(s) could not be read and were skipped" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"Cannot read .*corrupt.mp4 \(--strict\)"):
        finetune(data, tmp_path / "strict", strict=True)


def test_what_is_wrong_is_said_before_the_first_step(videos, tmp_path):
    (tmp_path / "bad.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"None of the 1 training videos can be read"):
        finetune(list_of(videos, tmp_path, ["bad.mp4,0"], good=()), tmp_path / "model", num_labels=2)

    (tmp_path / "folders/train/empty").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"class folder .*empty has no videos"):
        finetune(tmp_path / "folders", tmp_path / "model")

    with pytest.raises(ValueError, match="train.csv, line 1: the class id 7 is not below --num_labels 2"):
        finetune(list_of(videos, tmp_path, [f"{videos}/train/long/0.mp4,7"]), tmp_path / "model", num_labels=2)

    with pytest.raises(ValueError, match=r"Give either --model, .* or --model_config"):
        finetune(videos, tmp_path / "model", model_config=None)

    with pytest.raises(ValueError, match=r"8 videos are too few for a step of 9"):
        finetune(videos, tmp_path / "few", per_device_train_batch_size=9, dataloader_drop_last=True)

    with pytest.raises(ValueError, match=r"values, not classes: --problem_type regression"):
        finetune(list_of(videos, tmp_path, [f"{videos}/train/long/0.mp4,0.5"]), tmp_path / "model")
