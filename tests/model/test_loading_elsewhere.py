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
classify = pipeline("video-classification", model="model", **kwargs)
[best, second] = classify("clip.mp4", top_k=2)
assert best["score"] > second["score"] and best["label"].startswith("LABEL_"), (best, second)
assert type(classify.model).__module__.startswith(origin), type(classify.model)
assert type(classify.video_processor).__module__.startswith(origin), type(classify.video_processor)
for auto_class in (AutoModel, AutoModelForVideoClassification):
    _, info = auto_class.from_pretrained("model", output_loading_info=True, **kwargs)
    assert not any(info.values()), info
AutoConfig.from_pretrained("model", **kwargs)
AutoVideoProcessor.from_pretrained("model", **kwargs)
"""

IMAGE = """
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
classify = pipeline("image-classification", model="model", **kwargs)
assert len(classify(Image.new("RGB", (90, 70), "red"), top_k=3)) == 3
assert type(classify.model).__module__.startswith(origin), type(classify.model)
AutoModelForImageClassification.from_pretrained("model", **kwargs)
AutoImageProcessor.from_pretrained("model")
embed = pipeline("image-feature-extraction", model="model", pool=True, **kwargs)
assert type(embed.model).__module__.startswith(origin), type(embed.model)
[vector] = embed(Image.new("RGB", (90, 70), "red"))
assert len(vector) == embed.model.config.hidden_size
"""

VIDEO_TEXT = """
import torch
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoVideoProcessor
AutoConfig.from_pretrained("model", **kwargs)
for auto_class in (AutoModel, AutoModelForPreTraining):
    model, info = auto_class.from_pretrained("model", output_loading_info=True, **kwargs)
    assert not any(info.values()), info
    assert type(model).__module__.startswith(origin), type(model)
pixel_values = AutoVideoProcessor.from_pretrained("model", **kwargs)("clip.mp4", return_tensors="pt").pixel_values
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


@pytest.mark.parametrize(
    ("case", "task"),
    [("video_cls_base", VIDEO), ("image_cls_base", IMAGE), ("umt_full", VIDEO_TEXT)],
    ids=["video", "image", "video-text"],
)
@pytest.mark.parametrize("setting", [WITH_PACKAGE, WITHOUT_PACKAGE], ids=["with_package", "without_package"])
def test_pipeline_and_auto_classes(tmp_path, monkeypatch, case, task, setting):
    checkpoint = golden(case).checkpoint
    overrides = {"num_attention_heads": 4} if case == "umt_full" else {}
    save(convert(checkpoint, overrides)[0], tmp_path / "model", card="")
    render_clip(tmp_path / "clip.mp4")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    script = setting.format(root=str(ROOT)) + task
    process = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    lines = process.stderr.replace("\r", "\n").splitlines()
    expected = ("Loading weights:", "Compiling the selective scan for this CPU")
    assert [line for line in lines if line.strip() and not line.startswith(expected)] == []
    assert process.stdout == ""
