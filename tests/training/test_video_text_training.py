"""Video-text models: their data and losses, and `videomamba pretrain-video-text` and `finetune-retrieval` at test size."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from transformers import BertForMaskedLM, BertTokenizer, CLIPConfig, CLIPModel, DataCollatorForLanguageModeling

from modeling_videomamba import (
    VideoMambaForPreTraining,
    VideoMambaForVideoTextPreTraining,
    VideoMambaForVideoTextRetrieval,
    VideoMambaVideoProcessor,
)
from modeling_videomamba.checkpoints.default_processor import processor_for
from modeling_videomamba.commands import evaluate_retrieval, finetune_retrieval, pretrain_video_text
from modeling_videomamba.data.captions import load_captions
from modeling_videomamba.data.clips import UnreadableFiles
from modeling_videomamba.modeling_videomamba_video_text import VideoMambaVideoTextOutput
from modeling_videomamba.training.arguments import BackboneArguments
from modeling_videomamba.training.parameter_groups import video_text_settings
from modeling_videomamba.training.recipe import read_recipe
from modeling_videomamba.training.teachers import ClipTeacher, load_clip
from modeling_videomamba.training.trainer import VideoMambaTrainer
from modeling_videomamba.training.video_text import (
    CaptionedClips,
    OneMediumSampler,
    VideoTextCollator,
    captioned_transform,
    continue_video_text_model,
    mask_words,
    random_frames,
)
from modeling_videomamba.training.video_text_pretraining import (
    VideoTextAlignmentArguments,
    VideoTextPretrainingTrainer,
)
from modeling_videomamba.training.video_text_trainer import VideoTextTrainer
from tests.conftest import WORDS, render_clip, render_noise, small_config, small_video_text_config
from tests.training_runs import (
    ROOT,
    assert_equal,
    command,
    finish,
    interrupt,
    kill_after_checkpoint,
    losses,
    start,
    weights,
)


pytestmark = pytest.mark.usefixtures("one_thread")

NUM_VIDEOS, NUM_IMAGES = 8, 5
CAPTIONS = [f"{a} {noun} moves {way}" for a in ("a", "the") for noun in ("cat", "coffee") for way in ("up", "down")]
SIZES = ("5m", "17m", "25m")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Videos and images with captions, a BERT, a CLIP, and an aligned video model: bert/, clip/, vision/."""
    root = tmp_path_factory.mktemp("data")
    for i in range(NUM_VIDEOS):
        render_noise(root / f"{i}.gif", seed=i, num_frames=6 + i)
    for i in range(NUM_IMAGES):
        Image.effect_noise((40, 48), 20 + 40 * i).convert("RGB").save(root / f"{i}.png")
    videos = [{"video": f"{i}.gif", "caption": [CAPTIONS[i], CAPTIONS[i] + " left"]} for i in range(NUM_VIDEOS)]
    images = [{"image": f"{i}.png", "caption": CAPTIONS[-i - 1]} for i in range(NUM_IMAGES)]
    (root / "videos.json").write_text(json.dumps(videos))
    (root / "images.json").write_text(json.dumps(images))
    torch.manual_seed(0)
    (root / "vocab.txt").write_text("\n".join(WORDS))
    BertForMaskedLM(small_video_text_config().text_config).save_pretrained(root / "bert")
    BertTokenizer(str(root / "vocab.txt")).save_pretrained(root / "bert")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower = sizes | {"image_size": 32, "patch_size": 16}
    CLIPModel(CLIPConfig(vision_config=tower, text_config={"vocab_size": 9, **sizes}, projection_dim=12)).save_pretrained(
        root / "clip"
    )
    VideoMambaForPreTraining(small_config(alignment_size=12)).save_pretrained(root / "vision")
    return root


@pytest.fixture(scope="module")
def tokenizer(data) -> BertTokenizer:
    return BertTokenizer.from_pretrained(data / "bert")


def clips_of(data: Path, unreadable: Path, training: bool = True) -> CaptionedClips:
    files = [file for name in ("images", "videos") for file in load_captions(data / f"{name}.json")]
    processor = processor_for(small_video_text_config())
    transform = captioned_transform(processor, min_area=0.5, horizontal_flip=True) if training else None
    return CaptionedClips(files, processor, transform, 0, UnreadableFiles(unreadable))


def flags(output_dir: Path, **given) -> list[str]:
    given = {
        "output_dir": output_dir,
        "num_train_epochs": 2,
        "warmup_epochs": 1,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "dataloader_num_workers": 0,
        "use_cpu": True,
        "disable_tqdm": True,
        "max_text_length": 8,
    } | given
    return [part for name, value in given.items() if value is not None for part in (f"--{name}", str(value))]


def pretraining_flags(data: Path, output_dir: Path, **changed) -> list[str]:
    given = {"model": data / "vision", "text_model": data / "bert", "teacher": data / "clip", "num_fusion_layers": 1}
    given |= {"videos": data / "videos.json", "images": data / "images.json", "mask_ratio": 0.5}
    return flags(output_dir, **given | changed)


def pretrain(data: Path, output_dir: Path, **changed) -> Path:
    pretrain_video_text.main(pretraining_flags(data, output_dir, **changed))
    return output_dir


@pytest.fixture(scope="module")
def pretrained(data, tmp_path_factory) -> Path:
    """The output of a masked phase of two epochs."""
    return pretrain(data, tmp_path_factory.mktemp("runs") / "masked")


def history(directory: Path) -> list[dict]:
    return json.loads((directory / "trainer_state.json").read_text())["log_history"]


class TestData:
    def test_every_interval_gives_a_frame_but_never_its_last(self):
        for total, num_frames in ((40, 4), (9, 4), (100, 8)):
            bounds = [total * i // num_frames for i in range(num_frames + 1)]
            drawn = torch.tensor([random_frames(total, num_frames) for _ in range(300)])  # (draws, frames)
            assert drawn.amin(dim=0).tolist() == bounds[:-1]
            assert drawn.amax(dim=0).tolist() == [bound - 2 for bound in bounds[1:]]

    def test_intervals_of_one_frame_give_any_frames_in_order(self):
        drawn = [random_frames(6, 4) for _ in range(200)]
        assert all(frames == sorted(set(frames)) for frames in drawn)
        assert {frame for frames in drawn for frame in frames} == set(range(6))

    def test_a_short_video_repeats_its_last_frame(self):
        assert random_frames(1, 4) == [0, 0, 0, 0]
        assert random_frames(3, 5) == [0, 1, 2, 2, 2]

    def test_a_step_has_one_medium_and_an_epoch_exhausts_both(self, data, tmp_path):
        clips = clips_of(data, tmp_path / "unreadable")
        sampler = OneMediumSampler(clips, items_per_step=2)
        orders = []
        for epoch in range(2):
            clips.epoch.fill_(epoch)
            order = list(sampler)
            orders.append(order)
            assert len(order) == len(sampler) == NUM_VIDEOS + NUM_IMAGES - 1
            assert len(set(order)) == len(order)
            steps = [order[i : i + 2] for i in range(0, len(order), 2)]
            media = [{clips.files[index].medium for index in step} for step in steps]
            assert all(len(step) == 1 for step in media)
            assert sum(step == {"video"} for step in media) == 4
        assert orders[0] != orders[1]

    def test_steps_of_both_media_are_shuffled(self, data, tmp_path):
        clips, places = clips_of(data, tmp_path / "unreadable"), set()
        for epoch in range(30):
            clips.epoch.fill_(epoch)
            steps = list(OneMediumSampler(clips, items_per_step=2))[::2]
            places |= {place for place, index in enumerate(steps) if index >= NUM_VIDEOS}
        assert places == set(range(6))  # where steps of images may be

    def test_all_processes_have_the_same_order(self, data, tmp_path):
        """Whatever they have drawn before."""
        orders = []
        for process in range(2):
            torch.manual_seed(process)
            orders.append(list(OneMediumSampler(clips_of(data, tmp_path / "unreadable"), 4)))
        assert orders[0] == orders[1]

    def test_too_few_for_a_step(self, data, tmp_path):
        with pytest.raises(ValueError, match="5 images are too few for a step of 6"):
            OneMediumSampler(clips_of(data, tmp_path / "unreadable"), 6)

    def test_an_item_depends_on_the_epoch_and_its_index_alone(self, data, tokenizer, tmp_path):
        clips = clips_of(data, tmp_path / "unreadable")
        collate = VideoTextCollator(tokenizer, 8, word_ratio=0.5, grid=(2, 2))
        alone = collate([clips[3]])
        torch.manual_seed(1)
        batch = collate([clips[5], clips[3]])
        assert {name: tensor.shape for name, tensor in batch.items()} == {
            "pixel_values": (2, 4, 3, 32, 32),
            "pair_ids": (2,),
            **dict.fromkeys(("input_ids", "attention_mask", "masked_input_ids", "masked_labels"), (2, 8)),
            "mask_noise": (2, 4, 2, 2),
        }
        for name, tensor in alone.items():
            assert torch.equal(batch[name][1:], tensor)
        clips.epoch.fill_(1)
        assert not torch.equal(collate([clips[3]])["pixel_values"], alone["pixel_values"])
        assert clips[NUM_VIDEOS]["pixel_values"].shape == (1, 3, 32, 32)

    def test_captions_are_drawn_and_frames_of_validation_are_not(self, data, tmp_path):
        clips = clips_of(data, tmp_path / "unreadable")
        captions = set()
        for epoch in range(20):
            clips.epoch.fill_(epoch)
            captions.add(clips[0]["caption"])
        assert captions == set(clips.files[0].captions)
        validation = clips_of(data, tmp_path / "unreadable", training=False)
        first = validation[0]
        validation.epoch.fill_(1)
        assert first["caption"] == validation[0]["caption"] == clips.files[0].captions[0]
        assert [validation[i]["caption"] for i in range(NUM_VIDEOS)] == [
            file.captions[0] for file in validation.files[:NUM_VIDEOS]
        ]
        assert torch.equal(first["pixel_values"], validation[0]["pixel_values"])

    def test_what_has_the_same_captions_is_one_pair(self, data, tmp_path):
        """Neither is a negative for the other. Videos come first, whatever the order of the list."""
        files = load_captions(data / "images.json") + load_captions(data / "videos.json")
        files += [files[-1]._replace(path="a copy of the last video"), files[0]._replace(path="a copy of the first image")]
        clips = CaptionedClips(files, processor_for(small_video_text_config()), None, 0, UnreadableFiles(tmp_path / "bad"))
        last, first = NUM_VIDEOS - 1, NUM_VIDEOS + 1
        assert [clips.files[i].path for i in (last, first)] == [str(data / "7.gif"), str(data / "0.png")]
        assert clips.pair_ids == [*range(NUM_VIDEOS), last, *range(first, first + NUM_IMAGES), first]
        assert {name: list(places) for name, places in clips.media.items()} == {
            "videos": [*range(NUM_VIDEOS + 1)],
            "images": [*range(first, first + NUM_IMAGES + 1)],
        }

    def test_a_crop_is_resized_bicubically(self):
        processor = processor_for(small_video_text_config())
        frames = torch.randint(256, (2, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        clip = captioned_transform(processor, min_area=1, horizontal_flip=False)(frames)
        resized = v2.functional.resize(frames, [32, 32], InterpolationMode.BICUBIC, antialias=False)
        mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
        torch.testing.assert_close(clip, (resized / 255 - mean) / std)

    def test_what_cannot_be_read_is_replaced_by_one_of_its_medium(self, data, tmp_path):
        clips = clips_of(data, tmp_path / "unreadable")
        (tmp_path / "bad.gif").write_text("nothing to see")
        (tmp_path / "bad.png").write_text("nothing to see")
        clips.files[NUM_VIDEOS - 1] = clips.files[0]._replace(path=str(tmp_path / "bad.gif"))
        clips.files[-1] = clips.files[-1]._replace(path=str(tmp_path / "bad.png"))
        assert clips[NUM_VIDEOS - 1]["pair_id"] == 0
        assert clips[NUM_VIDEOS + NUM_IMAGES - 1]["pair_id"] == NUM_VIDEOS
        assert (tmp_path / "unreadable").read_text().split() == [str(tmp_path / "bad.gif"), str(tmp_path / "bad.png")]

    def test_a_collator_masks_what_it_is_told(self, data, tokenizer, tmp_path):
        item = clips_of(data, tmp_path / "unreadable")[0]
        for ratio, masked in ((0.0, None), (1e-9, 0), (1.0, len(item["caption"].split()) + 1)):  # words, and [SEP]
            batch = VideoTextCollator(tokenizer, 16, word_ratio=ratio)([item])
            assert "mask_noise" not in batch
            assert masked is None or (batch["masked_labels"] != -100).sum() == masked
            assert ("masked_labels" in batch) == (masked is not None)

    def test_a_clip_is_cropped_and_mirrored_as_it_is_told(self):
        crop, flip, *_ = captioned_transform(processor_for(small_video_text_config()), 0.3, True).transforms
        assert (tuple(crop.scale), tuple(crop.ratio), flip.p) == ((0.3, 1), (3 / 4, 4 / 3), 0.5)
        assert captioned_transform(processor_for(small_video_text_config()), 0.3, False).transforms[1].p == 0

    def test_half_of_the_words_are_masked_but_neither_padding_nor_the_start(self, tokenizer):
        torch.manual_seed(0)
        texts = tokenizer(["a cat moves up", "the coffee"] * 2000, padding="max_length", max_length=8, return_tensors="pt")
        ids = texts["input_ids"]
        masking = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.5)
        masked, labels = mask_words(masking, ids)
        special = (ids == tokenizer.pad_token_id) | (ids == tokenizer.cls_token_id)
        assert (labels[special] == -100).all()
        assert torch.equal(masked[special], ids[special])
        chosen = labels != -100
        assert torch.equal(labels[chosen], ids[chosen])
        assert chosen[~special].float().mean().item() == pytest.approx(0.5, abs=0.01)
        assert chosen[ids == tokenizer.sep_token_id].any()
        assert torch.equal(masked[~chosen], ids[~chosen])
        by_chance = 0.1 / len(WORDS)  # a random word may be any
        is_mask, is_same = masked[chosen] == tokenizer.mask_token_id, masked[chosen] == ids[chosen]
        assert is_mask.float().mean().item() == pytest.approx(0.8 + by_chance, abs=0.01)
        assert is_same.float().mean().item() == pytest.approx(0.1 + by_chance, abs=0.01)


def test_all_decay_but_vectors_and_biases():
    settings = video_text_settings(VideoMambaForVideoTextPreTraining(small_video_text_config()), 0.05)
    decays = {name for name, (_, decay) in settings.items() if decay}
    assert {"temperature", "text_model.embeddings.position_embeddings.weight", "vision_model.embeddings.cls_token"} <= decays
    assert not any(name.endswith(("bias", "norm.weight", "LayerNorm.weight", ".D")) for name in decays)
    assert {scale for scale, _ in settings.values()} == {1.0}


class TestMasks:
    @pytest.fixture
    def trainer(self):
        """Half a trainer: what makes a model's inputs, with a teacher whose features say where they are from."""
        trainer = object.__new__(VideoTextPretrainingTrainer)
        trainer.alignment = VideoTextAlignmentArguments(mask_type="random", mask_ratio=0.75, image_mask_ratio=0.25)

        def teacher(clips, with_attention):
            tokens = 1 + clips.shape[1] * 4
            attention = torch.ones(len(clips), clips.shape[1], 4) if with_attention else None
            return torch.arange(float(tokens)).expand(len(clips), 1, tokens)[..., None], attention

        trainer.teacher = teacher
        return trainer

    @pytest.mark.parametrize("mask_type", ["random", "attention"])
    def test_of_videos_and_of_images_leave_out_parts_of_their_own(self, trainer, mask_type):
        trainer.alignment.mask_type = mask_type
        for frames, masked in ((4, 12), (1, 1)):
            torch.manual_seed(0)
            noise = torch.rand(2, frames, 2, 2)
            given = {"pixel_values": torch.zeros(2, frames, 3, 4, 4), "mask_noise": noise, "pair_ids": torch.arange(2)}
            inputs = trainer.model_inputs(given)
            assert inputs["bool_masked_pos"].sum(dim=1).tolist() == [masked] * 2
            assert "mask_noise" not in inputs and inputs["pair_ids"].tolist() == [0, 1]
            for positions, mask in zip(inputs["target_features"][:, 0, :, 0], inputs["bool_masked_pos"]):
                assert positions.tolist() == [0, *((~mask).nonzero()[:, 0] + 1).tolist()]  # CLS and what is visible

    def test_without_a_teacher_nothing_is_left_out(self, trainer):
        trainer.teacher = None
        assert trainer.model_inputs(given := {"pixel_values": torch.zeros(1)}) == given

    def test_the_teacher_sees_what_it_is_told(self, data):
        vision = small_config(alignment_size=12, num_aligned_layers=2, normalize_alignment=False)
        teacher = ClipTeacher.for_student(load_clip(str(data / "clip")), vision, interval=0.5, normalization="clip")
        assert (teacher.normalization, teacher.normalize, teacher.layers) == ("clip", False, [1, 1])
        assert teacher.frame_size == [32, 32]


class TestContinuing:
    def test_the_video_side_has_the_size_and_the_drop_path_that_are_asked_for(self, pretrained):
        args = BackboneArguments(num_frames=6, image_size=48, drop_path_rate=0.3)
        for model_class in (VideoMambaForVideoTextPreTraining, VideoMambaForVideoTextRetrieval):
            model = continue_video_text_model(model_class, str(pretrained), args)
            config = model.config.vision_config
            assert (config.num_frames, config.image_size, config.drop_path_rate) == (6, 48, 0.3)
            assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
            same = continue_video_text_model(model_class, str(pretrained), BackboneArguments()).config.vision_config
            assert (same.num_frames, same.image_size) == (4, 32)


class TestCurves:
    def test_a_point_is_the_mean_of_the_steps_since_the_last(self, monkeypatch):
        """And of nothing that was validated in between."""
        points = []
        monkeypatch.setattr(VideoMambaTrainer, "log", lambda self, logs: points.append(logs))
        trainer = object.__new__(VideoTextTrainer)
        trainer.sums, trainer.counts = {}, {}
        trainer.accelerator = SimpleNamespace(gather=lambda tensor: tensor)
        trainer.model = SimpleNamespace(temperature=torch.tensor(0.25))
        trainer.model_inputs = lambda inputs: inputs

        def step(loss: float, training: bool = True) -> None:
            outputs = VideoMambaVideoTextOutput(loss=torch.tensor(loss), contrastive_loss=torch.tensor(loss))
            model = lambda **inputs: outputs  # noqa: E731
            model.training = training
            assert trainer.compute_loss(model, {}) == loss

        step(1.0)
        step(2.0)
        step(99.0, training=False)
        trainer.log({"loss": 1.5})
        step(5.0)
        trainer.log({"eval_loss": 99.0})
        trainer.log({"loss": 5.0})
        assert [point.get("contrastive_loss") for point in points] == [1.5, None, 5.0]
        assert [point.get("temperature") for point in points] == [0.25, None, 0.25]


class TestPretraining:
    def test_the_model_starts_from_a_video_model_and_a_bert(self, data, tmp_path):
        still = {"learning_rate": 1e-12, "warmup_learning_rate": 0, "min_learning_rate": 0, "num_train_epochs": 1}
        trained = weights(pretrain(data, tmp_path / "model", **still))
        vision, bert = weights(data / "vision"), weights(data / "bert")
        assert VideoMambaForVideoTextPreTraining.from_pretrained(tmp_path / "model").config.num_fusion_layers == 1
        for name, tensor in vision.items():
            torch.testing.assert_close(trained[name.replace("videomamba.", "vision_model.", 1)], tensor, rtol=0, atol=1e-6)
        for name, tensor in bert.items():
            ours = name.replace("bert.", "text_model.", 1).replace("cls.", "masked_language_head.", 1)
            torch.testing.assert_close(trained[ours], tensor, rtol=0, atol=1e-6)
        assert not any(name.startswith("teacher") for name in trained)

    def test_masked_phase(self, pretrained):
        points = [point for point in history(pretrained) if "loss" in point]
        assert len(points) == 2 * (4 + 2)
        for point in points:
            four = [point[f"{name}_loss"] for name in ("contrastive", "matching", "masked_language", "alignment")]
            assert point["loss"] == pytest.approx(sum(four), rel=1e-4)
        card = (pretrained / "README.md").read_text()
        assert "Trained on 8 videos and 5 images" in card
        assert "| image_mask_ratio | 0.5 |" in card

    def test_the_student_comes_near_its_teacher(self, data, tmp_path):
        output = pretrain(data, tmp_path / "model", num_train_epochs=8, learning_rate=1e-2)
        alignment = [point["alignment_loss"] for point in history(output) if "loss" in point]
        assert alignment[-1] < 0.5 * alignment[0]

    def test_tuning_phase(self, data, pretrained, tmp_path):
        """With another teacher, none, and from the first phase's output."""
        output = pretrain(data, tmp_path / "model", model=pretrained, teacher="none", drop_path_rate=0.1)
        points = [point for point in history(output) if "loss" in point]
        assert all("masked_language_loss" in point and "alignment_loss" not in point for point in points)
        before, after = weights(pretrained), weights(output)
        assert before.keys() == after.keys()
        is_changed = {name: not torch.equal(before[name], after[name]) for name in before}
        assert is_changed["matching_head.weight"] and is_changed["vision_model.layers.1.mixer.in_proj.weight"]
        assert not any(is_changed[name] for name in before if name.startswith("alignment_heads"))
        assert VideoMambaForVideoTextPreTraining.from_pretrained(output).config.vision_config.drop_path_rate == 0.1

    def test_one_medium_alone_other_masks_and_another_size(self, data, tmp_path):
        for medium in ("videos", "images"):
            other = {"videos": None, "images": None, medium: data / f"{medium}.json"}
            output = pretrain(data, tmp_path / medium, mask_type="tube", image_size=48, num_train_epochs=1, **other)
            assert len(losses(output)) == {"videos": 4, "images": 2}[medium]
            assert VideoMambaForVideoTextPreTraining.from_pretrained(output).config.vision_config.image_size == 48

    @pytest.mark.parametrize("precision", [{}, {"pure_bf16": True}, {"bf16": True}], ids=["fp32", "pure bf16", "bf16"])
    def test_every_precision_learns_a_batch_by_heart_and_the_temperature_stays_in_range(self, precision, data, tmp_path):
        files = [{"video": "0.gif", "caption": "a cat moves down left"}, {"video": "1.gif", "caption": "the coffee moves up"}]
        (tmp_path / "two.json").write_text(json.dumps(files))
        two = {"videos": tmp_path / "two.json", "images": None, "media_root": data}
        same = {"horizontal_flip": False, "min_crop_area": 1, "num_train_epochs": 40, "learning_rate": 3e-3}
        same |= {"save_strategy": "no"}
        output = pretrain(data, tmp_path / "model", **two, **same, **precision)
        learned = losses(output)
        assert sum(learned[-5:]) < 0.7 * sum(learned[:5])
        dtype = torch.bfloat16 if "pure_bf16" in precision else torch.float32
        assert weights(output)["vision_model.layers.0.mixer.in_proj.weight"].dtype == dtype

        huge = {"learning_rate": 5.0, "warmup_epochs": 0, "num_train_epochs": 3}
        wild = pretrain(data, tmp_path / "wild", **two, **same | huge, **precision)
        temperatures = [point["temperature"] for point in history(wild) if "loss" in point]
        assert all(0.000999 < temperature <= 0.5 for temperature in temperatures)
        assert len(set(temperatures)) > 1 or temperatures[0] != pytest.approx(0.07)
        assert 0.000999 < weights(wild)["temperature"].item() <= 0.5

    def test_a_run_goes_on_to_the_same_weights(self, data, tmp_path):
        """From the middle of an epoch: a checkpoint that was not written to its end does not count."""
        steps = {"save_strategy": "steps", "save_steps": 4}
        whole = pretrain(data, tmp_path / "model", **steps).rename(tmp_path / "whole")
        interrupt(whole, tmp_path / "model", after=8)
        assert_equal(weights(pretrain(data, tmp_path / "model", **steps)), weights(whole), rtol=0, atol=0)
        assert losses(tmp_path / "model") == losses(whole)

    def test_what_is_wrong_is_said_before_the_first_step(self, data, tmp_path):
        with pytest.raises(ValueError, match="Give --videos, --images, or both"):
            pretrain(data, tmp_path / "model", videos=None, images=None)
        with pytest.raises(ValueError, match="5 images are too few for a step of 6"):
            pretrain(data, tmp_path / "model", per_device_train_batch_size=6)
        with pytest.raises(ValueError, match=r"--image_mask_ratio must be in \[0, 1\), got 1"):
            pretrain(data, tmp_path / "model", image_mask_ratio=1)
        with pytest.raises(ValueError, match="--max_text_length 32, but the text side has 16 positions"):
            pretrain(data, tmp_path / "model", max_text_length=32)
        with pytest.raises(ValueError, match="--layer_decay must be 1 for a video-text model, got 0.5"):
            pretrain(data, tmp_path / "model", layer_decay=0.5)
        VideoMambaForVideoTextPreTraining(small_video_text_config(vision_config=small_config())).save_pretrained(
            tmp_path / "wide"
        )
        with pytest.raises(ValueError, match="was aligned with features of width 512, not 12"):
            pretrain(data, tmp_path / "model", model=tmp_path / "wide")
        pretrain(data, tmp_path / "model", num_train_epochs=1)
        with pytest.raises(ValueError, match="image_mask_ratio was 0.5 and is 0.25"):
            pretrain(data, tmp_path / "model", num_train_epochs=1, image_mask_ratio=0.25)


class TestFinetuning:
    def run(self, model: Path | None, videos: Path, output_dir: Path, **changed) -> Path:
        finetune_retrieval.main(flags(output_dir, model=model, data=videos, **changed))
        return output_dir

    def test_it_learns_and_validates_and_is_evaluated(self, data, pretrained, tmp_path):
        output = self.run(
            pretrained, data / "videos.json", tmp_path / "model", validation=data / "images.json", min_crop_area=1
        )
        points = [point for point in history(output) if "loss" in point]
        assert all({"contrastive_loss", "matching_loss"} < point.keys() for point in points)
        validation = [point["eval_loss"] for point in history(output) if "eval_loss" in point]
        results = json.loads((output / "eval_results.json").read_text())
        assert len(validation) == 2  # after each epoch
        assert results["eval_loss"] == pytest.approx(validation[-1], rel=0.05)  # wrong pairs are drawn anew

        model = VideoMambaForVideoTextRetrieval.from_pretrained(output)
        assert not any(name.startswith(("alignment_heads", "masked_language_head")) for name in weights(output))
        assert model.config.architectures == ["VideoMambaForVideoTextRetrieval"]
        processor = VideoMambaVideoProcessor.from_pretrained(output)
        assert dict(processor.size) == {"height": 32, "width": 32}
        assert (processor.do_center_crop, processor.resample, processor.num_frames) == (False, 3, 4)
        argv = ["--model", output, "--data", data / "videos.json", "--output_dir", tmp_path / "scores", "--device", "cpu"]
        evaluate_retrieval.main([*map(str, argv), "--num_workers", "0", "--max_text_length", "8"])
        assert json.loads((tmp_path / "scores/metrics.json").read_text())

    def test_pairs_are_told_from_others(self, tokenizer, tmp_path):
        """Eight pictures and their captions, with wide weights, so that it goes quickly."""
        config = small_video_text_config(vision_config=small_config(initializer_range=0.3), initializer_range=0.1)
        bert = {"initializer_range": 0.1, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        config.text_config.update(bert)
        torch.manual_seed(0)
        VideoMambaForVideoTextPreTraining(config).save_pretrained(tmp_path / "start")
        tokenizer.save_pretrained(tmp_path / "start")
        random = np.random.default_rng(0)
        for i in range(len(CAPTIONS)):
            squares = Image.fromarray(random.integers(256, size=(4, 6, 3), dtype=np.uint8))
            squares.resize((48, 32), Image.Resampling.NEAREST).save(tmp_path / f"{i}.png")
        rows = [{"image": f"{i}.png", "caption": caption} for i, caption in enumerate(CAPTIONS)]
        (tmp_path / "list.json").write_text(json.dumps(rows))
        fast = {"num_train_epochs": 150, "learning_rate": 3e-3, "weight_decay": 0, "drop_path_rate": 0, "save_strategy": "no"}
        fast |= {"per_device_train_batch_size": 8, "horizontal_flip": False, "min_crop_area": 1}
        output = self.run(tmp_path / "start", tmp_path / "list.json", tmp_path / "model", **fast)
        last = next(point for point in reversed(history(output)) if "loss" in point)
        assert last["contrastive_loss"] < 0.1  # ln 8 by chance
        assert last["matching_loss"] < 0.1  # 0.64 by chance

    def test_the_output_of_pretraining_is_evaluated_too(self, data, pretrained, tmp_path):
        argv = ["--model", pretrained, "--data", data / "videos.json", "--output_dir", tmp_path / "scores", "--device", "cpu"]
        evaluate_retrieval.main([*map(str, argv), "--num_workers", "0", "--max_text_length", "8"])
        assert (tmp_path / "scores/scores.safetensors").exists()

    def test_what_is_wrong_is_said_before_the_first_step(self, data, pretrained, tmp_path):
        with pytest.raises(ValueError, match="vision is no video-text model: pretrain one first"):
            self.run(data / "vision", data / "videos.json", tmp_path / "model")
        with pytest.raises(ValueError, match="Give --model, a pretrained video-text model"):
            self.run(None, data / "videos.json", tmp_path / "model")
        with pytest.raises(ValueError, match="8 videos are too few for a step of 9"):
            self.run(pretrained, data / "videos.json", tmp_path / "model", per_device_train_batch_size=9)


@pytest.mark.slow
class TestCommands:
    def test_two_processes_train(self, data, tmp_path):
        """Both media, with steps of one at a time in both."""
        script = command("pretrain-video-text")
        run = ("-m", "torch.distributed.run", "--nproc_per_node", 2, *script)
        finish(start(*run, *pretraining_flags(data, tmp_path / "two")))
        assert len(losses(tmp_path / "two")) == 2 * (2 + 1)
        tuning = {"teacher": "none", "model": tmp_path / "two", "num_train_epochs": 1}
        finish(start(*run, *pretraining_flags(data, tmp_path / "tuned", **tuning)))
        script = command("finetune-retrieval")
        retrieval = {"model": tmp_path / "tuned", "data": data / "videos.json", "validation": data / "images.json"}
        finish(start(*run[:-3], *script, *flags(tmp_path / "retrieval", **retrieval)))
        assert len(losses(tmp_path / "retrieval")) == 2 * 2

    @pytest.mark.parametrize("name", ["pretrain-video-text", "finetune-retrieval"])
    def test_a_killed_run_goes_on_to_the_same_weights(self, name, data, pretrained, tmp_path):
        """With everything that is random, in the middle of an epoch."""
        changes = {"num_train_epochs": 5, "save_strategy": "steps", "save_steps": 3, "drop_path_rate": 0.5}

        def run_into(output_dir: Path) -> list:
            if name == "finetune-retrieval":
                options = flags(output_dir, model=pretrained, data=data / "videos.json", **changes)
            else:
                options = pretraining_flags(data, output_dir, **changes)
            return [*command(name), *options]

        whole, killed = start(*run_into(tmp_path / "whole")), start(*run_into(tmp_path / "killed"))
        kill_after_checkpoint(killed, tmp_path / "killed", step=9)
        finish(start(*run_into(tmp_path / "killed")))
        finish(whole)
        assert_equal(weights(tmp_path / "killed"), weights(tmp_path / "whole"), rtol=0, atol=0)


class Parsed(Exception):
    """What a command is stopped with once it knows its options."""


def recipe_options(name: str, monkeypatch) -> dict:
    parse = pretrain_video_text.parse_arguments

    def parse_and_stop(*classes, **kwargs):
        raise Parsed(parse(*classes, **kwargs))

    monkeypatch.setattr(pretrain_video_text, "parse_arguments", parse_and_stop)
    with pytest.raises(Parsed) as parsed:
        pretrain_video_text.main(["--recipe", name, "--bf16", "False", "--videos", "list.json"])
    return {option: value for group in parsed.value.args[0] for option, value in vars(group).items()}


class TestRecipes:
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("masked", [True, False])
    def test_a_recipe_is_its_script(self, size, masked, monkeypatch):
        name = f"videomamba-m-mm-{size}" + ("-mask-pt" if masked else "")
        told = recipe_options(name, monkeypatch)
        expected = {
            "model": "videomamba-m-k400-mask-pt" if masked else f"runs/videomamba-m-mm-{size}-mask-pt",
            "teacher": "openai/clip-vit-base-patch16" if masked else "none",
            "text_model": "google-bert/bert-base-uncased",
            "num_fusion_layers": 3,
            "num_frames": 8,
            "image_size": 224,
            "drop_path_rate": 0.25,
            "word_mask_ratio": 0.5,
            "max_text_length": 32,
            "min_crop_area": 0.5,
            "num_train_epochs": 10 if masked else 1,
            "warmup_epochs": 1 if masked else 0.2,
            "per_device_train_batch_size": 128 if masked else 64,
            "learning_rate": 4e-4 if masked else 8e-5,
            "min_learning_rate": 4e-6 if masked else 8e-7,
            "warmup_learning_rate": 0,
            "lr_reference": 0,
            "adam_beta1": 0.9,
            "adam_beta2": 0.999,
            "weight_decay": 0.05,
            "max_grad_norm": 0,
            "layer_decay": 1,
            "output_dir": f"runs/{name}",
        }
        if masked:
            expected |= {"mask_type": "attention", "mask_ratio": 0.8, "image_mask_ratio": 0.5}
            expected |= {"alignment_tap": "before_last_block", "normalize_alignment": True, "alignment_loss": "l2"}
        assert {option: told[option] for option in expected} == expected
        assert read_recipe(name)["bf16"] is True

    @pytest.mark.parametrize("size", SIZES)
    def test_the_comment_on_top_says_what_the_batch_is(self, size):
        for name, samples in ((f"videomamba-m-mm-{size}-mask-pt", 128), (f"videomamba-m-mm-{size}", 64)):
            text = (ROOT / f"modeling_videomamba/training/recipes/{name}.yaml").read_text()
            gpus = 16 if size == "5m" else 32
            assert re.search(rf"^# {gpus} GPUs x {samples} videos or images = {gpus * samples} a step", text, re.MULTILINE)


def test_a_video_file_and_an_image_train_together(data, tmp_path):
    """Compressed video, and both media in one list."""
    render_clip(tmp_path / "0.mp4", num_frames=12)
    render_clip(tmp_path / "1.mp4", num_frames=3)
    rows = [{"path": str(tmp_path / f"{i}.mp4"), "caption": "a cat"} for i in range(2)]
    rows += [{"path": str(data / f"{i}.png"), "caption": "the coffee"} for i in range(2)]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    output = pretrain(data, tmp_path / "model", videos=tmp_path / "list.jsonl", images=None, num_train_epochs=1)
    assert len(losses(output)) == 2
