"""Released checkpoints by name, from a stand-in for the hub: downloads, wrong files, no network, kills, and the way back."""

import hashlib
import json
import re
import resource
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForPreTraining, AutoTokenizer, AutoVideoProcessor, BertTokenizer

from modeling_videomamba import (
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaForVideoTextPreTraining,
    VideoMambaForVideoTextRetrieval,
)
from modeling_videomamba.checkpoints.converter import convert, save, save_official
from modeling_videomamba.checkpoints.download import DownloadError, download
from modeling_videomamba.checkpoints.official_layout import read_checkpoint
from modeling_videomamba.checkpoints.released import find_released
from modeling_videomamba.commands import convert as command_line
from modeling_videomamba.commands import list as list_command
from modeling_videomamba.commands.command_line import run_command
from tests.conftest import golden
from tests.forks import fork
from tests.hub import StandInHub, official_file, use


@pytest.fixture
def convert_command(tmp_path, monkeypatch, capsys):
    """Runs `videomamba convert` in this process, which asks a hub or nobody, and returns what it prints."""

    def run(*arguments: object, hub: StandInHub | None = None, expect: int = 0):
        use(hub, tmp_path / "cache", monkeypatch)
        try:
            run_command(command_line.main, [*map(str, arguments)])
        except SystemExit as ending:
            status = ending.code
        else:
            status = 0
        printed = capsys.readouterr()
        assert (status or 0) == expect, printed.err
        return printed

    return run


class TestDownload:
    def test_a_broken_transfer_goes_on_where_it_stopped(self, tmp_path, convert_command):
        content = official_file("image_sm_tiny_res224_in1k", tmp_path)
        labels = json.dumps({str(i): f"class {i}" for i in range(1000)}).encode()
        files = {"videomamba_t16_in1k_res224.pth": content, "imagenet-1k-id2label.json": labels}
        hub = StandInHub(files, break_off=True)
        printed = convert_command("videomamba-ti-in1k", tmp_path / "model", hub=hub)
        assert "VideoMambaForImageClassification, 7,148,008 parameters" in printed.out
        assert hub.ranges[0] is None
        resumed = [int(re.search(r"\d+", header)[0]) for header in hub.ranges[1:] if header]
        assert 0 < resumed[0] <= len(content) // 2
        config = json.loads((tmp_path / "model" / "config.json").read_text())
        assert config["id2label"]["7"] == "class 7"
        assert config["official_revision"] == "0" * 40
        card = (tmp_path / "model" / "README.md").read_text()
        assert f"https://huggingface.co/OpenGVLab/VideoMamba/blob/{'0' * 40}/videomamba_t16_in1k_res224.pth" in card
        assert f"sha256 {hashlib.sha256(content).hexdigest()}" in printed.out

        transfers = len(hub.ranges)
        convert_command("videomamba-ti-in1k", tmp_path / "again", hub=hub)
        assert len(hub.ranges) == transfers  # from the cache

    @pytest.mark.slow
    def test_a_video_text_model_with_its_tokenizer(self, tmp_path, convert_command):
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(30522 - 5))]
        BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(tmp_path / "tokenizer")
        files = {path.name: path.read_bytes() for path in (tmp_path / "tokenizer").iterdir()}
        files["config.json"] = b'{"model_type": "bert"}'
        files["videomamba_m16_25M_f8_res224.pth"] = official_file("video_mm_umt_middle_full_pretrain_f8_res224", tmp_path)
        hub = StandInHub(files)
        printed = convert_command("videomamba-m-mm", tmp_path / "model", hub=hub)
        assert "VideoMambaForVideoTextPreTraining, 190,354,621 parameters" in printed.out
        assert "of the CLIP teacher" in printed.out
        assert len(AutoTokenizer.from_pretrained(tmp_path / "model")) == 30522
        assert "zero-shot" in (tmp_path / "model/README.md").read_text().lower()
        _, loading = VideoMambaForVideoTextRetrieval.from_pretrained(tmp_path / "model", output_loading_info=True)
        assert not loading["missing_keys"]

        assert len(AutoTokenizer.from_pretrained("videomamba-m-mm")) == 30522
        assert AutoVideoProcessor.from_pretrained("videomamba-m-mm").num_frames == 8
        assert type(AutoModel.from_pretrained("videomamba-m-mm-25m")) is VideoMambaForVideoTextRetrieval
        assert type(AutoModelForPreTraining.from_pretrained("videomamba-m-mm-25m")) is VideoMambaForVideoTextPreTraining
        [by_name] = tmp_path.glob("cache/models--videomamba-m-mm-25m/snapshots/*")
        assert {path.name for path in by_name.iterdir()} == {path.name for path in (tmp_path / "model").iterdir()}

    def test_a_wrong_file_is_refused_and_nothing_is_left(self, tmp_path, convert_command):
        hub = StandInHub({"videomamba_s16_k400_f16_res224.pth": official_file("video_sm_tiny_f8_res224_400c", tmp_path)})
        error = convert_command("videomamba-s-k400", tmp_path / "out" / "model", hub=hub, expect=2).err
        assert "videomamba_s16_k400_f16_res224.pth is not videomamba-s-k400-f16" in error
        assert "hidden_size is 192 instead of 384" in error
        assert "num_frames is 8 instead of 16" in error
        assert not (tmp_path / "out").exists()

    def test_a_file_that_the_hub_does_not_have(self, tmp_path, convert_command):
        error = convert_command("videomamba-m-k400", tmp_path / "model", hub=StandInHub({}), expect=2).err
        assert "videomamba_m16_k400_f16_res224.pth does not exist" in error
        assert not (tmp_path / "model").exists()

    def test_no_network(self, tmp_path, convert_command):
        error = convert_command("videomamba-m-k400", tmp_path / "model", expect=2).err
        assert "Cannot download" in error
        assert "fetch the file another way and convert it by its path" in error

    def test_a_name_that_does_not_exist(self, tmp_path, convert_command):
        error = convert_command("videomamba-m-k40", tmp_path / "model", expect=2).err
        assert "There is no released checkpoint 'videomamba-m-k40'. The closest names are videomamba-m-k400" in error

    def test_all_goes_on_after_failures_and_reports(self, tmp_path, convert_command):
        hub = StandInHub({"videomamba_t16_in1k_res224.pth": official_file("image_sm_tiny_res224_in1k", tmp_path)})
        printed = convert_command("--all", tmp_path / "models", hub=hub, expect=1)
        assert [path.name for path in (tmp_path / "models").iterdir()] == ["videomamba-ti-in1k"]
        report = printed.out.split("report\n")[1].splitlines()
        assert len(report) == 63
        assert sum("failed: " in line for line in report) == printed.err.count(": failed: ") == 62

    def test_what_to_beware_of_is_told(self, tmp_path, convert_command, monkeypatch):
        released = find_released("videomamba-m-ssv2-mask-f16-res288")
        model, _ = convert(golden("video_cls_base").checkpoint)
        model.config.official_revision = "0" * 40
        monkeypatch.setattr(command_line, "convert_released", lambda checkpoint: (model, [], Path("official.pth")))
        printed = convert_command(released.id, tmp_path / "model").out
        assert released.quirks
        assert all(f"\n  beware: {quirk}\n" in printed for quirk in released.quirks)

    def test_list(self, capsys):
        list_command.main([])
        printed = capsys.readouterr().out
        assert printed.count("video-classification") == 48
        assert re.search(r"videomamba-m-k400 +videomamba-m-k400-f16", printed)


class TestWhatTheHubStates:
    """The file in the cache is compared with the checksum, which is the name of its blob there."""

    @pytest.fixture
    def cached(self, tmp_path, monkeypatch):
        """Puts a file into a cache, under the checksum that the hub states for it."""

        def put(content: bytes, stated: str) -> None:
            blob, link = tmp_path / "blobs" / stated, tmp_path / "snapshots" / "f3427e4" / "official.pth"
            for path in (blob, link):
                path.parent.mkdir(parents=True)
            blob.write_bytes(content)
            link.symlink_to(blob)
            monkeypatch.setattr("modeling_videomamba.checkpoints.download.fetch", lambda *args: link)

        return put

    def test_is_what_the_file_is(self, cached):
        stated = hashlib.sha256(b"weights").hexdigest()
        cached(b"weights", stated)
        file = download(find_released("videomamba-ti-in1k"))
        assert (file.path.name, file.revision, file.sha256) == ("official.pth", "f3427e4", stated)

    @pytest.mark.parametrize("content", [b"wefghts", b"weight", b""])
    def test_is_not_what_the_file_is(self, cached, tmp_path, content):
        cached(content, hashlib.sha256(b"weights").hexdigest())
        with pytest.raises(DownloadError, match=rf"{tmp_path}/blobs/.* is damaged: .*Delete the file and try again"):
            download(find_released("videomamba-ti-in1k"))

    def test_is_no_sha256(self, cached):
        cached(b"weights", "W0123-weak-tag")
        assert download(find_released("videomamba-ti-in1k")).sha256 is None

    def test_a_file_that_changed_on_its_way(self, tmp_path, convert_command):
        hub = StandInHub({"videomamba_t16_in1k_res224.pth": b"changed"}, checksum=hashlib.sha256(b"sent").hexdigest())
        error = convert_command("videomamba-ti-in1k", tmp_path / "model", hub=hub, expect=2).err
        assert re.search(r"error: .* is damaged: its sha256 is .*, the hub states", error)
        assert not (tmp_path / "model").exists()


class TestKill:
    def test_no_half_directory_whenever_it_is_killed(self, tmp_path):
        checkpoint = tmp_path / "checkpoint.pth"
        checkpoint.write_bytes(official_file("image_sm_tiny_res224_in1k", tmp_path))

        def start(output: Path):
            return fork(command_line.main, [str(checkpoint), str(output)])

        began = time.monotonic()
        start(tmp_path / "whole").join()
        duration = time.monotonic() - began
        complete = {path.name for path in (tmp_path / "whole").iterdir()}
        for i in range(5):
            output = tmp_path / f"killed{i}"
            process = start(output)
            time.sleep(duration * (0.5 + 0.1 * i))
            process.kill()  # SIGKILL
            process.join()
            assert not output.exists() or {path.name for path in output.iterdir()} == complete
            shutil.rmtree(output, ignore_errors=True)
        start(output).join()
        assert {path.name for path in output.iterdir()} == complete
        assert not list(tmp_path.glob(f".{output.name}-*"))


class TestMemory:
    def test_peak_is_a_small_multiple_of_the_checkpoint(self, tmp_path):
        """Weights are mapped from the file, given to the model as they are, and written shard by shard."""
        checkpoint, grown = tmp_path / "s.pth", tmp_path / "grown.txt"
        checkpoint.write_bytes(official_file("video_sm_small_f16_res224_400c", tmp_path))

        def measure() -> None:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            save(convert(checkpoint)[0], tmp_path / "model", card="")
            grown.write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))

        fork(measure).join()
        assert int(grown.read_text()) * 1024 < 2.5 * checkpoint.stat().st_size


class TestBackAgain:
    @pytest.mark.parametrize(
        ("case", "overrides"),
        [("video_cls_base", {}), ("image_cls_base", {}), ("pretrain_k3_random", {}), ("video_cls_layernorm", {})],
    )
    def test_round_trip_is_exact(self, tmp_path, case, overrides):
        checkpoint = golden(case).checkpoint
        save(convert(checkpoint, overrides)[0], tmp_path / "model", card="")
        save_official(tmp_path / "model", tmp_path / "official.pth")
        ours, theirs = read_checkpoint(tmp_path / "official.pth"), load_file(checkpoint)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []

    def test_command_line(self, tmp_path, convert_command):
        save(convert(golden("image_cls_base").checkpoint)[0], tmp_path / "model", card="")
        printed = convert_command("--to-official", tmp_path / "model", tmp_path / "official.pth")
        assert "an official-layout state dict under 'model'" in printed.out
        printed = convert_command(tmp_path / "official.pth", tmp_path / "again")
        assert VideoMambaForImageClassification.__name__ in printed.out


class TestUpload:
    def test_creates_the_repository_and_uploads_the_directory(self, tmp_path, monkeypatch):
        calls = []

        class Api:
            def create_repo(self, repo_id, exist_ok):
                calls.append(("create", repo_id, exist_ok))
                return type("Url", (), {"repo_id": repo_id})

            def upload_folder(self, repo_id, folder_path):
                calls.append(("upload", repo_id, sorted(path.name for path in Path(folder_path).iterdir())))
                return "address"

        monkeypatch.setattr(command_line, "HfApi", Api)
        checkpoint = str(golden("pretrain_k1").checkpoint)
        monkeypatch.setattr(sys, "argv", ["convert", checkpoint, str(tmp_path / "model"), "--push-to-hub", "me/model"])
        command_line.main()
        assert calls[0] == ("create", "me/model", True)
        assert calls[1][:2] == ("upload", "me/model")
        assert {"README.md", "config.json", "model.safetensors", "modeling_videomamba.py"} <= set(calls[1][2])
        assert VideoMambaForPreTraining.from_pretrained(tmp_path / "model").config.num_aligned_layers == 1
