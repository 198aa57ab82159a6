"""Models by name: a directory, a hub repository, a demo model, or a released checkpoint, which is converted once."""

import hashlib
import os
import shutil
from pathlib import Path

from filelock import FileLock
from huggingface_hub import constants, snapshot_download

from .. import VideoMambaVideoTextConfig
from ..closest_names import did_you_mean
from .converter import convert_released, save
from .default_processor import tokenizer_for
from .model_card import released_model_card
from .names_in_transformers import is_ours
from .released import ALIASES, find_released, load_released


DEMO_MODELS = Path(__file__).with_name("demo_models")  # small enough to come with the package
DEMO_MODEL = DEMO_MODELS / "videomamba-demo"
DEMOS = {"videomamba-demo": "video-classification", "videomamba-retrieval-demo": "video-text"}  # their tasks

CONVERSION = 1  # a new number where the converter writes something else, so that what it wrote before is not taken for it


class UnknownNameError(FileNotFoundError):
    """A name that is neither a directory nor that of a released checkpoint; the message has the closest ones."""


def names() -> set[str]:
    """All names: ids of released checkpoints, their aliases, demo models."""
    return {*load_released(), *ALIASES, *DEMOS}


def locate(model: str) -> str:
    """A directory or hub repository as it is; a name of ours becomes the directory of the model, see [`directory_of`].

    Raises:
        UnknownNameError: if it is a path where there is no directory, or looks like a name of ours and is none.
        DownloadError, CheckpointError: see [`directory_of`].
    """
    check_model(model)
    return model if os.path.isdir(model) or model not in names() else str(directory_of(model))


def locate_files(model: str) -> str:
    """The directory of a model, see [`locate`]; that of a hub repository is downloaded."""
    directory = locate(model)
    if os.path.isdir(directory):
        return directory
    return snapshot_download(directory, allow_patterns=["*.json", "*.safetensors", "*.txt"])


def check_model(name: str) -> None:
    """
    Raises:
        UnknownNameError: if it is neither one of our names nor a directory, and cannot be a repository on the hub.
    """
    is_path = name.count("/") > 1 or name.startswith(("/", ".", "~"))
    if (is_path or is_ours(name)) and name not in names() and not Path(name).is_dir():
        raise UnknownNameError(f"There is no model {name}: no such directory or name.{did_you_mean(name, names())}")


def task_of(name: str) -> str | None:
    """The pipeline that takes a model of that name, `None` if there is none.

    Raises:
        UnknownNameError: if there is no such name.
    """
    check_model(name)
    task = DEMOS[name] if name in DEMOS else find_released(name).task
    return task if task.endswith("-classification") else None


def directory_of(
    name: str, cache_dir: str | Path | None = None, force_download: bool = False, local_files_only: bool = False
) -> Path:
    """The directory of a demo model or of a released checkpoint.

    The official file of a checkpoint is downloaded and converted the first time, into the hub's cache, where the conversion
    lies as a repository of the checkpoint's id would. It is written whole or not at all. Of several processes one converts,
    and the others wait for it. After that, no network is needed.

    Args:
        name: an id, an alias, or the name of a demo model.
        cache_dir: in place of the hub's cache.
        force_download: download and convert again.
        local_files_only: never ask the hub.

    Raises:
        UnknownNameError: if there is no such name.
        DownloadError: if the official file is not in the cache and cannot be downloaded.
        CheckpointError: if it is not what the table of released checkpoints says.
    """
    if name in DEMOS:
        return DEMO_MODELS / name
    if name not in names():
        raise UnknownNameError(f"There is no released checkpoint {name!r}.{did_you_mean(name, names())}")
    checkpoint = find_released(name)
    cache = Path(cache_dir or constants.HF_HUB_CACHE)
    repository = cache / f"models--{checkpoint.id}"
    commit = hashlib.sha1(f"{checkpoint.file}, conversion {CONVERSION}".encode()).hexdigest()
    directory = repository / "snapshots" / commit
    if directory.is_dir() and not force_download:
        return directory
    lock = cache / ".locks" / repository.name / "conversion.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        if directory.is_dir() and not force_download:
            return directory
        cache_options = {"cache_dir": cache_dir, "local_files_only": local_files_only}
        model, _, _ = convert_released(checkpoint, force_download, **cache_options)
        reads_text = isinstance(model.config, VideoMambaVideoTextConfig)
        tokenizer = tokenizer_for(model.config, **cache_options) if reads_text else None
        if directory.is_dir():
            shutil.rmtree(directory)
        save(model, directory, released_model_card(checkpoint, model.config.official_revision), tokenizer)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs/main").write_text(commit)
    return directory
