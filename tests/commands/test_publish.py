"""`videomamba publish`: what it would do, what it does, how it goes on, and how it fails; on a stand-in for the hub."""

import hashlib
from inspect import signature
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import LocalTokenNotFoundError, RepositoryNotFoundError
from transformers import BertTokenizer

from modeling_videomamba import (
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaForVideoClassification,
    VideoMambaForVideoTextPreTraining,
)
from modeling_videomamba.checkpoints import publishing
from modeling_videomamba.checkpoints.download import DownloadError
from modeling_videomamba.checkpoints.released import load_released
from modeling_videomamba.commands import publish
from tests.conftest import WORDS, small_config, small_video_text_config


REVISION = "0123456789abcdef" * 2 + "01234567"
IMAGES, VIDEOS = "videomamba-ti-in1k", "videomamba-ti-k400-f8"
PRETRAINED, VIDEO_TEXT = "videomamba-m-k400-mask-pt", "videomamba-m-mm-5m"
RELEASED = load_released()
EACH_TASK = (IMAGES, VIDEOS, PRETRAINED, VIDEO_TEXT)


class Hub:
    """Stands in for `HfApi`. A repository is its files, by name; `calls` are those that change something."""

    def __init__(self):
        self.role = "fineGrained"
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.collections: dict[str, list[str]] = {}
        self.calls: list[tuple[str, str]] = []
        self.errors: dict[tuple[str, str], BaseException] = {}

    def whoami(self):
        organisations = {"my-lab": "write", "her-lab": "admin", "our-readers": "read"}
        orgs = [{"name": name, "roleInOrg": role} for name, role in organisations.items()]
        return {"name": "someone", "orgs": orgs, "auth": {"accessToken": {"role": self.role}}}

    def model_info(self, repo_id, files_metadata=False):
        if repo_id == "OpenGVLab/VideoMamba":
            return SimpleNamespace(sha=REVISION)
        self._meet("model_info", repo_id)
        if repo_id not in self.repositories:
            raise RepositoryNotFoundError(repo_id, response=SimpleNamespace(headers={}, request=None))
        files = self.repositories[repo_id]
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=n, blob_id=checksum(files[n])) for n in files])

    def create_repo(self, repo_id, exist_ok=False):
        self._meet("create_repo", repo_id)
        assert exist_ok or repo_id not in self.repositories
        self.repositories.setdefault(repo_id, {".gitattributes": b"*.safetensors filter=lfs"})

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        self._meet("upload_folder", repo_id)
        self.repositories[repo_id] |= {path.name: path.read_bytes() for path in folder_path.iterdir()}

    def create_collection(self, title, namespace, description, exists_ok=False):
        self._meet("create_collection", namespace)
        slug = f"{namespace}/{title}"
        assert exists_ok or slug not in self.collections
        assert len(description) <= 150  # the hub's limit
        self.collections.setdefault(slug, [])
        return SimpleNamespace(slug=slug, url=f"https://hub/collections/{slug}")

    def add_collection_item(self, collection_slug, item_id, item_type, exists_ok=False):
        self._meet("add_collection_item", item_id)
        items = self.collections[collection_slug]
        assert item_type == "model"
        assert item_id in self.repositories
        assert exists_ok or item_id not in items
        if item_id not in items:
            items.append(item_id)

    def _meet(self, *call):
        if call[0] != "model_info":
            self.calls.append(call)
        if call in self.errors:
            raise self.errors.pop(call)

    @property
    def uploads(self) -> list[str]:
        return [name for call, name in self.calls if call == "upload_folder"]


def checksum(content: bytes) -> str:
    """Of a file in git."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@pytest.fixture
def hub(monkeypatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr(publishing, "HfApi", lambda: hub)
    return hub


@pytest.fixture(autouse=True)
def small_conversions(monkeypatch, tmp_path):
    """Models of test size instead of the released ones; the names of those that were converted."""
    converted = []
    models = {
        "image-classification": lambda: VideoMambaForImageClassification(small_config(num_frames=None)),
        "video-classification": lambda: VideoMambaForVideoClassification(small_config()),
        "masked-pretraining": lambda: VideoMambaForPreTraining(small_config(num_labels=0, alignment_size=12)),
        "video-text": lambda: VideoMambaForVideoTextPreTraining(small_video_text_config()),
    }

    def convert(checkpoint):
        converted.append(checkpoint.id)
        model = models[checkpoint.task]()
        model.config.official_revision = REVISION
        return model, [], tmp_path

    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})
    monkeypatch.setattr(publishing, "convert_released", convert)
    monkeypatch.setattr(publishing, "tokenizer_for", lambda config: tokenizer)
    return converted


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit:
        publish.main([*arguments])
    return exit.value.code


def test_the_stand_in_takes_what_the_client_of_the_hub_takes():
    for name in ("whoami", "model_info", "create_repo", "upload_folder", "create_collection", "add_collection_item"):
        assert signature(getattr(Hub, name)).parameters.keys() <= signature(getattr(HfApi, name)).parameters.keys(), name


class TestFirstOnlyWhatWouldBeDone:
    def test_changes_and_converts_nothing(self, hub, small_conversions, capsys):
        assert run("my-lab") == 0
        assert (hub.calls, small_conversions) == ([], [])
        printed = capsys.readouterr().out
        assert printed.count(" MB  to be published\n") == len(RELEASED)
        assert "Nothing was changed" in printed

    def test_tells_sizes(self, hub, capsys):
        run("my-lab", "videomamba-m-k400")
        row, _, summary = capsys.readouterr().out.splitlines()
        assert row.split() == ["my-lab/videomamba-m-k400-f16", "296", "MB", "to", "be", "published"]  # of 73,880,464 in fp32
        assert summary.startswith("1 to be published; 0.3 GB to upload.")

    def test_tells_what_is_there(self, hub, capsys):
        run("my-lab", IMAGES, VIDEOS, "--yes")
        hub.repositories[f"my-lab/{VIDEOS}"]["README.md"] = b"edited"
        capsys.readouterr()
        assert run("my-lab", *EACH_TASK) == 1  # one would fail
        rows = capsys.readouterr().out.splitlines()
        assert rows[0].endswith("published already")
        assert rows[1].endswith("holds something else (README.md differs)")
        assert [row.endswith("to be published") for row in rows[2:4]] == [True, True]


class TestPublished:
    def test_each_has_weights_configuration_processor_card_and_code(self, hub):
        assert run("my-lab", *EACH_TASK, "--yes") == 0
        assert list(hub.repositories) == [f"my-lab/{name}" for name in EACH_TASK]
        for name, files in hub.repositories.items():
            assert {"model.safetensors", "config.json", "modeling_videomamba.py"} < files.keys()
            assert any(file.endswith("preprocessor_config.json") for file in files)
            assert f'"{name}"' in files["README.md"].decode()  # the snippets load from there
            assert REVISION in files["README.md"].decode()
        assert "tokenizer.json" in hub.repositories[f"my-lab/{VIDEO_TEXT}"]

    def test_the_collection_has_them_all(self, hub):
        run("my-lab", *EACH_TASK, "--yes")
        assert hub.collections == {"my-lab/VideoMamba": [f"my-lab/{name}" for name in EACH_TASK]}

    def test_under_the_name_of_a_user(self, hub):
        assert run("someone", IMAGES, "--yes") == 0
        assert list(hub.repositories) == [f"someone/{IMAGES}"]

    def test_all_released_checkpoints_without_names(self, hub, monkeypatch, capsys):
        monkeypatch.setattr(publishing.Publisher, "publish", lambda self, checkpoint, overwrite: False)
        monkeypatch.setattr(publishing.Publisher, "collect", lambda self, checkpoints: len(checkpoints))
        assert run("my-lab", "--yes") == 0
        assert capsys.readouterr().out.endswith(f"collection: {len(RELEASED)}\n\n{len(RELEASED)} published already\n")

    def test_an_alias_is_the_checkpoint_and_each_is_published_once(self, hub):
        run("my-lab", "videomamba-ti-k400", "videomamba-ti-k400-f16", "--yes")
        assert hub.uploads == ["my-lab/videomamba-ti-k400-f16"]


class TestAgain:
    def test_nothing_is_converted_or_uploaded_twice(self, hub, small_conversions, capsys):
        """The files that are expected of a published checkpoint are those that are uploaded, for each task."""
        run("my-lab", *EACH_TASK, "--yes")
        assert run("my-lab", *EACH_TASK, "--yes") == 0
        assert len(hub.uploads) == len(small_conversions) == 4
        assert capsys.readouterr().out.count("published already\n") == 4 + 1  # and the summary
        assert hub.collections == {"my-lab/VideoMamba": [f"my-lab/{name}" for name in EACH_TASK]}

    @pytest.mark.parametrize("call", ["create_repo", "upload_folder"])
    def test_interrupted_it_goes_on_where_it_stopped(self, hub, call):
        hub.errors[call, f"my-lab/{VIDEOS}"] = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            publish.main(["my-lab", IMAGES, VIDEOS, PRETRAINED, "--yes"])
        assert hub.collections == {}
        assert run("my-lab", IMAGES, VIDEOS, PRETRAINED, "--yes") == 0
        assert [hub.uploads.count(f"my-lab/{name}") for name in (IMAGES, PRETRAINED)] == [1, 1]
        assert hub.collections == {"my-lab/VideoMamba": [f"my-lab/{name}" for name in (IMAGES, VIDEOS, PRETRAINED)]}
        assert "model.safetensors" in hub.repositories[f"my-lab/{VIDEOS}"]

    @pytest.mark.parametrize("file", ["model.safetensors", "README.md", "video_inputs.py", "video_preprocessor_config.json"])
    def test_a_repository_that_lacks_a_file_is_left_alone_unless_told(self, hub, file, capsys):
        run("my-lab", VIDEOS, "--yes")
        files = hub.repositories[f"my-lab/{VIDEOS}"]
        del files[file]
        assert run("my-lab", VIDEOS, "--yes") == 1
        assert f"{file} is missing" in capsys.readouterr().err
        assert file not in files
        assert run("my-lab", VIDEOS, "--yes", "--overwrite") == 0
        assert file in files

    def test_only_the_first_differences_are_listed(self, hub, capsys):
        hub.repositories[f"my-lab/{VIDEOS}"] = {"notes.txt": b"of somebody else"}
        assert run("my-lab", VIDEOS) == 1
        assert "(README.md is missing, causal_conv1d_numba.py is missing, causal_conv1d_torch.py is missing and " in (
            capsys.readouterr().out
        )

    @pytest.mark.parametrize("file", ["README.md", "modeling_videomamba.py"])
    def test_so_is_one_with_another_content(self, hub, file, capsys):
        hub.repositories[f"my-lab/{IMAGES}"] = {file: b"of somebody else"}
        assert run("my-lab", IMAGES, "--yes") == 1
        message = capsys.readouterr().err
        assert f"{file} differs" in message or "holds something else" in message
        assert "--overwrite replaces" in message
        assert hub.repositories[f"my-lab/{IMAGES}"] == {file: b"of somebody else"}
        assert run("my-lab", IMAGES, "--yes", "--overwrite") == 0
        assert run("my-lab", IMAGES) == 0

    def test_a_new_revision_of_the_official_files_is_another_content(self, hub, monkeypatch, capsys):
        run("my-lab", IMAGES, "--yes")
        monkeypatch.setattr("tests.commands.test_publish.REVISION", "f" * 40)
        assert run("my-lab", IMAGES) == 1
        assert "README.md differs" in capsys.readouterr().out


class TestFailures:
    def test_one_does_not_stop_the_others(self, hub, capsys):
        hub.errors["upload_folder", f"my-lab/{VIDEOS}"] = OSError("the hub\nis tired")
        assert run("my-lab", IMAGES, VIDEOS, PRETRAINED, "--yes") == 1
        assert hub.collections == {"my-lab/VideoMamba": [f"my-lab/{name}" for name in (IMAGES, PRETRAINED)]}
        captured = capsys.readouterr()
        assert f"my-lab/{VIDEOS}: failed: OSError: the hub is tired\n" in captured.err
        assert captured.out.splitlines()[-1] == "2 published, 1 failed"

    def test_nor_does_one_that_cannot_be_converted(self, hub, monkeypatch, capsys):
        convert = publishing.convert_released

        def fail(checkpoint):
            if checkpoint.id == IMAGES:
                raise DownloadError("no such file")
            return convert(checkpoint)

        monkeypatch.setattr(publishing, "convert_released", fail)
        assert run("my-lab", IMAGES, VIDEOS, "--yes") == 1
        assert list(hub.repositories) == [f"my-lab/{VIDEOS}"]
        assert "DownloadError: no such file" in capsys.readouterr().err

    def test_nor_does_one_that_cannot_be_looked_up(self, hub, capsys):
        hub.errors["model_info", f"my-lab/{IMAGES}"] = RuntimeError("503")
        assert run("my-lab", IMAGES, VIDEOS) == 1
        captured = capsys.readouterr()
        assert f"my-lab/{IMAGES}: failed: RuntimeError: 503" in captured.err
        assert f"my-lab/{VIDEOS}" in captured.out

    def test_of_the_collection(self, hub, capsys):
        hub.errors["create_collection", "my-lab"] = OSError("full")
        assert run("my-lab", IMAGES, "--yes") == 1
        assert "collection: failed: OSError: full" in capsys.readouterr().err
        assert run("my-lab", IMAGES, "--yes") == 0
        assert hub.collections == {"my-lab/VideoMamba": [f"my-lab/{IMAGES}"]}


class TestBeforeAnyWork:
    """A mistake is one line, before anything is looked up, converted or uploaded."""

    def test_without_a_token(self, hub, small_conversions):
        def whoami():
            raise LocalTokenNotFoundError("long\ntext")

        hub.whoami = whoami
        with pytest.raises(
            publishing.PublishingError, match=r"^There is no token for the hub: run `hf auth login`, or set HF_"
        ):
            publish.main(["my-lab", "--yes"])
        assert (hub.calls, small_conversions) == ([], [])

    @pytest.mark.parametrize("organisation", ["their-lab", "our-readers"])
    def test_with_one_that_may_not_write_there(self, hub, organisation):
        with pytest.raises(
            publishing.PublishingError, match=rf"not write to {organisation}, only to someone, my-lab, her-lab\."
        ):
            publish.main([organisation, "--yes"])
        assert hub.calls == []

    def test_with_one_that_may_only_read(self, hub):
        hub.role = "read"
        with pytest.raises(publishing.PublishingError, match="The token may only read"):
            publish.main(["my-lab", "--yes"])
        assert hub.calls == []

    def test_without_a_network(self, hub, monkeypatch):
        def whoami():
            raise TimeoutError("no route")

        hub.whoami = whoami
        with pytest.raises(publishing.PublishingError, match="Cannot use the hub: TimeoutError: no route"):
            publish.main(["my-lab"])

    def test_a_checkpoint_that_was_never_released(self, hub):
        with pytest.raises(ValueError, match="closest names are videomamba-m-k400"):
            publish.main(["my-lab", "videomamba-m-k401", "--yes"])
        assert hub.calls == []
