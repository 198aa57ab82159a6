"""An exported classifier gives the model's logits where the model is not."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from examples import export_video_classifier
from examples.export_video_classifier import export, load
from modeling_videomamba import VideoMambaForImageClassification, VideoMambaForVideoClassification, selective_scan
from modeling_videomamba.selective_scan import selective_scan_reference
from modeling_videomamba.selective_scan_onnx import ONNX_TRANSLATIONS

from .conftest import assert_same, small_config


pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[1]

WITHOUT_TORCH = """
import sys
from pathlib import Path
import numpy as np
import onnxruntime
[logits] = onnxruntime.InferenceSession("model.onnx").run(None, {"pixel_values": np.load("clips.npy")})
assert "torch" not in sys.modules and "modeling_videomamba" not in sys.modules
np.save("logits.npy", logits)
"""

WITHOUT_THE_MODEL = """
import numpy as np
import torch
import modeling_videomamba.selective_scan_torch
program = torch.export.load("model.pt2").module()
np.save("logits.npy", program(torch.from_numpy(np.load("clips.npy"))).logits.detach())
"""


def small_model(model_class=VideoMambaForVideoClassification, **config):
    torch.manual_seed(0)
    return model_class(small_config(scan_implementation="torch", **config)).eval()


@pytest.fixture
def run_command(monkeypatch):
    def run(*args):
        monkeypatch.setattr(sys, "argv", ["export_video_classifier.py", *map(str, args)])
        export_video_classifier.main()

    return run


class TestCommand:
    @pytest.mark.parametrize(("name", "code"), [("model.onnx", WITHOUT_TORCH), ("model.pt2", WITHOUT_THE_MODEL)])
    def test_one_file_for_a_fresh_process_and_any_batch(self, run_command, tmp_path, capsys, name, code):
        model = small_model(image_size=(32, 48))
        model.save_pretrained(tmp_path / "model")
        run_command("--model", tmp_path / "model", "--output", tmp_path / name)
        assert "MB; logits of three random clips differ by " in capsys.readouterr().out
        assert {path.name for path in tmp_path.iterdir()} == {"model", name}

        clips = torch.randn(5, 4, 3, 32, 48)
        np.save(tmp_path / "clips.npy", clips)
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
        assert_same(torch.from_numpy(np.load(tmp_path / "logits.npy")), model(clips).logits, 1e-5)

    def test_other_logits_are_an_error(self, run_command, tmp_path, monkeypatch):
        small_model().save_pretrained(tmp_path / "model")
        monkeypatch.setattr(export_video_classifier, "load", lambda path: lambda clips: 1.01 * load(path)(clips))
        with pytest.raises(SystemExit, match="error: more than 1e-04"):
            run_command("--model", tmp_path / "model", "--output", tmp_path / "model.pt2")

    def test_other_formats_are_refused(self, run_command, capsys):
        with pytest.raises(SystemExit):
            run_command("--output", "model.torchscript")
        assert "--output: a file ending in .onnx or .pt2, got model.torchscript" in capsys.readouterr().err


class TestOnnx:
    @pytest.mark.parametrize(
        "config",
        [
            {"scan_order": "spatiotemporal_v2", "use_bias": True, "use_conv_bias": False, "rms_norm": False},
            {"scan_order": "alternating", "tubelet_size": 2, "patch_stride": 8},
        ],
    )
    def test_every_architecture(self, tmp_path, pixel_values, config):
        model = small_model(**config)
        export(model, pixel_values, tmp_path / "model.onnx")
        assert_same(load(tmp_path / "model.onnx")(pixel_values), model(pixel_values).logits, 1e-5)

    def test_images(self, tmp_path):
        model, images = small_model(VideoMambaForImageClassification, num_frames=None), torch.randn(2, 3, 32, 32)
        export(model, images, tmp_path / "model.onnx")
        assert_same(load(tmp_path / "model.onnx")(images), model(images).logits, 1e-5)

    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize("delta_softplus", [False, True])
    def test_one_loop_scans_any_length(self, tmp_path, reverse, delta_softplus):
        class Scan(torch.nn.Module):
            def forward(self, u, delta, A, B, C):
                options = {"delta_softplus": delta_softplus, "reverse": reverse, "implementation": "torch"}
                return selective_scan(u, delta, A, B, C, **options)

        def inputs(batch, length):
            u, delta = torch.randn(2, batch, 6, length)
            B, C = torch.randn(2, batch, 4, length)
            return u, delta.abs(), -torch.rand(6, 4), B, C

        sequence = {0: "batch", 2: "length"}
        torch.onnx.export(
            Scan().eval(),
            inputs(2, 7),
            tmp_path / "scan.onnx",
            input_names=["u", "delta", "A", "B", "C"],
            dynamic_shapes=(sequence, sequence, {}, sequence, sequence),
            custom_translation_table=ONNX_TRANSLATIONS,
            dynamo=True,
            verbose=False,
        )
        session = onnxruntime.InferenceSession(tmp_path / "scan.onnx")
        for batch, length in ((1, 1), (3, 200)):
            tensors = inputs(batch, length)
            [y] = session.run(None, dict(zip(["u", "delta", "A", "B", "C"], (x.numpy() for x in tensors))))
            expected = selective_scan_reference(*tensors, delta_softplus=delta_softplus, reverse=reverse)
            assert_same(torch.from_numpy(y), expected, 1e-5)
