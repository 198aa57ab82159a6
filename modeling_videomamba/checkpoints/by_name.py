"""Models by name: a directory, a hub repository, or a released checkpoint's id, which is downloaded and converted once."""

import contextlib
import os
from collections.abc import Collection
from pathlib import Path

from huggingface_hub import constants, snapshot_download

from .. import VideoMambaVideoTextConfig
from ..closest_names import did_you_mean
from .converter import convert_released, save, tokenizer_for
from .model_card import released_model_card
from .released import ALIASES, find_released, load_released


DEMO_MODELS = Path(__file__).with_name("demo_models")  # small enough to come with the package
DEMO_MODEL = DEMO_MODELS / "videomamba-demo"


def locate(model: str) -> str:
    """A directory or hub repository as it is; a released checkpoint's id becomes the directory of its conversion.

    Raises:
        FileNotFoundError: if it is a path where there is no directory, or nearly the id of a released checkpoint.
    """
    released = {*load_released(), *ALIASES}
    check_model(model, released)
    if os.path.isdir(model) or model not in released:
        return model
    checkpoint = find_released(model)
    directory = Path(constants.HF_HOME) / "videomamba" / checkpoint.id
    if not directory.exists():
        converted, _, _ = convert_released(checkpoint)
        reads_text = isinstance(converted.config, VideoMambaVideoTextConfig)
        tokenizer = tokenizer_for(converted.config) if reads_text else None
        with contextlib.suppress(FileExistsError):  # another process was quicker
            save(converted, directory, released_model_card(checkpoint, converted.config.official_revision), tokenizer)
    return str(directory)


def locate_files(model: str) -> str:
    """The directory of a model, see [`locate`]; that of a hub repository is downloaded."""
    directory = locate(model)
    if os.path.isdir(directory):
        return directory
    return snapshot_download(directory, allow_patterns=["*.json", "*.safetensors", "*.txt"])


def check_model(name: str, names: Collection[str] = ()) -> None:
    """
    Raises:
        FileNotFoundError: if it is neither one of the names nor a directory, and cannot be a repository on the hub.
    """
    is_path = name.count("/") > 1 or name.startswith(("/", ".", "~")) or name.startswith("videomamba-")
    if is_path and name not in names and not Path(name).is_dir():
        raise FileNotFoundError(f"There is no model {name}: no such directory or name.{did_you_mean(name, names)}")
