"""The example scripts: short, on the package alone, and each learns or finds what it is there for, at test size."""

import ast
import importlib
import json
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForVideoClassification, BertForMaskedLM, BertTokenizer, CLIPConfig, CLIPModel

from examples import (
    finetune_retrieval,
    finetune_video_classification,
    masked_pretraining,
    pretrain_image_classification,
    pretrain_video_text,
    search_videos,
    self_distillation,
    train_small_clip,
)
from modeling_videomamba import (
    VideoMambaConfig,
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaForVideoTextPreTraining,
    VideoMambaForVideoTextRetrieval,
)
from modeling_videomamba.checkpoints.by_name import names
from modeling_videomamba.training.teachers import load_clip
from tests.conftest import ROOT, WORDS, render_clip, render_noise, small_config, small_video_text_config


pytestmark = pytest.mark.usefixtures("one_thread")

SCRIPTS = sorted(path for path in (ROOT / "examples").glob("*.py") if path.name != "__init__.py")
METHODS = {
    *("finetune_video_classification", "pretrain_image_classification", "self_distillation", "masked_pretraining"),
    *("pretrain_video_text", "finetune_retrieval", "search_videos"),
}


class TestTheText:
    def test_every_method_has_a_script(self):
        assert {path.stem for path in SCRIPTS} >= METHODS

    @pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
    def test_it_fits_on_three_screens(self, script):
        assert len(script.read_text(encoding="utf-8").splitlines()) <= 150

    @pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
    def test_it_imports_the_package_and_what_an_extra_brings(self, script):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        required = [*project["dependencies"], *project["optional-dependencies"]["train"]]
        known = {"modeling_videomamba", "PIL", *sys.stdlib_module_names}
        known |= {name.split(">")[0].replace("-", "_") for name in required}
        text = script.read_text(encoding="utf-8")
        imported = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
        modules = [alias.name for node in imported if isinstance(node, ast.Import) for alias in node.names]
        modules += [node.module for node in imported if isinstance(node, ast.ImportFrom)]
        assert {module.split(".")[0] for module in modules} <= known
        assert "sys.path" not in text

    @pytest.mark.parametrize("name", sorted(METHODS))
    def test_its_docstring_names_the_command_that_does_more(self, name):
        docstring = importlib.import_module(f"examples.{name}").__doc__
        assert f"python examples/{name}.py" in docstring
        assert "`videomamba " in docstring

    @pytest.mark.parametrize("name", sorted(METHODS))
    def test_it_starts_from_a_model_that_there_is(self, name):
        text = (ROOT / f"examples/{name}.py").read_text(encoding="utf-8")
        assert set(re.findall(r"\bvideomamba-[a-z0-9-]+", text)) <= names()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """images/ and videos/ of a dark and a light class, captions, and small models: bert/, clip/, image_model/, vision/."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for label, grey, num_frames in (("dark", 60, 8), ("light", 180, 40)):
        for media in ("images", "videos"):
            (root / media / label).mkdir(parents=True)
        for i in range(6):
            pixels = grey + random.integers(-40, 40, (40, 48, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / label / f"{i}.png")
            render_clip(root / "videos" / label / f"{i}.mp4", num_frames=num_frames + i, size=(32, 40))
    pairs = [{"video": f"{i}.gif", "caption": f"{a} {noun} moves"} for i, (a, noun) in enumerate(PAIRS)]
    for i in range(len(pairs)):
        render_noise(root / f"{i}.gif", seed=i, num_frames=6)
    (root / "captions.json").write_text(json.dumps(pairs))
    torch.manual_seed(0)
    (root / "vocab.txt").write_text("\n".join(WORDS))
    bert = small_video_text_config().text_config
    bert.max_position_embeddings = 32
    BertForMaskedLM(bert).save_pretrained(root / "bert")
    BertTokenizer(str(root / "vocab.txt")).save_pretrained(root / "bert")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower = sizes | {"image_size": 32, "patch_size": 16}
    clip = CLIPConfig(vision_config=tower, text_config={"vocab_size": 9, **sizes}, projection_dim=12)
    CLIPModel(clip).save_pretrained(root / "clip")
    VideoMambaForImageClassification(small_config(num_frames=None, num_labels=2)).save_pretrained(root / "image_model")
    VideoMambaForPreTraining(small_config()).save_pretrained(root / "vision")
    return root


PAIRS = [(a, noun) for a in ("a", "the", "up", "down") for noun in ("cat", "coffee")]


@pytest.fixture
def tiny(monkeypatch) -> None:
    """`--size tiny` is of test size."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.3}
    monkeypatch.setattr(VideoMambaConfig, "tiny", classmethod(lambda cls, **kwargs: cls(**sizes | kwargs)))


def run(script, *arguments, **options):
    given = {"num_workers": 0} | options
    flags = [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return script.main([*map(str, arguments), *flags])


class TestWhatTheyLearn:
    def test_finetuning_tells_dark_from_light(self, data, tmp_path, capsys):
        options = {"model": "videomamba-demo", "epochs": 6, "batch_size": 4, "learning_rate": 1e-3}
        metrics = run(finetune_video_classification, data / "videos", tmp_path / "model", **options)
        assert metrics["eval_accuracy"] == 1
        assert f"videomamba classify VIDEO --model {tmp_path}/model" in capsys.readouterr().out
        assert AutoModelForVideoClassification.from_pretrained(tmp_path / "model").config.label2id == {"dark": 0, "light": 1}
        assert (tmp_path / "model/video_preprocessor_config.json").exists()

    def test_image_pretraining_tells_dark_from_light(self, data, tmp_path, tiny):
        options = {"image_size": 32, "epochs": 8, "batch_size": 4, "learning_rate": 3e-3}
        metrics = run(pretrain_image_classification, data / "images", tmp_path / "model", **options)
        assert metrics["eval_accuracy"] == 1
        assert VideoMambaForImageClassification.from_pretrained(tmp_path / "model").config.num_frames is None

    def test_self_distillation_learns_labels_and_the_tokens_of_the_teacher(self, data, tmp_path, tiny):
        options = {"teacher": data / "image_model", "size": "tiny", "image_size": 32, "learning_rate": 3e-3}
        metrics = run(self_distillation, data / "images", tmp_path / "model", epochs=8, batch_size=4, **options)
        assert metrics["eval_accuracy"] == 1
        _, loading = VideoMambaForImageClassification.from_pretrained(tmp_path / "model", output_loading_info=True)
        assert not loading["missing_keys"]
        assert not loading["unexpected_keys"]  # nothing of what was between student and teacher

    def test_masked_pretraining_comes_nearer_to_the_teacher(self, data, tmp_path, tiny):
        options = {"teacher": data / "clip", "image_size": 32, "num_frames": 4, "batch_size": 5, "mask_ratio": 0.5}
        options |= {"learning_rate": 3e-3}
        before = run(masked_pretraining, data / "videos", tmp_path / "before", epochs=1, mask="frame_row", **options)
        after = run(masked_pretraining, data / "videos", tmp_path / "model", epochs=6, mask="attention", **options)
        assert after["eval_loss"] < 0.8 * before["eval_loss"]
        metrics = run(
            finetune_video_classification, data / "videos", tmp_path / "classifier", model=tmp_path / "model", epochs=1
        )
        assert 0 <= metrics["eval_accuracy"] <= 1

    def test_video_text_pretraining_goes_on_to_retrieval(self, data, tmp_path, capsys):
        options = {"model": data / "vision", "text_model": data / "bert", "teacher": data / "clip", "num_fusion_layers": 1}
        run(pretrain_video_text, data / "captions.json", tmp_path / "model", epochs=2, batch_size=2, **options)
        assert "alignment_loss" in capsys.readouterr().out
        VideoMambaForVideoTextPreTraining.from_pretrained(tmp_path / "model")
        data = [data / "captions.json"] * 2
        run(finetune_retrieval, *data, tmp_path / "retrieval", model=tmp_path / "model", epochs=1, batch_size=4)
        _, loading = VideoMambaForVideoTextRetrieval.from_pretrained(tmp_path / "retrieval", output_loading_info=True)
        assert not loading["missing_keys"]
        assert BertTokenizer.from_pretrained(tmp_path / "retrieval").tokenize("a cat") == ["a", "cat"]

    def test_a_small_clip_is_trained_on_pictures_of_any_size(self, tmp_path, capsys):
        for label, grey in (("dark", 60), ("light", 180)):
            (tmp_path / "images" / label).mkdir(parents=True)
            for i in range(5):
                Image.effect_noise((40 + 8 * i, 70 - 8 * i), 40).point(lambda x, grey=grey: x // 4 + grey).save(
                    tmp_path / "images" / label / f"{i}.png"
                )
        accuracy = train_small_clip.main([str(tmp_path / "images"), str(tmp_path / "clip"), "--epochs", "15"])
        assert accuracy == 1
        assert load_clip(str(tmp_path / "clip")).config.image_size == 40

    def test_search_finds_what_the_sentence_describes(self, capsys):
        sentences = [
            "The camera comes closer in front of a picture of a flower.",
            "the camera moves up before a man with a tripod",
        ]
        found = run(search_videos, "examples/retrieval_demo_clips", *sentences, model="videomamba-retrieval-demo", top=2)
        assert [Path(found[sentence][0]).stem for sentence in sentences] == ["zoom_in-flower-00", "pan_up-camera-00"]
        assert capsys.readouterr().out.count("match") == 4
