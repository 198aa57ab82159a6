"""A saved model works in a fresh process, with this package and without it, and prints no warning."""

import subprocess
import sys
from pathlib import Path

import pytest

from modeling_videomamba.checkpoints.converter import convert, save
from tests.conftest import golden, render_clip


ROOT = Path(__file__).parents[2]

VIDEO = """
from transformers import AutoConfig, AutoModel, AutoModelForVideoClassification, AutoVideoProcessor, pipeline
classify = pipeline("video-classification", model="video", **kwargs)
[best, second] = classify("clip.mp4", top_k=2)
assert best["score"] > second["score"] and best["label"].startswith("LABEL_"), (best, second)
assert type(classify.model).__module__.startswith(origin), type(classify.model)
assert type(classify.video_processor).__module__.startswith(origin), type(classify.video_processor)
for auto_class in (AutoModel, AutoModelForVideoClassification):
    _, info = auto_class.from_pretrained("video", output_loading_info=True, **kwargs)
    assert not any(info.values()), info
AutoConfig.from_pretrained("video", **kwargs)
AutoVideoProcessor.from_pretrained("video", **kwargs)
"""

IMAGE = """
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
classify = pipeline("image-classification", model="image", **kwargs)
assert len(classify(Image.new("RGB", (90, 70), "red"), top_k=3)) == 3
assert type(classify.model).__module__.startswith(origin), type(classify.model)
AutoModelForImageClassification.from_pretrained("image", **kwargs)
AutoImageProcessor.from_pretrained("image")
embed = pipeline("image-feature-extraction", model="image", pool=True, **kwargs)
assert type(embed.model).__module__.startswith(origin), type(embed.model)
[vector] = embed(Image.new("RGB", (90, 70), "red"))
assert len(vector) == embed.model.config.hidden_size
"""

VIDEO_TEXT = """
import torch
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoVideoProcessor
AutoConfig.from_pretrained("video_text", **kwargs)
for auto_class in (AutoModel, AutoModelForPreTraining):
    model, info = auto_class.from_pretrained("video_text", output_loading_info=True, **kwargs)
    assert not any(info.values()), info
    assert type(model).__module__.startswith(origin), type(model)
pixel_values = AutoVideoProcessor.from_pretrained("video_text", **kwargs)("clip.mp4", return_tensors="pt").pixel_values
output = model(torch.tensor([[2, 7, 9, 3]]), pixel_values)
assert output.logits_per_video.shape == (1, 1), output.logits_per_video
"""

WITH_PACKAGE = """
import sys
sys.path.insert(0, {root!r})
import modeling_videomamba
kwargs, origin = {{}}, "modeling_videomamba."
"""

WITHOUT_PACKAGE = """
import sys
sys.modules["modeling_videomamba"] = None  # importing it fails, installed or not
kwargs, origin = {{"trust_remote_code": True}}, "transformers_modules."
"""


MODELS = {"video": ("video_cls_base", VIDEO), "image": ("image_cls_base", IMAGE), "video_text": ("umt_full", VIDEO_TEXT)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A saved model of each kind, and a clip."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name, (case, _) in MODELS.items():
        overrides = {"num_attention_heads": 4} if name == "video_text" else {}
        save(convert(golden(case).checkpoint, overrides)[0], folder / name, card="")
    render_clip(folder / "clip.mp4")
    return folder


@pytest.mark.parametrize("setting", [WITH_PACKAGE, WITHOUT_PACKAGE], ids=["with_package", "without_package"])
def test_pipelines_and_auto_classes(folder, tmp_path, monkeypatch, setting):
    """Of all kinds of model, in one process."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    script = setting.format(root=str(ROOT)) + "".join(task for _, task in MODELS.values())
    process = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    lines = process.stderr.replace("\r", "\n").splitlines()
    expected = ("Loading weights:", "Compiling the selective scan for this CPU")
    assert [line for line in lines if line.strip() and not line.startswith(expected)] == []
    assert process.stdout == ""
