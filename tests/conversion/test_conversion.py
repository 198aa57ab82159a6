"""The converter: what it reads, what it refuses, and that it never leaves half a directory."""

import argparse
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_videomamba import VideoMambaForImageClassification, VideoMambaForVideoClassification, VideoMambaModel
from modeling_videomamba.checkpoints import labels
from modeling_videomamba.checkpoints.converter import convert, save
from modeling_videomamba.checkpoints.labels import load_labels
from modeling_videomamba.checkpoints.official_layout import CheckpointError, read_checkpoint
from modeling_videomamba.checkpoints.verification import verify
from modeling_videomamba.commands import convert as command_line
from modeling_videomamba.commands.command_line import run_command
from tests.conftest import FIXTURES, golden
from tests.training_runs import command


ROOT = Path(__file__).parents[2]
CHECKPOINT = FIXTURES / "pth_checkpoints" / "checkpoint.safetensors"


@pytest.fixture
def mistake(capsys):
    """Runs the command line in this process, expects it to fail on a user's mistake, and returns the line that it says."""

    def run(*arguments) -> str:
        with pytest.raises(SystemExit) as exit_info:
            run_command(command_line.main, list(map(str, arguments)))
        printed = capsys.readouterr()
        assert exit_info.value.code == 2
        assert printed.out == ""
        assert printed.err.startswith("error: ")
        assert printed.err.count("\n") == 1
        return printed.err

    return run


def altered(tmp_path, **changes) -> Path:
    """The small checkpoint with some tensors replaced, added, or (None) removed."""
    tensors = {name: x for name, x in (load_file(CHECKPOINT) | changes).items() if x is not None}
    save_file(tensors, tmp_path / "altered.safetensors")
    return tmp_path / "altered.safetensors"


class TestCommandLine:
    def test_writes_a_complete_directory_and_says_what_it_is(self, tmp_path, capsys):
        (tmp_path / "names.txt").write_text("\n".join("abcdef"))
        command_line.main([str(CHECKPOINT), str(tmp_path / "model"), "--labels", str(tmp_path / "names.txt"), "--verify"])
        report = capsys.readouterr().out
        assert "VideoMambaForVideoClassification, 37,158 parameters" in report
        assert float(re.search(r"largest difference from the official .*: (\S+)", report)[1]) < 1e-4
        written = {path.name for path in (tmp_path / "model").iterdir()}
        assert written >= {"config.json", "model.safetensors", "video_preprocessor_config.json", "README.md"}
        assert written >= {path.name for path in (ROOT / "modeling_videomamba").glob("*.py")} - {
            "__init__.py",
            "__main__.py",
            "flop_counter.py",
            "modeling_videomamba_video_text.py",
            "video_text_losses.py",
            "video_classification_pipeline.py",
            "selective_scan.py",  # the operator by itself, and its oracle
            "selective_scan_onnx.py",
        }
        config = json.loads((tmp_path / "model" / "config.json").read_text())
        assert config["id2label"] == dict(zip("012345", "abcdef"))
        processor = json.loads((tmp_path / "model" / "video_preprocessor_config.json").read_text())
        assert (processor["num_frames"], processor["crop_size"]) == (4, {"height": 32, "width": 32})

    @pytest.mark.parametrize("inflation", ["center", "mean"])
    def test_an_image_model_becomes_a_video_model(self, tmp_path, inflation):
        checkpoint, sizes = golden("image_cls_base").checkpoint, ("--num-frames", "4", "--tubelet-size", "2")
        command_line.main([str(checkpoint), str(tmp_path / "model"), *sizes, "--inflation", inflation])
        model = VideoMambaModel.from_pretrained(tmp_path / "model")
        first, second = model.embeddings.patch_embeddings.projection.weight.unbind(2)
        kernel = load_file(checkpoint)["patch_embed.proj.weight"]
        torch.testing.assert_close(first, kernel / 2 if inflation == "mean" else torch.zeros_like(kernel))
        torch.testing.assert_close(second, kernel / 2 if inflation == "mean" else kernel)

    def test_settings_that_no_tensor_tells(self, tmp_path):
        settings = ("image_size=[32,48]", "patch_stride=8", "layer_norm_eps=1e-3", "drop_path_rate=0.2")
        checkpoint = golden("image_cls_stride8").checkpoint
        words = (word for setting in settings for word in ("--set", setting))
        command_line.main([str(checkpoint), str(tmp_path / "model"), *words])
        config = json.loads((tmp_path / "model" / "config.json").read_text())
        assert config["image_size"] == [32, 48]
        assert (config["patch_stride"], config["layer_norm_eps"], config["drop_path_rate"]) == (8, 1e-3, 0.2)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (["--set", "image_size=[32,32]"], r"pos_embed holds 24 patches, image_size [32, 32] makes 4 x 4"),
            ([], "pos_embed holds 24 patches"),
            (["--set", "hidden_size=64"], "contradicts the checkpoint, whose tensors say 32"),
            (["--set", "widht=3"], "--set widht: no field of VideoMambaConfig that one can set"),
            (["--set", "image_size=[32,48]", "--set", "drop_path_rate=2"], "`drop_path_rate` must be in [0, 1), got 2"),
            (["--set", "image_size=[32,48]", "--set", "layer_norm_eps=-1"], "`layer_norm_eps` must be above 0, got -1"),
            (["--set", 'patch_stride="8"'], "patch_stride"),
            (["--set", "image_size=[32,48]", "--num-frames", "0"], "`num_frames` must be a positive multiple"),
            (["--set", "image_size=[32,48]", "--tubelet-size", "2"], "--tubelet-size is for an image checkpoint"),
            (["--set", "image_size=[32"], "is not a JSON value"),
            (["--set", "image_size"], "expected KEY=VALUE"),
            (["--set", "image_size=[32,48]", "--labels", "nowhere.txt"], "No such label file: nowhere.txt"),
        ],
    )
    def test_a_mistake_ends_in_one_line_and_writes_nothing(self, tmp_path, mistake, settings, message):
        assert message in mistake(golden("video_cls_nonsquare_t6").checkpoint, tmp_path / "out", *settings)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "Give a source and an output"),
            (["model.pth"], "Give a source and an output"),
            (["nowhere.pth", "out"], "No such checkpoint file: nowhere.pth"),
            (["nowhere/checkpoint", "out"], "No such checkpoint file: nowhere/checkpoint"),
            (["folder", "out"], "folder is a directory, not a checkpoint file. A model directory of transformers needs no"),
            (["videomamba-m-k40", "out"], "There is no released checkpoint 'videomamba-m-k40'"),
            (["videomamba-m-k400", "out", "--num-frames", "32"], "--num-frames: for a file of your own"),
            (["videomamba-m-k400", "folder"], "folder exists and is not an empty directory"),
            (["--all", "models", "--labels", "breakfast"], "--labels: for a file of your own"),
            (["--to-official", "nowhere", "out.pth"], "No such model directory: nowhere"),
            (["--to-official", "folder", "out.pth"], "config.json cannot be read"),
            ([str(CHECKPOINT), "out", "--num-labels", "0"], "--num-labels 0: the checkpoint's head has 6 rows"),
            ([str(CHECKPOINT), "out", "--num-labels", "few"], "invalid int value: 'few'"),
            ([str(CHECKPOINT), "out", "--set", "layer_norm_eps=NaN"], "'NaN' is not a JSON value"),
            ([str(CHECKPOINT), "out", "--set", "layer_norm_eps=" + "[" * 10_000], "is not a JSON value"),
            ([str(CHECKPOINT), "out", "--nonsense"], "There is no option --nonsense."),
        ],
    )
    def test_so_does_every_other(self, tmp_path, monkeypatch, mistake, arguments, message):
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "video.mp4").touch()
        monkeypatch.chdir(tmp_path)
        assert message in mistake(*arguments)
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]

    def test_in_a_process_of_its_own_the_status_is_2(self, tmp_path):
        argv = [sys.executable, *command("convert"), "nowhere.pth", str(tmp_path / "out")]
        process = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path)
        assert (process.returncode, process.stdout) == (2, "")
        assert process.stderr == "error: No such checkpoint file: nowhere.pth\n"

    def test_unwritable_output(self, tmp_path, mistake):
        (tmp_path / "file").touch()
        assert "nothing can be written into" in mistake(CHECKPOINT, tmp_path / "file" / "model")
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "precious.txt").write_text("keep")
        assert "full exists and is not an empty directory" in mistake(CHECKPOINT, tmp_path / "full")
        assert (tmp_path / "full" / "precious.txt").read_text() == "keep"


class TestNothingIsWrittenHalf:
    def test_failure_while_saving(self, tmp_path, monkeypatch):
        model, _ = convert(CHECKPOINT)
        monkeypatch.setattr("modeling_videomamba.checkpoints.converter.processor_for", lambda config: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            save(model, tmp_path / "model", card="")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("how", [".", "link"])
    def test_into_the_current_directory_or_through_a_link(self, tmp_path, monkeypatch, how):
        (tmp_path / "empty").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "empty")
        monkeypatch.chdir(tmp_path / "empty" if how == "." else tmp_path)
        save(convert(CHECKPOINT)[0], how, card="")
        assert (tmp_path / "empty" / "config.json").exists()


class TestReading:
    def test_every_layout_holds_the_same_tensors(self):
        expected = load_file(CHECKPOINT)
        for layout in ("raw_state_dict", "model_only", "module", "train_loop"):
            tensors = read_checkpoint(FIXTURES / "pth_checkpoints" / f"{layout}.pth")
            assert tensors.keys() == expected.keys()
            assert all(torch.equal(tensors[name], expected[name]) for name in expected)

    @pytest.mark.parametrize("prefix", ["backbone.", "encoder."])
    def test_prefixes_are_stripped(self, tmp_path, prefix):
        torch.save({prefix + name: tensor for name, tensor in load_file(CHECKPOINT).items()}, tmp_path / "prefixed.pth")
        assert read_checkpoint(tmp_path / "prefixed.pth").keys() == load_file(CHECKPOINT).keys()

    def test_a_pickle_with_code_is_refused_and_nothing_runs(self, tmp_path):
        target = tmp_path / "executed"

        class Bomb:
            def __reduce__(self):
                return (Path.touch, (target,))

        torch.save({"model": load_file(CHECKPOINT), "extra": Bomb()}, tmp_path / "bomb.pth")
        (tmp_path / "bare.pth").write_bytes(pickle.dumps(Bomb()))
        for name in ("bomb.pth", "bare.pth"):
            with pytest.raises(CheckpointError, match=r"Refused to load .*\. Nothing was run\."):
                convert(tmp_path / name)
        assert not target.exists()

    def test_the_namespace_of_the_training_loop_stays_the_only_exception(self):
        assert argparse.Namespace not in torch.serialization.get_safe_globals()

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    @pytest.mark.parametrize("content", [b"", b"hello world " * 20])
    def test_a_damaged_file(self, tmp_path, suffix, content):
        (tmp_path / f"bad{suffix}").write_bytes(content)
        with pytest.raises(CheckpointError, match="bad"):
            convert(tmp_path / f"bad{suffix}")

    def test_no_such_file(self):
        with pytest.raises(CheckpointError, match="No such checkpoint file: nowhere"):
            convert("nowhere.pth")

    def test_no_state_dict(self, tmp_path):
        torch.save({"epoch": 3, "model": [1, 2]}, tmp_path / "list.pth")
        with pytest.raises(CheckpointError, match="holds no state dict"):
            convert(tmp_path / "list.pth")


class TestKeyAccounting:
    def test_another_model(self, tmp_path):
        torch.save(torch.nn.TransformerEncoderLayer(32, 2).state_dict(), tmp_path / "vit.pth")
        with pytest.raises(CheckpointError, match="Not a VideoMamba checkpoint: it lacks cls_token, pos_embed"):
            convert(tmp_path / "vit.pth")

    def test_unexpected_key(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"Unexpected keys in the checkpoint: layers\.0\.mixer\.E"):
            convert(altered(tmp_path, **{"layers.0.mixer.E": torch.zeros(3)}))

    def test_two_names_for_one_tensor(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"norm"):
            convert(altered(tmp_path, **{"norm.weight": torch.ones(24)}))

    @pytest.mark.parametrize("name", ["cls_token", "layers.0.mixer.A_log", "head.weight", "temporal_pos_embedding"])
    def test_a_wrong_number_of_dimensions(self, tmp_path, name):
        with pytest.raises(CheckpointError, match=rf"{name} has shape \(2,\)"):
            convert(altered(tmp_path, **{name: torch.zeros(2)}))

    def test_a_wrong_number_of_dimensions_of_a_pretraining_head(self, tmp_path):
        tensors = load_file(golden("pretrain_k1").checkpoint) | {"clip_decoder.0.head.weight": torch.tensor(1.0)}
        save_file(tensors, tmp_path / "altered.safetensors")
        with pytest.raises(CheckpointError, match=r"clip_decoder\.0\.head\.weight has shape \(\)"):
            convert(tmp_path / "altered.safetensors")

    def test_missing_key(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"missing layers\.1\.mixer\.D_b"):
            convert(altered(tmp_path, **{"layers.1.mixer.D_b": None}))

    def test_wrong_shape(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"layers\.1\.mixer\.D_b has shape \(3,\) instead of \(48,\)"):
            convert(altered(tmp_path, **{"layers.1.mixer.D_b": torch.zeros(3)}))

    def test_a_video_checkpoint_without_temporal_embeddings(self, tmp_path):
        with pytest.raises(CheckpointError, match="must have a temporal_pos_embedding"):
            convert(altered(tmp_path, temporal_pos_embedding=None))

    def test_training_only_parts_are_left_out_and_told(self):
        model, remarks = convert(golden("distill_student").checkpoint)
        assert type(model) is VideoMambaForImageClassification
        assert "distill_head.1.weight" in remarks[0]

    def test_frames_are_read_off_the_tensor_not_off_the_name(self, tmp_path):
        renamed = tmp_path / "videomamba_t16_k400_f64_res224.safetensors"
        renamed.write_bytes(CHECKPOINT.read_bytes())
        assert convert(renamed)[0].config.num_frames == 4

    def test_patches_that_overlap_cover_fewer_pixels(self, tmp_path):
        """Three rows of patches of 16 pixels, 8 apart, are 32 pixels."""
        overlapping = altered(tmp_path, pos_embed=torch.zeros(1, 1 + 3 * 3, 24))
        assert convert(overlapping, {"patch_stride": 8})[0].config.image_size == 32

    def test_the_first_rows_of_a_kinetics_710_head(self):
        checkpoint = golden("ckpt_head_710_slice_prefix").checkpoint
        model, _ = convert(checkpoint, num_labels=400)
        assert model.config.num_labels == 400
        assert torch.equal(model.classifier.weight, read_checkpoint(checkpoint)["head.weight"][:400])
        with pytest.raises(CheckpointError, match="--num-labels 711: the checkpoint's head has 710 rows"):
            convert(checkpoint, num_labels=711)

    def test_every_value_survives(self):
        model, _ = convert(CHECKPOINT)
        assert not model.training
        ours = sorted(tensor.double().sum().item() for tensor in model.state_dict().values())
        theirs = sorted(tensor.double().sum().item() for tensor in load_file(CHECKPOINT).values())
        assert ours == pytest.approx(theirs)


class TestLabels:
    @pytest.fixture
    def offline(self, monkeypatch):
        def unreachable(*args, **kwargs):
            raise OSError("no network")

        monkeypatch.setattr(labels, "fetch", unreachable)

    @pytest.mark.parametrize(
        ("data_set", "number", "first"), [("kinetics-400", 400, "abseiling"), ("imagenet-1k", 1000, "tench")]
    )
    def test_a_library_knows_them_offline(self, offline, data_set, number, first):
        assert load_labels(data_set, number)[0] == first

    def test_something_something_is_on_the_hub_only(self, offline):
        with pytest.raises(ValueError, match="something-something-v2 are on the hub only.*--labels FILE"):
            load_labels("something-something-v2", 174)

    def test_those_of_breakfast_are_in_the_order_of_its_lists(self):
        assert list(load_labels("breakfast", 10).values())[:3] == ["cereals", "coffee", "tea"]

    def test_the_hub_comes_first(self, monkeypatch, tmp_path):
        (tmp_path / "hub.json").write_text(json.dumps({"0": "push", "1": "pull"}))
        monkeypatch.setattr(labels, "fetch", lambda *args, **kwargs: tmp_path / "hub.json")
        assert load_labels("something-something-v2", 2) == {0: "push", 1: "pull"}

    @pytest.mark.parametrize(
        ("name", "text"), [("a.json", '["x", "y"]'), ("b.json", '{"1": "y", "0": "x"}'), ("c.txt", "x\ny\n")]
    )
    def test_files(self, tmp_path, name, text):
        (tmp_path / name).write_text(text)
        assert load_labels(str(tmp_path / name), 2) == {0: "x", 1: "y"}

    def test_a_wrong_number_is_an_error(self, tmp_path):
        (tmp_path / "few.txt").write_text("x\ny\n")
        with pytest.raises(ValueError, match="names 2 labels, 6 are wanted"):
            convert(CHECKPOINT, labels=str(tmp_path / "few.txt"))

    def test_labels_reach_the_model(self, tmp_path):
        (tmp_path / "names.txt").write_text("\n".join("abcdef"))
        model, remarks = convert(CHECKPOINT, labels=str(tmp_path / "names.txt"))
        save(model, tmp_path / "model", card="")
        loaded = VideoMambaForVideoClassification.from_pretrained(tmp_path / "model")
        assert loaded.config.id2label == dict(enumerate("abcdef"))
        assert not remarks


@pytest.mark.usefixtures("one_thread")
class TestVerification:
    """The independent forward pass on official tensors agrees with the converted model, and notices a changed value."""

    CASES = {
        "video_cls_base": {},
        "video_cls_layernorm": {},
        "video_cls_nonsquare_t6": {"image_size": [32, 48]},
        "video_cls_tubelet2": {},
        "video_cls_unidirectional": {},
        "image_cls_stride8": {"image_size": [32, 48], "patch_stride": 8},
        "pretrain_k1": {},
    }

    @pytest.mark.parametrize("case", CASES)
    def test_agrees(self, case):
        checkpoint = golden(case).checkpoint
        model, _ = convert(checkpoint, self.CASES[case])
        tensors = read_checkpoint(checkpoint)
        assert verify(tensors, model) < 1e-4
        tensors["layers.1.mixer.D"] = tensors["layers.1.mixer.D"] + 0.1
        assert verify(tensors, model) > 1e-3
