"""What every training prints before and after it, decides about mirroring, and writes on the card of its model."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import BertForMaskedLM, BertTokenizer, CLIPConfig, CLIPModel

from modeling_videomamba import VideoMambaForImageClassification, VideoMambaForPreTraining
from modeling_videomamba.commands import (
    distill,
    finetune,
    finetune_retrieval,
    pretrain_images,
    pretrain_masked,
    pretrain_video_text,
)
from modeling_videomamba.data.media_lists import folder_names
from modeling_videomamba.data.sides import texts_with_sides
from modeling_videomamba.training.cards import without_place
from modeling_videomamba.training.mirroring import decide_mirroring
from modeling_videomamba.training.run import describe_model
from tests.conftest import WORDS, render_noise, small_config, small_video_text_config
from tests.training_runs import SMALL_MODEL, options


pytestmark = pytest.mark.usefixtures("one_thread")

CAPTIONS = [f"a {noun} moves {way}" for noun in ("cat", "coffee") for way in ("up", "down", "left", "the")]
NOTE = re.compile(r"clips are not mirrored, since (\w+) tell left from right: (.+) \(--horizontal_flip\)")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """videos/ and images/ of two classes that tell sides, captions of which some do, and small models."""
    root = tmp_path_factory.mktemp("data")
    for label in ("turn_left", "turn_right"):
        for media in ("videos", "images"):
            (root / media / label).mkdir(parents=True)
        for i in range(4):
            Image.effect_noise((40, 48), 20 + 40 * i).convert("RGB").save(root / "images" / label / f"{i}.png")
            render_noise(root / "videos" / label / f"{i}.gif", seed=i, num_frames=6)
    files = sorted((root / "videos").rglob("*.gif"))
    pairs = [{"video": str(file), "caption": caption} for file, caption in zip(files, CAPTIONS)]
    (root / "captions.json").write_text(json.dumps(pairs))
    torch.manual_seed(0)
    (root / "vocab.txt").write_text("\n".join(WORDS))
    BertForMaskedLM(small_video_text_config().text_config).save_pretrained(root / "bert")
    BertTokenizer(str(root / "vocab.txt")).save_pretrained(root / "bert")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = sizes | {"image_size": 32, "patch_size": 16}
    clip = CLIPConfig(vision_config=vision, text_config={"vocab_size": 9, **sizes}, projection_dim=12)
    CLIPModel(clip).save_pretrained(root / "clip")
    VideoMambaForImageClassification(small_config(num_frames=None, num_labels=2)).save_pretrained(root / "image_model")
    VideoMambaForPreTraining(small_config(alignment_size=12)).save_pretrained(root / "vision")
    return root


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory) -> dict[str, tuple[Path, str]]:
    """The output directory of a step of each command, and what it printed."""
    output, image_model = tmp_path_factory.mktemp("runs"), json.dumps(json.loads(SMALL_MODEL) | {"num_frames": None})
    pairs = {"model_config": None, "max_text_length": 8}
    video_text = {"videos": data / "captions.json", "model": data / "vision", "text_model": data / "bert"}
    video_text |= pairs | {"teacher": data / "clip", "num_fusion_layers": 1}
    calls = {
        "finetune": (finetune.main, data / "videos", {}),
        "pretrain-images": (pretrain_images.main, data / "images", {"model_config": image_model}),
        "distill": (distill.main, data / "videos", {"teacher": data / "image_model", "media": "video"}),
        "pretrain-masked": (pretrain_masked.main, data / "videos", {"teacher": data / "clip", "mask_ratio": 0.5}),
        "pretrain-video-text": (pretrain_video_text.main, None, video_text),
        "finetune-retrieval": (
            finetune_retrieval.main,
            data / "captions.json",
            pairs | {"model": output / "pretrain-video-text"},
        ),
    }
    same = {"max_steps": 1, "save_strategy": "no", "eval_strategy": "no", "load_best_model_at_end": False}
    printed = {}
    for name, (main, source, given) in calls.items():
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main(options(source, output / name, **same | given))
        printed[name] = output / name, said.getvalue()
    return printed


COMMANDS = ("finetune", "pretrain-images", "distill", "pretrain-masked", "pretrain-video-text", "finetune-retrieval")


class TestBeforeAndAfter:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_model_and_steps_are_told_before(self, name, runs):
        printed = runs[name][1]
        medium = "an image" if name == "pretrain-images" else "a clip of 4 frames"
        assert re.search(rf"\d+ parameters; {medium} of 32 x 32 pixels is {5 if 'images' in name else 17} tokens", printed)
        assert "1 steps of 4 clips" in printed
        assert "warning: only 1 optimizer steps" in printed

    @pytest.mark.parametrize("name", COMMANDS)
    def test_the_last_line_says_where_the_model_is_and_what_comes_next(self, name, runs):
        output, printed = runs[name]
        last = printed.strip().splitlines()[-1]
        assert last.startswith(f"the model is in {output}; next: videomamba ")
        assert f"--model {output}" in last

    def test_what_is_frozen_is_told(self):
        model = VideoMambaForImageClassification(small_config(num_frames=None, image_size=(32, 48)))
        model.base_model.requires_grad_(False)
        assert describe_model(model).endswith(", of which 165 learn; an image of 32 x 48 pixels is 7 tokens")


class TestMirroring:
    @pytest.mark.parametrize("name", ["finetune", "distill", "pretrain-masked", "pretrain-video-text", "finetune-retrieval"])
    def test_nothing_is_mirrored_where_something_tells_left_from_right(self, name, runs):
        output, printed = runs[name]
        [(of, sides)] = NOTE.findall(printed)
        has_captions = name in ("pretrain-video-text", "finetune-retrieval")
        assert of == ("captions" if has_captions else "folders" if name == "pretrain-masked" else "classes")
        assert sides == ("a cat moves left, a coffee moves left" if has_captions else "turn_left, turn_right")
        assert json.loads((output / "settings.json").read_text())["horizontal_flip"] is False

    def test_what_a_person_says_counts(self, capsys):
        assert decide_mirroring(None, [], "captions") is True
        assert decide_mirroring(None, ["left"], "captions") is False
        assert decide_mirroring(True, ["left"], "captions") is True
        assert decide_mirroring(False, ["left"], "captions") is False
        assert decide_mirroring(True, [], "captions") is True
        printed = capsys.readouterr()
        assert printed.out.count("\n") == 2
        assert printed.err == (
            "warning: clips are mirrored at random, but captions tell left from right: left; --horizontal_flip False\n"
        )

    def test_captions_with_sides(self):
        tell = ["a man turns left", "the leftmost door", "it turns counter clockwise", "Eastbound traffic", "to the RIGHT."]
        others = ["a cleft in bright light", "an upright piano", "a port in the west", "links of a chain", ""]
        assert texts_with_sides(tell + others) == tell

    def test_folders_are_named_where_there_are_files(self):
        assert folder_names(Dataset.from_dict({"video": ["a/b/1.mp4", "a/c/1.mp4", "a/b/2.mp4"]})) == ["b", "c"]
        assert folder_names(Dataset.from_list([{"image": {"bytes": b"", "path": None}}])) == []


class TestCards:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_no_place_on_this_machine_is_on_a_card(self, name, runs, data):
        card = (runs[name][0] / "README.md").read_text()
        assert str(data.parent) not in card
        assert str(runs[name][0].parent) not in card
        assert data.parents[2].name not in card

    def test_names_on_the_hub_and_released_ids_stay(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "runs/mine").mkdir(parents=True)
        names = {"openai/clip-vit-base-patch16": "openai/clip-vit-base-patch16", "videomamba-ti-k400": "videomamba-ti-k400"}
        names |= {"runs/mine": "mine", f"{tmp_path}/gone/model": "model", ".": tmp_path.name}
        assert {name: without_place(name) for name in names} == names
