"""`from_pretrained("videomamba-ti-k400-f8")`: released ids, aliases and demo models, wherever transformers takes a name."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import transformers
from huggingface_hub import constants, scan_cache_dir
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForVideoClassification,
    AutoTokenizer,
    AutoVideoProcessor,
    pipeline,
)
from transformers.utils import hub as transformers_hub

from modeling_videomamba import (
    VideoMambaConfig,
    VideoMambaForImageClassification,
    VideoMambaForVideoClassification,
    VideoMambaModel,
    VideoMambaVideoProcessor,
)
from modeling_videomamba.checkpoints import by_name
from modeling_videomamba.checkpoints.by_name import directory_of, locate
from modeling_videomamba.checkpoints.download import DownloadError
from modeling_videomamba.checkpoints.names_in_transformers import teach_names
from tests.conftest import ROOT, save_model
from tests.hub import StandInHub, official_file


VIDEO, IMAGE, ALIAS = "videomamba-ti-k400-f8", "videomamba-ti-in1k", "videomamba-ti-k400"
PICTURE = by_name.DEMO_MODEL / "confusion_matrix.png"
ZOOM_IN = str(ROOT / "examples/demo_clips/zoom_in.mp4")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """Files with random tensors under the names of official ones."""
    folder = tmp_path_factory.mktemp("official")
    names = [f"class {i}" for i in range(1000)]
    return {
        "videomamba_t16_k400_f8_res224.pth": official_file("video_sm_tiny_f8_res224_400c", folder),
        "videomamba_t16_in1k_res224.pth": official_file("image_sm_tiny_res224_in1k", folder),
        "videomamba_t16_k400_f16_res224.pth": official_file("video_sm_tiny_f16_res224_400c", folder),
        "kinetics400-id2label.json": json.dumps(dict(enumerate(names[:400]))).encode(),
        "imagenet-1k-id2label.json": json.dumps(dict(enumerate(names))).encode(),
    }


def use(hub: StandInHub | None, cache: Path, monkeypatch) -> None:
    """Makes this process ask the stand-in, or nobody, and keep files in `cache`."""
    ask(hub.environment["HF_ENDPOINT"] if hub else "http://127.0.0.1:9", cache, monkeypatch)  # where nobody listens


def ask(address: str, cache: Path, monkeypatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture(scope="module")
def filled(files, tmp_path_factory) -> Path:
    """A cache in which two models were loaded by name."""
    cache, hub = tmp_path_factory.mktemp("cache"), StandInHub(files)
    with pytest.MonkeyPatch.context() as patch:
        use(hub, cache, patch)
        for name in (VIDEO, IMAGE):
            directory_of(name)
    return cache


@pytest.fixture
def offline(filled, monkeypatch) -> None:
    """The models are in the cache, and the hub is out of reach."""
    use(None, filled, monkeypatch)


class TestDoors:
    """Every one that transformers has, without a network."""

    @pytest.fixture(autouse=True)
    def _offline(self, offline):
        pass

    def test_configurations(self):
        for config_class in (VideoMambaConfig, AutoConfig):
            config = config_class.from_pretrained(VIDEO)
            assert isinstance(config, VideoMambaConfig)
            assert (config.num_frames, config.hidden_size, config.id2label[7]) == (8, 192, "class 7")

    def test_models(self):
        expected = VideoMambaForVideoClassification.from_pretrained(directory_of(VIDEO)).state_dict()
        for model_class in (VideoMambaForVideoClassification, AutoModelForVideoClassification):
            model, report = model_class.from_pretrained(VIDEO, output_loading_info=True)
            assert not any(report.values())
            assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
        for model_class in (VideoMambaModel, AutoModel):
            assert isinstance(model_class.from_pretrained(VIDEO), VideoMambaModel)

    def test_as_a_keyword(self):
        assert AutoConfig.from_pretrained(pretrained_model_name_or_path=VIDEO).num_labels == 400
        assert AutoModel.from_pretrained(pretrained_model_name_or_path=VIDEO).config.num_frames == 8

    def test_processors(self):
        for processor_class in (VideoMambaVideoProcessor, AutoVideoProcessor):
            assert processor_class.from_pretrained(VIDEO).num_frames == 8
        assert AutoImageProcessor.from_pretrained(IMAGE).crop_size == {"height": 224, "width": 224}

    def test_pipelines(self):
        for task, model, input in (("video-classification", VIDEO, ZOOM_IN), ("image-classification", IMAGE, str(PICTURE))):
            for classify in (pipeline(task, model=model), pipeline(model=model)):
                assert classify.task == task
            [best, *_] = classify(input)
            assert best["label"].startswith("class ")

    def test_a_video_model_from_an_image_model(self):
        model = VideoMambaForVideoClassification.from_pretrained(
            IMAGE, num_frames=4, num_labels=3, ignore_mismatched_sizes=True
        )
        assert (model.config.num_frames, model.classifier.out_features) == (4, 3)
        pretrained = VideoMambaForImageClassification.from_pretrained(IMAGE)
        assert torch.equal(model.videomamba.layers[0].norm.weight, pretrained.videomamba.layers[0].norm.weight)

    def test_options_act_as_on_any_checkpoint(self):
        model = AutoModelForVideoClassification.from_pretrained(
            VIDEO, num_labels=5, ignore_mismatched_sizes=True, dtype=torch.bfloat16, scan_implementation="torch"
        )
        assert model.classifier.weight.shape == (5, 192)
        assert model.videomamba.layers[0].mixer.in_proj.weight.dtype == torch.bfloat16
        assert model.config.scan_implementation == "torch"

    def test_places_and_code_of_ones_own(self):
        places = {"device_map": "auto"}, {"device_map": {"": "cpu"}}
        for options in (*places, {"trust_remote_code": True}, {"revision": "main"}):
            model = AutoModelForVideoClassification.from_pretrained(VIDEO, **options)
            assert (model.device.type, model.config.num_labels) == ("cpu", 400), options
            assert pipeline("video-classification", model=VIDEO, **options).model.config.num_labels == 400, options

    def test_adapters_find_their_base_model(self, tmp_path):
        peft = pytest.importorskip("peft")
        model = AutoModelForVideoClassification.from_pretrained(VIDEO)
        adapter = peft.get_peft_model(model, peft.LoraConfig(target_modules=["in_proj"], r=2, init_lora_weights=False))
        adapter.save_pretrained(tmp_path)
        adapted = AutoModelForVideoClassification.from_pretrained(tmp_path)
        assert peft.PeftConfig.from_pretrained(tmp_path).base_model_name_or_path == VIDEO
        weights = [model.videomamba.layers[0].mixer.in_proj.lora_B.default.weight for model in (adapter.model, adapted)]
        assert torch.equal(*weights)

    def test_our_commands(self):
        assert locate(VIDEO) == str(directory_of(VIDEO))

    def test_what_is_saved_afterwards_knows_nothing_of_it(self, tmp_path):
        AutoModelForVideoClassification.from_pretrained(VIDEO).save_pretrained(tmp_path)
        written = "".join(path.read_text() for path in [*tmp_path.glob("*.json"), *tmp_path.glob("*.py")])
        assert "names_in_transformers" not in written
        assert VIDEO not in written
        assert VideoMambaForVideoClassification.from_pretrained(tmp_path).config.num_labels == 400


class TestDemoModels:
    @pytest.fixture(autouse=True)
    def _offline(self, tmp_path, monkeypatch):
        use(None, tmp_path, monkeypatch)

    def test_a_classifier(self):
        [best, *_] = pipeline("video-classification", model="videomamba-demo")(ZOOM_IN)
        assert best["label"] == "zoom_in"

    def test_a_model_of_videos_and_texts(self):
        assert AutoModel.from_pretrained("videomamba-retrieval-demo").config.model_type == "videomamba_video_text"
        tokenizer = AutoTokenizer.from_pretrained("videomamba-retrieval-demo")
        assert tokenizer.unk_token_id not in tokenizer("a picture of a flower").input_ids
        assert AutoVideoProcessor.from_pretrained("videomamba-retrieval-demo").num_frames == 8


class TestTheFirstTime:
    def test_one_file_is_fetched_and_converted_and_then_nobody_is_asked(self, files, tmp_path, monkeypatch):
        hub = StandInHub(files)
        use(hub, tmp_path, monkeypatch)
        assert AutoConfig.from_pretrained(ALIAS).num_labels == 400
        transfers = [path for path in hub.requests if path.endswith(".pth")]
        assert len(hub.ranges) == 2  # the checkpoint and its labels
        assert set(transfers) == {"/OpenGVLab/VideoMamba/resolve/main/videomamba_t16_k400_f16_res224.pth"}
        hub.requests.clear()
        assert AutoModelForVideoClassification.from_pretrained(ALIAS).config.num_frames == 16
        assert VideoMambaForVideoClassification.from_pretrained(f"{ALIAS}-f16").config.num_frames == 16
        assert hub.requests == []

    def test_the_hubs_tools_see_it_as_a_repository_of_that_name(self, filled):
        [repository] = [repo for repo in scan_cache_dir(filled).repos if repo.repo_id == VIDEO]
        [revision] = repository.revisions
        assert revision.refs == {"main"}
        assert {"config.json", "model.safetensors", "video_preprocessor_config.json", "README.md"} <= {
            file.file_name for file in revision.files
        }

    def test_a_cache_of_ones_own(self, files, tmp_path, monkeypatch):
        use(StandInHub(files), tmp_path / "default", monkeypatch)
        AutoConfig.from_pretrained(ALIAS, cache_dir=tmp_path / "own")
        assert {path.name for path in (tmp_path / "own").glob("models--*")} == {
            "models--OpenGVLab--VideoMamba",
            "models--videomamba-ti-k400-f16",
        }
        assert list((tmp_path / "own").glob("datasets--huggingface--label-files"))
        assert not (tmp_path / "default").exists()

    def test_threads_convert_once(self, files, tmp_path, monkeypatch):
        use(StandInHub(files), tmp_path, monkeypatch)
        convert = Mock(wraps=by_name.convert_released)
        monkeypatch.setattr(by_name, "convert_released", convert)
        with ThreadPoolExecutor(4) as threads:
            directories = list(threads.map(directory_of, [VIDEO] * 4))
        assert len(set(directories)) == 1
        convert.assert_called_once()

    def test_a_full_disk_is_named(self, files, tmp_path, monkeypatch):
        def fill(*args, **kwargs):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        use(StandInHub(files), tmp_path, monkeypatch)
        monkeypatch.setattr("modeling_videomamba.checkpoints.download.hf_hub_download", fill)
        with pytest.raises(OSError, match=r"Cannot write .*\.pth into the cache .*No space left on device.*HF_HUB_CACHE"):
            AutoConfig.from_pretrained(VIDEO)
        assert not list(tmp_path.glob("models--videomamba*/snapshots/*"))

    def test_what_an_older_converter_wrote_is_not_taken_for_todays(self, filled, monkeypatch):
        before = directory_of(VIDEO, cache_dir=filled, local_files_only=True)
        monkeypatch.setattr(by_name, "CONVERSION", by_name.CONVERSION + 1)
        after = directory_of(VIDEO, cache_dir=filled, local_files_only=True)  # from the official file, which is still there
        assert after != before
        shutil.rmtree(after)

    def test_a_file_of_another_model_leaves_nothing(self, files, tmp_path, monkeypatch):
        wrong = files | {"videomamba_t16_k400_f8_res224.pth": files["videomamba_t16_k400_f16_res224.pth"]}
        use(StandInHub(wrong), tmp_path, monkeypatch)
        with pytest.raises(OSError, match="is not videomamba-ti-k400-f8: num_frames is 16 instead of 8"):
            AutoConfig.from_pretrained(VIDEO)
        assert not list(tmp_path.glob("models--videomamba*/snapshots/*/*"))

    def test_download_again(self, files, tmp_path, monkeypatch):
        hub = StandInHub(files)
        use(hub, tmp_path, monkeypatch)
        directory = directory_of(VIDEO)
        (directory / "config.json").write_text("{}")
        hub.ranges.clear()
        config = AutoConfig.from_pretrained(VIDEO, force_download=True)
        assert config.num_labels == 400
        assert len(hub.ranges) == 1


class TestOtherNames:
    @pytest.mark.parametrize("name", ["videomamba-m-k401", "videomamba-m-k400-f17", "VideoMamba-M-K400", "videomamba_m_k400"])
    def test_a_misspelt_one_is_an_error_at_once_that_names_the_closest(self, name, tmp_path, monkeypatch):
        hub = StandInHub({})
        use(hub, tmp_path, monkeypatch)
        doors = [
            AutoConfig.from_pretrained,
            AutoModelForVideoClassification.from_pretrained,
            VideoMambaForVideoClassification.from_pretrained,
            AutoVideoProcessor.from_pretrained,
            AutoTokenizer.from_pretrained,
            lambda name: pipeline("video-classification", model=name),
            locate,
        ]
        for door in doors:
            with pytest.raises(OSError, match=f"{name}.*Did you mean .*videomamba-m-k400"):
                door(name)
        assert hub.requests == []

    def test_a_directory_of_the_name_comes_first(self, tmp_path, monkeypatch, offline):
        save_model(tmp_path / VIDEO)
        monkeypatch.chdir(tmp_path)
        assert AutoConfig.from_pretrained(VIDEO).num_labels == 5
        assert AutoModelForVideoClassification.from_pretrained(VIDEO).config.num_labels == 5
        assert pipeline("video-classification", model=VIDEO).model.config.num_labels == 5
        assert locate(VIDEO) == VIDEO

    @pytest.mark.parametrize("name", ["someone/videomamba-ti-k400-f8", "videomae-base", "bert-base-uncased"])
    def test_one_that_is_not_ours_goes_through_untouched(self, name, files, tmp_path, monkeypatch):
        hub = StandInHub(files)
        use(hub, tmp_path, monkeypatch)
        with pytest.raises((OSError, ValueError), match=name):
            AutoConfig.from_pretrained(name)
        assert any(f"/{name}/resolve/main/config.json" in path for path in hub.requests)

    def test_a_revision_that_cannot_be(self, offline):
        with pytest.raises(OSError, match="has one revision only, got revision='v2'"):
            AutoConfig.from_pretrained(VIDEO, revision="v2")


class TestWithoutANetwork:
    def test_the_error_comes_soon_and_says_what_to_do(self, tmp_path, monkeypatch):
        use(None, tmp_path, monkeypatch)
        monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it tries again and again"))
        with pytest.raises(DownloadError, match=r"Cannot download .*k400_f8_res224.pth .*HF_ENDPOINT.*convert"):
            AutoModelForVideoClassification.from_pretrained(VIDEO)

    def test_so_does_that_of_a_hub_that_is_ill(self, tmp_path, monkeypatch):
        hub = StandInHub({}, status=503)
        use(hub, tmp_path, monkeypatch)
        monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it tries again and again"))
        with pytest.raises(DownloadError, match="503"):
            AutoConfig.from_pretrained(VIDEO)

    def test_a_hub_that_never_answers(self, tmp_path, monkeypatch):
        monkeypatch.setattr("modeling_videomamba.checkpoints.download.PATIENCE", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            ask(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path, monkeypatch)
            with pytest.raises(DownloadError, match="Timeout"):
                AutoConfig.from_pretrained(VIDEO)

    def test_a_hub_that_must_not_be_asked(self, files, tmp_path, monkeypatch):
        hub = StandInHub(files)
        use(hub, tmp_path, monkeypatch)
        with pytest.raises(DownloadError, match="is not in the cache .* load it once with a network"):
            AutoConfig.from_pretrained(VIDEO, local_files_only=True)
        assert hub.requests == []

    def test_labels_come_from_torchvision(self, files, tmp_path, monkeypatch):
        without = {name: content for name, content in files.items() if not name.endswith(".json")}
        use(StandInHub(without), tmp_path, monkeypatch)
        assert "abseiling" in AutoConfig.from_pretrained(VIDEO).label2id


def test_names_are_taught_once():
    before = transformers_hub.cached_files
    teach_names()
    assert transformers_hub.cached_files is before


def test_every_file_of_a_model_is_found_through_the_function_that_knows_the_names():
    """If this fails, transformers has another way: see `names_in_transformers.py`."""
    assert transformers_hub.cached_file.__globals__["cached_files"] is transformers_hub.cached_files
    assert transformers.configuration_utils.cached_file is transformers_hub.cached_file


LOAD = """
import sys
from transformers import AutoModelForVideoClassification
import modeling_videomamba
{patch}
model = AutoModelForVideoClassification.from_pretrained("videomamba-ti-k400-f8")
print(model.classifier.weight.sum().item())
"""
DIE = """
import os, signal
from modeling_videomamba import VideoMambaPreTrainedModel
whole = VideoMambaPreTrainedModel.save_pretrained
def save_pretrained(self, directory, **options):
    whole(self, directory, **options)
    os.kill(os.getpid(), signal.SIGKILL)
VideoMambaPreTrainedModel.save_pretrained = save_pretrained
"""


def load(hub: StandInHub, cache: Path, patch: str = "") -> subprocess.Popen:
    environment = os.environ | hub.environment | {"HF_HUB_CACHE": str(cache)}
    command = [sys.executable, "-c", LOAD.format(patch=patch)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
class TestProcesses:
    def test_two_at_once_fetch_and_convert_once(self, files, tmp_path):
        hub = StandInHub(files)
        answers = [process.communicate() for process in [load(hub, tmp_path), load(hub, tmp_path)]]
        assert answers[0][0] == answers[1][0] != "", answers
        assert len([path for path in hub.requests if path.endswith(".pth")]) == 3  # asked twice, fetched once
        assert len(hub.ranges) == 2

    def test_killed_while_it_converts(self, files, tmp_path):
        hub = StandInHub(files)
        process = load(hub, tmp_path, DIE)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not list(tmp_path.glob("models--videomamba*/snapshots/[!.]*"))
        hub.ranges.clear()
        answer, errors = load(hub, tmp_path).communicate()
        assert answer, errors
        assert hub.ranges == []  # the official file was there
        [snapshot] = (tmp_path / f"models--{VIDEO}" / "snapshots").iterdir()
        assert not snapshot.name.startswith(".")

    def test_killed_while_it_downloads(self, files, tmp_path):
        hub = StandInHub(files, stall=True)
        process = load(hub, tmp_path)
        while not list(tmp_path.glob("models--OpenGVLab--VideoMamba/blobs/*.incomplete")) or not hub.ranges:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.kill()
        process.communicate()
        hub.go_on.set()
        answer, errors = load(hub, tmp_path).communicate()
        assert answer, errors
