"""`videomamba pretrain-images`, `distill` and `pretrain-masked`, alone and one after the other."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    DeiTConfig,
    DeiTModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
    pipeline,
)

from examples import draw_masks
from modeling_videomamba import (
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaForVideoClassification,
)
from modeling_videomamba.checkpoints.default_processor import processor_for
from modeling_videomamba.commands import distill as distill_command
from modeling_videomamba.commands import evaluate as evaluate_command
from modeling_videomamba.commands import finetune as finetune_command
from modeling_videomamba.commands import pretrain_images, pretrain_masked
from modeling_videomamba.modeling_videomamba import VideoMambaMixer
from modeling_videomamba.training.teachers import load_clip
from tests.conftest import render_clip, small_config
from tests.training_runs import assert_equal, command, finish, interrupt, losses, options, start, weights


pytestmark = pytest.mark.usefixtures("one_thread")

IMAGE_MODEL = json.dumps({"hidden_size": 16, "num_hidden_layers": 2, "image_size": 32})
PLAIN = {
    "mixup": 0,
    "cutmix": 0,
    "auto_augment": "none",
    "random_erasing": 0,
    "min_crop_area": 0.9,
    "repeated_augmentation": 1,
}


VIT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT |= {"image_size": 32, "patch_size": 16}


@dataclass
class Stage:
    """A command, and what it is called with here."""

    main: Callable[[list[str]], None]
    data: Path
    options: dict = field(default_factory=dict)

    @property
    def command(self) -> tuple[str, ...]:
        return command(self.main.__module__.split(".")[-1].replace("_", "-"))

    def arguments(self, output_dir: Path, **changed) -> list[str]:
        return options(self.data, output_dir, **self.options | changed)

    def run(self, output_dir: Path, **changed) -> Path:
        """In this process; returns the output directory."""
        self.main(self.arguments(output_dir, **changed))
        return output_dir


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """images/ and videos/ of two classes, 8 files to train on and 4 to validate on: dark and light ones; two teachers."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for label, grey, num_frames in (("dark", 60, 8), ("light", 180, 40)):
            for media in ("images", "videos"):
                (root / media / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = grey + random.integers(-40, 40, (40, 48, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / split / label / f"{i}.png")
                render_clip(root / "videos" / split / label / f"{i}.mp4", num_frames=num_frames + i, size=(32, 40))
    torch.manual_seed(0)
    teacher = VideoMambaForImageClassification(small_config(num_frames=None, hidden_size=8, num_labels=2))
    teacher.save_pretrained(root / "teacher")
    text = {"vocab_size": 9, **{name: VIT[name] for name in list(VIT)[:4]}}
    CLIPModel(CLIPConfig(vision_config=VIT, text_config=text, projection_dim=12)).save_pretrained(root / "clip")
    return root


@pytest.fixture(params=["images", "self-distillation", "masked"])
def stage(request, data) -> Stage:
    return stages(data)[request.param]


def stages(data: Path) -> dict[str, Stage]:
    images = {"model_config": IMAGE_MODEL, "recipe": "base/images"}  # three copies of every image, as in the reference
    masked = {"teacher": data / "clip", "mask_ratio": 0.5, "recipe": "base/masked"}
    return {
        "images": Stage(pretrain_images.main, data / "images", images),
        "self-distillation": Stage(distill_command.main, data / "images", images | {"teacher": data / "teacher"}),
        "masked": Stage(pretrain_masked.main, data / "videos", masked),
    }


class TestEveryStage:
    """As for fine-tuning."""

    def test_accumulated_gradients_are_those_of_the_whole_batch(self, stage, tmp_path):
        plain = {} if stage.main is pretrain_masked.main else {"mixup": 0, "cutmix": 0}
        whole = stage.run(tmp_path / "whole", **plain)
        parts = stage.run(tmp_path / "parts", per_device_train_batch_size=1, gradient_accumulation_steps=4, **plain)
        assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)
        assert_equal(weights(parts), weights(whole), rtol=0, atol=1e-6)

    def test_gradient_checkpointing_and_bf16(self, stage, tmp_path, monkeypatch):
        calls = []
        forward = VideoMambaMixer.forward
        monkeypatch.setattr(VideoMambaMixer, "forward", lambda *args: calls.append(1) or forward(*args))
        plain = stage.run(tmp_path / "plain")
        calls, in_plain = [], len(calls)
        checkpointed = stage.run(tmp_path / "checkpointed", gradient_checkpointing=True)
        blocks = 1 if stage.main is pretrain_masked.main else 2  # computed again; there, the last has no gradient
        assert len(calls) == in_plain + blocks * len(losses(checkpointed))
        assert losses(checkpointed) == pytest.approx(losses(plain), rel=1e-5)
        half = stage.run(tmp_path / "half", bf16=True)
        assert losses(half) == pytest.approx(losses(plain), rel=3e-2)
        assert losses(half) != losses(plain)

    @pytest.mark.slow
    def test_two_processes_train_as_one_with_the_doubled_batch(self, stage, tmp_path):
        plain = {} if stage.main is pretrain_masked.main else {"mixup": 0, "cutmix": 0}
        one = stage.run(tmp_path / "one", lr_reference=8, **plain)
        two = stage.arguments(tmp_path / "two", lr_reference=8, per_device_train_batch_size=2, **plain)
        finish(start("-m", "torch.distributed.run", "--nproc_per_node", 2, *stage.command, *two))
        assert losses(tmp_path / "two") == pytest.approx(losses(one), rel=1e-5)
        assert_equal(weights(tmp_path / "two"), weights(one), rtol=0, atol=1e-6)

    def test_an_interrupted_run_goes_on_to_the_same_weights(self, stage, tmp_path):
        """With everything that is random, from the middle of an epoch."""
        changes = {"num_train_epochs": 3, "per_device_train_batch_size": 2, "drop_path_rate": 0.5, "save_total_limit": 9}
        changes |= {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 3}
        whole = stage.run(tmp_path / "model", **changes).rename(tmp_path / "whole")
        interrupt(whole, tmp_path / "model", after=6)  # 4 steps an epoch
        assert_equal(weights(stage.run(tmp_path / "model", **changes)), weights(whole), rtol=0, atol=0)
        assert losses(tmp_path / "model") == losses(whole)

    def test_it_is_not_continued_as_another(self, stage, tmp_path):
        stage.run(tmp_path / "model", num_train_epochs=1)
        with pytest.raises(ValueError, match=r"has results of other settings: learning_rate was 0.001 and is 0.01"):
            stage.run(tmp_path / "model", num_train_epochs=1, learning_rate=1e-2)

    def test_what_cannot_be_read_is_skipped_and_named(self, stage, tmp_path, capsys):
        shutil.copytree(stage.data, tmp_path / "data")
        suffix = ".png" if stage.data.name == "images" else ".mp4"
        bad = tmp_path / f"data/train/light/bad{suffix}"
        bad.write_text("nothing to see")
        changed = Stage(stage.main, tmp_path / "data", stage.options)
        output = changed.run(tmp_path / "model")
        assert (output / "unreadable_files.txt").read_text().splitlines() == [str(bad)]
        assert "1 file(s) could not be read and were skipped" in capsys.readouterr().out
        with pytest.raises(ValueError, match=rf"Cannot read {bad} \(--strict\)"):
            changed.run(tmp_path / "strict", strict=True)


class TestImages:
    def test_a_folder_of_classes_becomes_a_classifier(self, data, tmp_path):
        fast = {"learning_rate": 3e-3, "model_config": IMAGE_MODEL[:-1] + ', "initializer_range": 0.4}'}
        output = stages(data)["images"].run(tmp_path / "model", num_train_epochs=20, lr_schedule="step", **PLAIN | fast)
        assert json.loads((output / "eval_results.json").read_text())["eval_accuracy"] == 1  # brightness is enough
        [best, *_] = pipeline("image-classification", model=str(output))(str(data / "images/val/light/0.png"))
        assert best["label"] == "light"
        card = (output / "README.md").read_text()
        assert "8 images to train on, 4 to validate on" in card
        assert 'pipeline("image-classification"' in card

    def test_only_the_peak_of_the_learning_rate_is_scaled_and_epochs_lag(self, data, tmp_path):
        rates = {"learning_rate": 1e-2, "warmup_learning_rate": 1e-4, "min_learning_rate": 1e-3, "lr_reference": 16}
        output = stages(data)["images"].run(tmp_path / "model", num_train_epochs=4, warmup_epochs=2, **rates)
        history = json.loads((output / "trainer_state.json").read_text())["log_history"]
        by_step = [entry["learning_rate"] for entry in history if "learning_rate" in entry]
        peak = 1e-2 * 4 / 16
        by_epoch = [1e-4, 1e-4, (1e-4 + peak) / 2, (1e-3 + peak) / 2]  # start twice, half of the warm-up, half of the cosine
        assert by_step == pytest.approx([rate for rate in by_epoch for _ in range(2)], rel=1e-6)

    def test_a_larger_resolution_starts_from_a_smaller(self, data, tmp_path):
        stage = stages(data)["images"]
        small = stage.run(tmp_path / "small")
        still = {"learning_rate": 1e-12, "warmup_learning_rate": 0, "min_learning_rate": 0}
        large = stage.run(tmp_path / "large", model=small, model_config=None, image_size=48, **still)
        model = VideoMambaForImageClassification.from_pretrained(small)
        model.resize_position_embeddings(image_size=48)
        assert_equal(weights(large), model.state_dict(), rtol=0, atol=1e-6)
        assert VideoMambaForImageClassification.from_pretrained(large).config.image_size == 48

    def test_copies_of_images(self, data, tmp_path):
        """As many steps an epoch as without."""
        output = stages(data)["images"].run(tmp_path / "model", dataloader_num_workers=2)
        assert len(losses(output)) == 2 * 2
        assert "every image 3 time(s)" in (output / "README.md").read_text()

    def test_what_is_wrong_is_said_before_the_first_step(self, data, tmp_path):
        stage = stages(data)["images"]
        video_model = VideoMambaForVideoClassification(small_config())
        video_model.save_pretrained(tmp_path / "video")
        with pytest.raises(ValueError, match="is a model of videos, but the data are images"):
            stage.run(tmp_path / "model", model=tmp_path / "video", model_config=None)
        with pytest.raises(ValueError, match="--num_frames 4, but the data are images"):
            stage.run(tmp_path / "model", num_frames=4)
        with pytest.raises(ValueError, match="dark has no images, 4 other files passed over"):
            Stage(stage.main, data / "videos", stage.options).run(tmp_path / "model")
        with pytest.raises(ValueError, match="8 images are too few for a step of 9"):
            stage.run(tmp_path / "model", per_device_train_batch_size=9)
        with pytest.raises(ValueError, match="--repeated_augmentation must be at least 1, got 0"):
            stage.run(tmp_path / "model", repeated_augmentation=0)
        stage.run(tmp_path / "model")  # nothing of all this is held against it


class TestSelfDistillation:
    def test_the_student_comes_near_its_teacher_and_its_labels(self, data, tmp_path):
        fast = {"learning_rate": 1e-2, "lr_schedule": "step", "num_train_epochs": 20}
        output = stages(data)["self-distillation"].run(tmp_path / "model", **PLAIN | fast)
        assert losses(output)[-1] < 0.6 * losses(output)[0]
        names = {name.split(".")[0] for name in weights(output)}
        assert names == {"videomamba", "classifier"}  # nothing is left of what led to the teacher
        assert "aligned with those of" in (output / "README.md").read_text()
        assert pipeline("image-classification", model=str(output))(str(data / "images/val/light/0.png"))

    def test_without_the_teacher_it_is_training_on_images(self, data, tmp_path):
        """From the second epoch on, the teacher says nothing."""
        still = {"learning_rate": 1e-12, "warmup_learning_rate": 0, "min_learning_rate": 0}
        plain = losses(stages(data)["images"].run(tmp_path / "plain", **still))
        stopped = stages(data)["self-distillation"].run(tmp_path / "stopped", distillation_epochs=1, **still)
        stopped = losses(stopped)
        assert stopped[2:] == pytest.approx(plain[2:], rel=1e-5)
        assert all(with_teacher > without + 1 for with_teacher, without in zip(stopped[:2], plain[:2]))

    @pytest.mark.parametrize("teacher", ["of images", "of videos"])
    def test_videos(self, teacher, data, tmp_path):
        frames = None if teacher == "of images" else 4
        VideoMambaForVideoClassification(small_config(hidden_size=8, num_frames=4)).save_pretrained(tmp_path / "videos")
        stage = Stage(distill_command.main, data / "videos", {"media": "video"})
        stage.options["teacher"] = tmp_path / "videos" if frames else data / "teacher"
        output = stage.run(tmp_path / "model", **PLAIN, num_train_epochs=10, learning_rate=1e-2, lr_schedule="step")
        assert losses(output)[-1] < losses(output)[0] - 0.9  # more than the cross-entropy of two classes can give
        assert VideoMambaForVideoClassification.from_pretrained(output).config.num_frames == 4

    @pytest.mark.slow
    def test_the_teacher_may_stop_in_two_processes(self, data, tmp_path):
        """When it has, what leads to it gets no gradient."""
        stage = stages(data)["self-distillation"]
        two = stage.arguments(tmp_path / "two", distillation_epochs=1, per_device_train_batch_size=2)
        finish(start("-m", "torch.distributed.run", "--nproc_per_node", 2, *stage.command, *two))
        assert len(losses(tmp_path / "two")) == 4

    def test_a_teacher_that_cannot_teach_is_refused_and_another_may_come(self, data, tmp_path):
        stage = stages(data)["self-distillation"]
        with pytest.raises(ValueError, match="Give the --teacher"):
            Stage(stage.main, stage.data, {"model_config": IMAGE_MODEL}).run(tmp_path / "model")
        with pytest.raises(ValueError, match="whose output is tokens, not clip"):
            stage.run(tmp_path / "model", teacher=data / "clip")
        with pytest.raises(OSError, match="nowhere"):
            stage.run(tmp_path / "model", teacher=data / "nowhere")
        DeiTModel(DeiTConfig(**VIT)).save_pretrained(tmp_path / "two class tokens")
        with pytest.raises(ValueError, match="The teacher has 6 tokens where the student has CLS and 1 x 4 patches"):
            stage.run(tmp_path / "model", teacher=tmp_path / "two class tokens")
        stage.run(tmp_path / "model")

    def test_a_teacher_of_other_statistics_sees_its_own(self, data, tmp_path):
        ViTModel(ViTConfig(**VIT)).save_pretrained(tmp_path / "vit")
        ViTImageProcessor(image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(tmp_path / "vit")
        teacher = distill_command.load_teacher(str(tmp_path / "vit"), small_config(num_frames=None), torch.float32)
        assert (teacher.mean, teacher.std) == ([0.5] * 3, [0.25] * 3)
        stages(data)["self-distillation"].run(tmp_path / "model", teacher=tmp_path / "vit")


class TestMasked:
    @pytest.mark.parametrize("mask_type", ["attention", "random", "tube", "clip_row", "frame_row"])
    def test_the_student_comes_near_its_teacher(self, mask_type, data, tmp_path):
        fast = {"learning_rate": 1e-2, "num_train_epochs": 10, "mask_type": mask_type}
        output = stages(data)["masked"].run(tmp_path / "model", **fast)
        history = json.loads((output / "trainer_state.json").read_text())["log_history"]
        validation = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
        assert validation[-1] < 0.5 * validation[0]
        assert f"| mask | {mask_type}, 50% |" in (output / "README.md").read_text()

    def test_more_layers_other_losses_and_taps(self, data, tmp_path):
        layers = {"num_aligned_layers": 2, "teacher_layer_interval": 0.5}
        other = {"alignment_tap": "after_norm", "alignment_loss": "smooth_l1", "normalize_alignment": False}
        output = stages(data)["masked"].run(tmp_path / "model", teacher_normalization="clip", **layers, **other)
        model = VideoMambaForPreTraining.from_pretrained(output)
        assert len(model.alignment_heads) == 2
        assert {name: getattr(model.config, name) for name in other} == other

    def test_the_same_loss_is_validated_again(self, data, tmp_path):
        """Frames and masks of validation do not change from one time to the next."""
        still = {"learning_rate": 1e-12, "min_learning_rate": 0, "horizontal_flip": False}
        output = stages(data)["masked"].run(tmp_path / "model", **still)
        history = json.loads((output / "trainer_state.json").read_text())["log_history"]
        validation = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
        assert validation[0] == pytest.approx(validation[1], rel=1e-6)
        assert losses(output)[0] != pytest.approx(losses(output)[2], rel=1e-6)

    def test_videos_need_no_classes_and_lists_no_labels(self, data, tmp_path):
        (tmp_path / "videos").mkdir()
        files = sorted((data / "videos/train").rglob("*.mp4"))
        for i, file in enumerate(files):
            (tmp_path / f"videos/{i}.mp4").symlink_to(file)
        (tmp_path / "list.csv").write_text("".join(f"{file}\n" for file in files))
        stage = stages(data)["masked"]
        folder = Stage(stage.main, tmp_path / "videos", stage.options).run(tmp_path / "from a folder")
        listed = Stage(stage.main, tmp_path / "list.csv", stage.options).run(tmp_path / "from a list")
        assert losses(folder) == losses(listed)

    def test_a_whole_clip_or_its_image_tower(self, data, tmp_path):
        load_clip(str(data / "clip")).save_pretrained(tmp_path / "tower")
        whole = stages(data)["masked"].run(tmp_path / "whole")
        tower = stages(data)["masked"].run(tmp_path / "part", teacher=tmp_path / "tower")
        assert losses(whole) == losses(tower)

    def test_a_teacher_that_is_no_clip_or_not_all_of_one_is_refused_and_another_may_come(self, data, tmp_path):
        stage = stages(data)["masked"]
        with pytest.raises(ValueError, match="must be a CLIP model, .*teacher is a videomamba"):
            stage.run(tmp_path / "model", teacher=data / "teacher")
        CLIPVisionModel(CLIPVisionConfig(**VIT)).save_pretrained(tmp_path / "without projection")
        with pytest.raises(ValueError, match=r"lacks weights of a CLIP image tower: .*visual_projection\.weight"):
            stage.run(tmp_path / "model", teacher=tmp_path / "without projection")
        with pytest.raises(ValueError, match=r"--mask_ratio must be in \[0, 1\), got 80"):
            stage.run(tmp_path / "model", mask_ratio=80)
        stage.run(tmp_path / "model")

    def test_long_videos_are_cut_into_windows_and_a_part_is_held_out(self, data, tmp_path):
        files = sorted((data / "videos/train/light").rglob("*.mp4"))
        (tmp_path / "list.csv").write_text("".join(f"{file},-,2.0\n" for file in files))
        stage = Stage(pretrain_masked.main, tmp_path / "list.csv", stages(data)["masked"].options)
        output = stage.run(tmp_path / "model", window_seconds=0.5, window_stride=1, validation_fraction=0.25)
        assert "6 videos to train on, 2 to validate on" in (output / "README.md").read_text()  # windows at 0 and 1 s

    def test_a_model_with_tubelets_is_refused(self, data, tmp_path):
        config = json.dumps({"hidden_size": 16, "num_hidden_layers": 2, "image_size": 32, "num_frames": 4, "tubelet_size": 2})
        with pytest.raises(ValueError, match="`tubelet_size` must be 1, got 2"):
            stages(data)["masked"].run(tmp_path / "model", model_config=config)


def test_from_each_stage_to_the_next(data, tmp_path):
    """Images, self-distillation, masked alignment, fine-tuning, evaluation: every one starts from the directory before."""
    chain = stages(data)
    images = chain["images"].run(tmp_path / "images")
    distilled = chain["self-distillation"].run(tmp_path / "distilled", teacher=images, model=images, model_config=None)
    pretrained = chain["masked"].run(tmp_path / "pretrained", model=distilled, model_config=None, num_frames=4)
    finetuning = Stage(finetune_command.main, data / "videos", {"model": pretrained, "model_config": None})
    finetuned = finetuning.run(tmp_path / "finetuned", **PLAIN, image_size=48)

    still = {"learning_rate": 1e-12, "min_learning_rate": 0}
    start_of_masked = chain["masked"].run(tmp_path / "still", model=distilled, model_config=None, num_frames=4, **still)
    before, after = weights(distilled), weights(start_of_masked)
    inherited = before.keys() & after.keys()
    assert before.keys() - inherited == {"classifier.weight", "classifier.bias"}
    new = {f"alignment_heads.0.{name}" for name in ("dense.weight", "dense.bias", "norm.weight", "norm.bias")}
    assert after.keys() - inherited == new | {"videomamba.embeddings.temporal_position_embeddings"}
    assert_equal({name: after[name] for name in inherited}, {name: before[name] for name in inherited}, rtol=0, atol=1e-6)

    evaluated = tmp_path / "evaluated"
    evaluate_command.main(
        ["--model", str(finetuned), "--data", str(data / "videos"), "--output_dir", str(evaluated), "--num_clips", "2"]
    )
    assert json.loads((evaluated / "results.json").read_text())["num_videos"] == 4
    assert processor_for(VideoMambaForVideoClassification.from_pretrained(finetuned).config).num_frames == 4


@pytest.mark.slow
def test_the_chain_of_all_stages(tmp_path):
    """On little data, one epoch each: the commands and recipes as they are."""
    short = ("--num_train_epochs", 1, "--warmup_epochs", 0)
    finish(start("-m", "examples.demos.pretraining_chain", tmp_path / "chain", "--part", 0.2, *short))
    results = json.loads((tmp_path / "chain/results/results.json").read_text())
    assert (results["num_labels"], results["num_videos"]) == (20, 20 * 6)
    assert Image.open(tmp_path / "chain/loss_curves.png").width > 1000


def test_a_picture_of_the_masks(data, tmp_path, monkeypatch):
    clip = data / "videos/val/light/0.mp4"
    size = ("--image-size", 32, "--num-frames", 4)
    for picture, teacher in (("masks.png", ("--teacher", data / "clip")), ("four.png", ())):
        monkeypatch.setattr(sys, "argv", ["draw_masks.py", *map(str, (clip, tmp_path / picture, *teacher, *size))])
        draw_masks.main()
    assert Image.open(tmp_path / "masks.png").height > Image.open(tmp_path / "four.png").height > 100


def test_dynamic_quantisation_reaches_the_alignment_heads(pixel_values):
    torch.manual_seed(0)
    model = VideoMambaForPreTraining(small_config(alignment_size=12)).eval()
    quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})
    inputs = {"pixel_values": pixel_values, "bool_masked_pos": (torch.arange(16) % 4 > 0).expand(2, -1)}
    with torch.no_grad():
        torch.testing.assert_close(quantised(**inputs).features, model(**inputs).features, rtol=0, atol=0.05)


def test_vmap_over_masks_is_refused(pixel_values):
    model = VideoMambaForPreTraining(small_config(alignment_size=12))
    masks = (torch.arange(16) % 4 > 0).expand(2, -1)
    features = lambda clip, mask: model(clip[None], mask[None]).features  # noqa: E731
    with pytest.raises(NotImplementedError, match="cannot map over `bool_masked_pos`"):
        torch.func.vmap(features)(pixel_values, masks)
    shared = torch.func.vmap(features, in_dims=(0, None))(pixel_values, masks[0])
    torch.testing.assert_close(shared[:, 0], model(pixel_values, masks).features)
