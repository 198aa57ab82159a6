"""An exported classifier gives the model's logits where the model is not."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch.export import Dim

from modeling_videomamba import (
    VideoMambaForImageClassification,
    VideoMambaForVideoClassification,
    VideoMambaForVideoTextRetrieval,
    selective_scan,
)
from modeling_videomamba.commands import export as export_command
from modeling_videomamba.commands.export import export, load
from modeling_videomamba.selective_scan import selective_scan_reference
from modeling_videomamba.selective_scan_onnx import ONNX_TRANSLATIONS
from tests.conftest import assert_same, small_config, small_video_text_config


ROOT = Path(__file__).parents[2]

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
import modeling_videomamba
program = torch.export.load("model.pt2").module()
np.save("logits.npy", program(torch.from_numpy(np.load("clips.npy"))).logits.detach())
"""


def small_model(model_class=VideoMambaForVideoClassification, **config):
    torch.manual_seed(0)
    return model_class(small_config(**({"scan_implementation": "torch", "num_hidden_layers": 1} | config))).eval()


def classifier_of_frames(**config):
    """Temporal position embeddings start as zeros, which any interpolation leaves alone."""
    model = small_model(**config)
    torch.nn.init.normal_(model.get_position_embeddings()[1])
    return model


@pytest.fixture
def run_command(monkeypatch):
    def run(*args):
        monkeypatch.setattr(sys, "argv", ["export_video_classifier.py", *map(str, args)])
        export_command.main()

    return run


class TestCommand:
    @pytest.mark.parametrize(("name", "code"), [("model.onnx", WITHOUT_TORCH), ("model.pt2", WITHOUT_THE_MODEL)])
    def test_one_file_for_a_fresh_process_and_any_batch(self, run_command, tmp_path, capsys, name, code):
        model = small_model(image_size=(32, 48), num_hidden_layers=2)
        model.save_pretrained(tmp_path / "model")
        run_command("--model", tmp_path / "model", "--output", tmp_path / name)
        assert "MB; logits of three random clips differ by " in capsys.readouterr().out
        assert {path.name for path in tmp_path.iterdir()} == {"model", name}

        clips = torch.randn(5, 4, 3, 32, 48)
        np.save(tmp_path / "clips.npy", clips)
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
        assert_same(torch.from_numpy(np.load(tmp_path / "logits.npy")), model(clips).logits, 1e-5)

    def test_a_program_takes_any_number_of_frames(self, tmp_path):
        model = small_model()
        export(model, torch.randn(2, 4, 3, 32, 32), tmp_path / "model.pt2")
        clips = torch.randn(1, 7, 3, 32, 32)
        assert_same(load(tmp_path / "model.pt2")(clips), model(clips).logits, 1e-5)

    def test_other_logits_are_an_error(self, run_command, tmp_path, monkeypatch):
        small_model().save_pretrained(tmp_path / "model")
        monkeypatch.setattr(export_command, "load", lambda path: lambda clips: 1.01 * load(path)(clips))
        with pytest.raises(SystemExit, match="error: more than 1e-04"):
            run_command("--model", tmp_path / "model", "--output", tmp_path / "model.pt2")

    def test_nothing_is_written_half_and_a_folder_is_made(self, run_command, tmp_path, monkeypatch):
        def write_half(model, clips, output):
            output.write_text("half")
            raise RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed")

        small_model().save_pretrained(tmp_path / "model")
        monkeypatch.setattr(export_command, "export", write_half)
        with pytest.raises(RuntimeError, match="PytorchStreamWriter"):
            run_command("--model", tmp_path / "model", "--output", tmp_path / "new/model.pt2")
        assert list((tmp_path / "new").iterdir()) == []

    def test_other_formats_are_refused(self, run_command, capsys):
        with pytest.raises(SystemExit):
            run_command("--output", "model.torchscript")
        assert "--output: a file ending in .onnx or .pt2, got model.torchscript" in capsys.readouterr().err


class TestFreeFrames:
    """One exported program for all numbers of frames, which gives the model's numbers to the last bit."""

    @pytest.mark.parametrize(
        ("scan_implementation", "dim", "frames"),
        [("torch", Dim("frames"), 4), ("torch", Dim.AUTO, 6), ("numba", Dim.DYNAMIC, 6)],
    )
    def test_any_number_of_frames(self, scan_implementation, dim, frames):
        """Exported at the configured number, 4, and at another; with gradients enabled, as by default."""
        model = classifier_of_frames(scan_implementation=scan_implementation)
        free = {0: Dim.AUTO, 1: dim}
        program = torch.export.export(model, (torch.randn(2, frames, 3, 32, 32),), dynamic_shapes=(free,)).module()
        for batch, length in ((1, 1), (2, 4), (3, 7), (1, 16)):
            clips = torch.randn(batch, length, 3, 32, 32)
            assert torch.equal(program(clips).logits, model(clips).logits)

    def test_tubelets(self):
        model = classifier_of_frames(tubelet_size=2)
        shapes = ({0: Dim("batch"), 1: 2 * Dim("positions")},)
        program = torch.export.export(model, (torch.randn(2, 4, 3, 32, 32),), dynamic_shapes=shapes).module()
        for length in (4, 6, 10):
            clips = torch.randn(1, length, 3, 32, 32)
            assert torch.equal(program(clips).logits, model(clips).logits)

    def test_frames_of_any_size(self):
        model = classifier_of_frames()
        shapes = {"pixel_values": dict.fromkeys((0, 1, 3, 4), Dim.AUTO), "interpolate_pos_encoding": None}
        inputs = {"pixel_values": torch.randn(2, 4, 3, 32, 32), "interpolate_pos_encoding": True}
        program = torch.export.export(model, (), inputs, dynamic_shapes=shapes).module()
        for size in ((1, 7, 3, 48, 64), (3, 4, 3, 32, 32)):
            clips = torch.randn(size)
            expected = model(clips, interpolate_pos_encoding=True).logits
            assert torch.equal(program(pixel_values=clips, interpolate_pos_encoding=True).logits, expected)

    def test_videos_beside_texts(self):
        model = VideoMambaForVideoTextRetrieval(small_video_text_config()).eval()
        inputs = torch.tensor([[2, 7, 9, 3]] * 2), torch.randn(2, 4, 3, 32, 32)
        shapes = ({0: Dim("texts"), 1: Dim("length", max=16)}, {0: Dim("videos"), 1: Dim("frames")})
        program = torch.export.export(model, inputs, dynamic_shapes=shapes).module()
        inputs = torch.tensor([[2, 7, 8, 9, 3]] * 3), torch.randn(4, 7, 3, 32, 32)
        assert_same(program(*inputs).logits_per_video, model(*inputs).logits_per_video, 1e-5)

    def test_a_compiled_model_is_compiled_once(self):
        graphs = []

        def backend(graph, _):
            graphs.append(graph)
            return graph

        model = classifier_of_frames()
        compiled = torch.compile(model, backend=backend, dynamic=True)
        for length in (4, 6, 8, 4):
            clips = torch.randn(2, length, 3, 32, 32)
            torch.testing.assert_close(compiled(clips).logits, model(clips).logits)
        assert len(graphs) == 1


class TestOnnx:
    @pytest.mark.parametrize(
        "config",
        [
            {"scan_order": "spatiotemporal_v2", "use_bias": True, "use_conv_bias": False, "rms_norm": False},
            {"scan_order": "alternating", "tubelet_size": 2, "patch_stride": 8, "num_hidden_layers": 2},
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

    @pytest.mark.parametrize(("reverse", "delta_softplus"), [(False, False), (True, True)])
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
