"""A checkpoint file becomes the model that it holds, or one error that says what is wrong with it: never a wrong model."""

import json
import random
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_videomamba import VideoMambaForVideoClassification
from modeling_videomamba.checkpoints.checkpoint_file import CheckpointError
from modeling_videomamba.checkpoints.converter import convert, save, save_official
from modeling_videomamba.checkpoints.official_layout import read_checkpoint
from modeling_videomamba.checkpoints.video_text_layout import infer_video_text_config
from tests.conftest import FIXTURES, golden


TENSORS = load_file(FIXTURES / "pth_checkpoints" / "checkpoint.safetensors")


@pytest.fixture
def saved(tmp_path):
    """Saves the small checkpoint, some of its tensors replaced or added."""

    def save_with(**changes):
        torch.save({"model": TENSORS | changes}, tmp_path / "checkpoint.pth")
        return tmp_path / "checkpoint.pth"

    return save_with


def flip(path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_the_content_tells_the_format_not_the_suffix(saved, tmp_path):
    expected = convert(saved())[0].state_dict()
    renamed = saved().rename(tmp_path / "checkpoint.safetensors")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in convert(renamed)[0].state_dict().items())


class TestDamage:
    def test_a_flipped_bit_of_a_weight_is_found_by_the_checksum(self, saved):
        path = saved()
        weight = path.read_bytes().index(TENSORS["head.weight"].numpy().tobytes())
        flip(path, 8 * (weight + 3) + 6)  # the exponent's highest bit
        with pytest.raises(CheckpointError, match=r"checkpoint\.pth is damaged: the checksum of its part checkpoint/data/\d+"):
            convert(path)

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_whatever_bit_is_flipped_the_tensors_are_right_or_refused(self, saved, tmp_path, suffix):
        whole = saved()
        if suffix == ".safetensors":
            save_file(TENSORS, whole := tmp_path / "checkpoint.safetensors")
        content, generator, refused = whole.read_bytes(), random.Random(0), 0
        header = len(content) if suffix == ".pth" else 8 + int.from_bytes(content[:8], "little")  # no checksums after it
        for _ in range(150):
            flip(whole, generator.randrange(8 * header))
            try:
                read = read_checkpoint(whole)
                if suffix == ".pth":
                    assert read.keys() == TENSORS.keys()
                    assert all(torch.equal(read[name], TENSORS[name]) for name in TENSORS)
            except CheckpointError:
                refused += 1
            whole.write_bytes(content)
        assert refused > 75

    def test_a_part_of_the_archive_that_is_too_short_for_its_tensor(self, saved, tmp_path):
        """Its own checksum holds; what follows it in the file must not be read in place of the rest."""
        short = tmp_path / "short.pth"
        with zipfile.ZipFile(saved()) as whole, zipfile.ZipFile(short, "w") as archive:
            for entry in whole.infolist():
                content = whole.read(entry)
                archive.writestr(entry, content[: len(content) // 2] if entry.filename.endswith("/data/0") else content)
        with pytest.raises(CheckpointError, match=r"short\.pth is not a readable checkpoint"):
            read_checkpoint(short)

    def test_a_tensor_without_a_name(self, saved):
        with pytest.raises(CheckpointError, match=r"checkpoint\.pth: the key '' of the state dict .* is not a name"):
            read_checkpoint(saved(**{"": torch.zeros(2)}))

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    @pytest.mark.parametrize("part", [0.001, 0.1, 0.5, 0.999])
    def test_a_truncated_file(self, saved, tmp_path, suffix, part):
        path = saved()
        if suffix == ".safetensors":
            save_file(TENSORS, path := tmp_path / "checkpoint.safetensors")
        content = path.read_bytes()
        path.write_bytes(content[: int(part * len(content))])
        with pytest.raises(CheckpointError, match="checkpoint"):
            read_checkpoint(path)

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            (b'{"a":' + 100_000 * b"[", "recursion limit"),
            (b'{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}', "not a readable checkpoint"),
            (b'{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4]}}', "not a readable checkpoint"),
        ],
    )
    def test_a_safetensors_header_that_lies(self, tmp_path, header, message):
        (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(tmp_path / "a.safetensors")

    def test_the_old_format_has_no_checksums_and_that_is_said(self, tmp_path):
        torch.save(TENSORS, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
        _, remarks = convert(tmp_path / "old.pth")
        assert any("no checksums" in remark for remark in remarks)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_weights_that_are_not_finite_are_named_and_counted(self, saved, tmp_path, suffix, value):
        weight = TENSORS["layers.1.mixer.D_b"].clone()
        weight[5:8] = value
        path = saved(**{"layers.1.mixer.D_b": weight})
        if suffix == ".safetensors":
            save_file(TENSORS | {"layers.1.mixer.D_b": weight}, path := tmp_path / "checkpoint.safetensors")
        with pytest.raises(CheckpointError, match=r"not finite .*: layers\.1\.mixer\.D_b \(3 of 48\)"):
            convert(path)


class TestWhatIsNotACheckpoint:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "Git LFS pointer"),
            (b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page"),
            (b'{"error": "not found"}', "JSON text"),
            (b"\x1f\x8b\x08\x00", "gzip-compressed"),
            (b"GGUF\x03\x00\x00\x00", "a GGUF file"),
            (b"hello world", "neither a PyTorch checkpoint nor a safetensors file"),
        ],
    )
    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_is_called_what_it_is(self, tmp_path, content, message, suffix):
        (tmp_path / f"a{suffix}").write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(tmp_path / f"a{suffix}")

    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            (["a/data.pkl", "a/code/__torch__.py"], "a TorchScript program"),
            (["photo.jpg"], "a zip archive, but not one that torch.save wrote"),
        ],
    )
    def test_another_archive(self, tmp_path, parts, message):
        with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
            for part in parts:
                archive.writestr(part, "")
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(tmp_path / "a.pth")

    def test_a_compressed_archive_is_not_unpacked(self, saved, tmp_path):
        with zipfile.ZipFile(saved()) as whole, zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as archive:
            for part in whole.namelist():
                archive.writestr(part, whole.read(part))
        with pytest.raises(CheckpointError, match="a compressed zip archive"):
            read_checkpoint(tmp_path / "b.pth")

    def test_a_directory_and_a_device(self, tmp_path):
        with pytest.raises(CheckpointError, match="is a directory, not a checkpoint file.*needs no conversion"):
            read_checkpoint(tmp_path)
        with pytest.raises(CheckpointError, match="/dev/null is not a regular file"):
            read_checkpoint("/dev/null")

    def test_the_content_tells_the_format_not_the_suffix(self, tmp_path):
        save_file(TENSORS, tmp_path / "a.pth")
        assert read_checkpoint(tmp_path / "a.pth").keys() == TENSORS.keys()


def one_tensor(kind: str) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls quantised tensors deprecated
        return {
            "int64": lambda: torch.ones(48, dtype=torch.int64),
            "bool": lambda: torch.ones(48, dtype=torch.bool),
            "complex64": lambda: torch.ones(48, dtype=torch.complex64),
            "float8": lambda: torch.ones(48).to(torch.float8_e4m3fn),
            "quantised": lambda: torch.quantize_per_tensor(torch.ones(48), 1.0, 0, torch.qint8),
            "sparse": lambda: torch.ones(48).to_sparse(),
            "meta": lambda: torch.ones(48, device="meta"),
            "no values": lambda: torch.ones(10**9, 0),
            "repeats values": lambda: torch.ones(1).expand(10**9),
        }[kind]()


class TestTensors:
    @pytest.mark.parametrize(
        "kind", ["int64", "bool", "complex64", "float8", "quantised", "sparse", "meta", "no values", "repeats values"]
    )
    def test_of_another_kind_are_named(self, saved, kind):
        with pytest.raises(CheckpointError, match=rf"layers\.1\.mixer\.D_b .*{kind}"):
            convert(saved(**{"layers.1.mixer.D_b": one_tensor(kind)}))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_of_another_precision_are_taken(self, tmp_path, dtype):
        torch.save({name: tensor.to(dtype) for name, tensor in TENSORS.items()}, tmp_path / "a.pth")
        assert {tensor.dtype for tensor in convert(tmp_path / "a.pth")[0].parameters()} == {dtype}

    @pytest.mark.parametrize(("value", "kind"), [([1, 2], "list"), (None, "NoneType"), ({"a": 1}, "dict")])
    def test_what_is_not_a_tensor_is_named(self, saved, value, kind):
        with pytest.raises(CheckpointError, match=f"cls_token is not a tensor but of type {kind}"):
            convert(saved(cls_token=value))

    def test_a_key_that_is_not_a_name(self, tmp_path):
        torch.save(TENSORS | {3: torch.ones(2)}, tmp_path / "a.pth")
        with pytest.raises(CheckpointError, match="the key 3 .* is not a name"):
            convert(tmp_path / "a.pth")

    @pytest.mark.parametrize("how", ["same", "views of one", "transposed"])
    def test_that_share_memory_are_saved_whole(self, saved, tmp_path, how):
        expected = dict(TENSORS)
        if how == "same":
            expected["layers.1.mixer.D_b"] = expected["layers.1.mixer.D"]
        elif how == "views of one":
            flat = torch.cat([tensor.flatten() for tensor in TENSORS.values()])
            parts = flat.split([tensor.numel() for tensor in TENSORS.values()])
            expected = {name: part.view(TENSORS[name].shape) for name, part in zip(TENSORS, parts, strict=True)}
        else:
            expected["head.weight"] = TENSORS["head.weight"].T.contiguous().T
        model, _ = convert(saved(**expected))
        save(model, tmp_path / "model", card="")
        loaded, report = VideoMambaForVideoClassification.from_pretrained(tmp_path / "model", output_loading_info=True)
        assert not report["missing_keys"]
        assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


class TestNames:
    @pytest.mark.parametrize("prefix", ["module.", "backbone.", "encoder.", "module.backbone.", "_orig_mod.", "model."])
    def test_one_tensor_under_two_prefixes_is_an_error_that_names_both(self, saved, prefix):
        with pytest.raises(CheckpointError, match=rf"cls_token and {prefix}cls_token, two tensors for one name"):
            convert(saved(**{f"{prefix}cls_token": TENSORS["cls_token"] + 1}))

    def test_a_stray_block_does_not_make_a_deep_model(self, saved, monkeypatch):
        monkeypatch.setattr("modeling_videomamba.checkpoints.converter.class_for", lambda *_: pytest.fail("a model was built"))
        with pytest.raises(CheckpointError, match=r"has 2 block.*but also layers\.10000\.norm\.weight: layers\.2 is missing"):
            convert(saved(**{"layers.10000.norm.weight": torch.ones(24)}))

    def test_many_blocks_of_a_tensor_each_neither(self, saved, monkeypatch):
        monkeypatch.setattr("modeling_videomamba.checkpoints.converter.class_for", lambda *_: pytest.fail("a model was built"))
        with pytest.raises(CheckpointError, match=r"missing layers\.2\.mixer\.A_log.* more"):
            convert(saved(**{f"layers.{i}.norm.weight": torch.ones(24) for i in range(2, 500)}))

    @pytest.mark.parametrize("index", ["00", "-1", "1e3", "9" * 5000, "١"])  # the last is an Arabic one
    def test_an_index_that_is_not_written_as_one_is_unexpected(self, saved, index):
        with pytest.raises(CheckpointError, match="Unexpected keys in the checkpoint: layers"):
            convert(saved(**{f"layers.{index}.norm.weight": torch.ones(24)}))

    def test_a_stray_layer_of_the_text_side(self):
        tensors = load_file(golden("umt_full").checkpoint)
        prefix = next(name for name in tensors if "encoder.layer.0." in name).split("encoder.layer.")[0]
        with pytest.raises(CheckpointError, match=r"but also encoder\.layer\.10000\.x"):
            infer_video_text_config(tensors | {f"{prefix}encoder.layer.10000.x": torch.ones(1)}, {})

    def test_layers_that_attend_to_a_video_are_the_last_ones(self):
        tensors = load_file(golden("umt_full").checkpoint)
        moved = {name.replace("layer.2.crossattention", "layer.1.crossattention"): x for name, x in tensors.items()}
        with pytest.raises(CheckpointError, match=r"The layers that attend to a video must be the last ones, got \[1\]"):
            infer_video_text_config(moved, {})

    def test_a_text_side_that_never_looks_at_a_video(self):
        tensors = load_file(golden("umt_full").checkpoint)
        blind = {name: tensor for name, tensor in tensors.items() if "crossattention" not in name}
        with pytest.raises(CheckpointError, match=r"(?s)^The tensors do not fit together: .*`num_fusion_layers` must be"):
            infer_video_text_config(blind, {})

    def test_thousands_of_wrong_names_are_counted_not_listed(self, saved):
        with pytest.raises(CheckpointError, match=r"wrong\.4 and 2,995 more$"):
            convert(saved(**{f"wrong.{i}": torch.ones(1) for i in range(3000)}))


class TestSizesThatAreAskedFor:
    @pytest.mark.parametrize(
        ("sizes", "message"),
        [
            ({"num_labels": 0}, "--num-labels 0"),
            ({"num_labels": -1}, "--num-labels -1"),
            ({"num_labels": 10**9}, "has 6 rows"),
            ({"num_frames": 10**9}, r"--num-frames 1000000000 makes a tensor of 24,000,000,000 values"),
            ({"image_size": 10**6}, "--image-size 1000000 makes a tensor"),
            ({"num_frames": -4}, "num_frames"),
            ({"image_size": -1}, "image_size"),
            ({"overrides": {"num_labels": 10**9}}, "contradicts the checkpoint"),
            ({"overrides": {"num_aligned_layers": 10**9}}, "has no such head"),
            ({"overrides": {"aligned_layer_interval": float("inf")}}, "aligned_layer_interval"),
            ({"overrides": {"patch_stride": 0}}, "stride"),
        ],
    )
    def test_are_checked_before_anything_is_made(self, saved, sizes, message):
        with pytest.raises(CheckpointError, match=message):
            convert(saved(), **sizes)

    @pytest.mark.parametrize(
        ("sizes", "message"),
        [
            ({"num_frames": 10**9}, "--num-frames 1000000000 makes a tensor of"),
            ({"num_frames": 10**5, "tubelet_size": 10**5}, "--tubelet-size 100000 makes a tensor of"),
            ({"num_frames": -1}, "must be a positive multiple"),
            ({"num_frames": 4, "tubelet_size": 0}, "must be at least 1"),
            ({"num_frames": 4, "tubelet_size": 3}, "must be a positive multiple"),
        ],
    )
    def test_of_an_image_model_that_becomes_a_video_model(self, sizes, message):
        with pytest.raises(CheckpointError, match=message):
            convert(golden("image_cls_base").checkpoint, **sizes)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model") / "model"
    save(convert(FIXTURES / "pth_checkpoints" / "checkpoint.safetensors")[0], directory, card="")
    return directory


class TestModelDirectory:
    """The way back checks a directory against its own weights before it builds what the configuration states."""

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"num_hidden_layers": 10**9}, "states num_hidden_layers 1,000,000,000, the weights allow 2"),
            ({"num_labels": 10**9}, "states num_labels 1,000,000,000, the weights allow 6"),
            ({"num_aligned_layers": 10**9}, "states num_aligned_layers"),
            ({"num_frames": 10**9}, r"temporal_position_embeddings has shape \(1, 4, 24\) instead of \(1, 1000000000, 24\)"),
            ({"hidden_size": 10**9}, "does not hold a model that can be loaded"),
            ({"num_hidden_layers": 1}, "unexpected videomamba.layers.1"),
            ({"image_size": "large"}, "image_size"),
            ({"id2label": 5}, "does not hold a model that can be loaded"),
            ({"architectures": ["BertModel"]}, "states the architecture 'BertModel', not one of this package"),
            ({"model_type": "bert"}, "is a model of type 'bert', not one of this package"),
        ],
    )
    def test_absurd_numbers(self, directory, tmp_path, changes, message):
        config = json.loads((directory / "config.json").read_text()) | changes
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "config.json").write_text(json.dumps(config))
        (tmp_path / "model" / "model.safetensors").write_bytes((directory / "model.safetensors").read_bytes())
        with pytest.raises(CheckpointError, match=message):
            save_official(tmp_path / "model", tmp_path / "official.pth")
        assert [path.name for path in tmp_path.iterdir()] == ["model"]

    @pytest.mark.parametrize(
        ("file", "content", "message"),
        [
            ("config.json", b"[" * 100_000, "cannot be read as JSON"),
            ("config.json", b"\xff\xfe{}", "cannot be read as JSON"),
            ("config.json", b"[]", "is not a JSON object"),
            ("config.json", None, "cannot be read as JSON"),
            ("model.safetensors", b"\x10\x00", "is not a readable safetensors file"),
            ("model.safetensors", None, "has no model.safetensors"),
        ],
    )
    def test_a_damaged_one(self, directory, tmp_path, file, content, message):
        (tmp_path / "model").mkdir()
        for name in ("config.json", "model.safetensors"):
            if name != file or content is not None:
                (tmp_path / "model" / name).write_bytes(content if name == file else (directory / name).read_bytes())
        with pytest.raises(CheckpointError, match=message):
            save_official(tmp_path / "model", tmp_path / "official.pth")

    def test_none(self, tmp_path):
        with pytest.raises(CheckpointError, match="No such model directory: .*nowhere"):
            save_official(tmp_path / "nowhere", tmp_path / "official.pth")
