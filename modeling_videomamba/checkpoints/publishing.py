"""Publishes the released checkpoints, converted, on the hub: a repository each in an organisation, and a collection of them.

Each repository is filled by one commit, so that it holds everything or nothing. What the hub holds already is told from the
names of its files and the checksums of the card and the code, without converting anything: a run that was interrupted goes on
where it stopped.
"""

import hashlib
import inspect
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi
from huggingface_hub.errors import LocalTokenNotFoundError, RepositoryNotFoundError
from transformers.dynamic_module_utils import get_relative_import_files

from .. import (
    VideoMambaForVideoTextPreTraining,
    VideoMambaPreTrainedModel,
    VideoMambaVideoProcessor,
    VideoMambaVideoTextConfig,
)
from .converter import convert_released, save
from .default_processor import tokenizer_for
from .model_card import released_model_card
from .released import REPOSITORY, ReleasedCheckpoint


COLLECTION = "VideoMamba"
DESCRIPTION = "The released checkpoints of VideoMamba (arXiv:2403.06977), converted for transformers"  # at most 150 characters
MADE_BY_THE_HUB = {".gitattributes"}
BYTES_PER_PARAMETER = 4  # released weights are fp32


class PublishingError(ValueError):
    """A token or an organisation that cannot be used, or a repository that holds something else."""


@dataclass(frozen=True)
class Repository:
    """What the hub has under the name of a released checkpoint.

    Attributes:
        id: "organisation/checkpoint".
        state: "new" if there is no such repository or an empty one; "published" if it holds the checkpoint as this version
            of the package converts it; "other" if it holds anything else.
        differences: of an "other" one, the files that are missing or differ.
        size: of the weights, in bytes.
    """

    id: str
    state: Literal["new", "published", "other"]
    differences: tuple[str, ...]
    size: int

    @property
    def what_differs(self) -> str:
        """The first differences, and how many more there are."""
        first, more = ", ".join(self.differences[:3]), len(self.differences) - 3
        return f"{first} and {more} more" if more > 0 else first


class Publisher:
    """Publishes checkpoints in an organisation, or under the name of a user.

    Raises:
        PublishingError: if there is no token, it may not write there, or the hub cannot be reached.
    """

    def __init__(self, organisation: str):
        self.organisation = organisation
        self.api = HfApi()
        try:
            user = self.api.whoami()
            self.revision = self.api.model_info(REPOSITORY).sha  # of the official files, which cards name
        except LocalTokenNotFoundError as error:
            raise PublishingError(
                "There is no token for the hub: run `hf auth login`, or set HF_TOKEN to one that may write."
            ) from error
        except Exception as error:  # which ones the hub's client raises without a network differs between its versions
            raise PublishingError(f"Cannot use the hub: {type(error).__name__}: {error}") from error
        if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise PublishingError(
                "The token may only read: make one that may write, at https://huggingface.co/settings/tokens."
            )
        names = [user["name"], *(member["name"] for member in user.get("orgs", []) if member.get("roleInOrg") != "read")]
        if organisation not in names:
            raise PublishingError(f"The token may not write to {organisation}, only to {', '.join(names)}.")

    def look_up(self, checkpoint: ReleasedCheckpoint) -> Repository:
        """What the hub has of a checkpoint. Changes nothing."""
        repository, size = f"{self.organisation}/{checkpoint.id}", BYTES_PER_PARAMETER * checkpoint.parameters
        try:
            siblings = self.api.model_info(repository, files_metadata=True).siblings
        except RepositoryNotFoundError:
            siblings = []
        found = {sibling.rfilename: sibling.blob_id for sibling in siblings if sibling.rfilename not in MADE_BY_THE_HUB}
        if not found:
            return Repository(repository, "new", (), size)
        expected = self._expected_files(checkpoint)
        differences = [
            f"{name} {'differs' if name in found else 'is missing'}"
            for name, blob in expected.items()
            if name not in found or blob not in (None, found[name])
        ]
        return Repository(repository, "other" if differences else "published", tuple(sorted(differences)), size)

    def publish(self, checkpoint: ReleasedCheckpoint, overwrite: bool = False) -> bool:
        """Converts a checkpoint and uploads it, unless it is published already; returns whether it was uploaded.

        Raises:
            PublishingError: if the repository holds something else, and that is not to be overwritten.
            DownloadError, CheckpointError: see [`convert_released`].
            HfHubHTTPError: if the hub refuses.
        """
        repository = self.look_up(checkpoint)
        if repository.state == "published":
            return False
        if repository.state == "other" and not overwrite:
            raise PublishingError(
                f"The repository holds something else ({repository.what_differs}): --overwrite replaces these files."
            )
        with tempfile.TemporaryDirectory() as folder:
            self._convert(checkpoint, Path(folder) / checkpoint.id)
            self.api.create_repo(repository.id, exist_ok=True)
            self.api.upload_folder(
                repo_id=repository.id,
                folder_path=Path(folder) / checkpoint.id,
                commit_message=f"Convert {checkpoint.file} of {REPOSITORY}",
            )
        return True

    def collect(self, checkpoints: Iterable[ReleasedCheckpoint]) -> str:
        """Adds the repositories to the organisation's collection, which is made if there is none; returns its address."""
        collection = self.api.create_collection(
            title=COLLECTION, namespace=self.organisation, description=DESCRIPTION, exists_ok=True
        )
        for checkpoint in checkpoints:
            name = f"{self.organisation}/{checkpoint.id}"
            self.api.add_collection_item(collection.slug, item_id=name, item_type="model", exists_ok=True)
        return collection.url

    def _convert(self, checkpoint: ReleasedCheckpoint, directory: Path) -> None:
        model, _, _ = convert_released(checkpoint)
        tokenizer = tokenizer_for(model.config) if isinstance(model.config, VideoMambaVideoTextConfig) else None
        save(model, directory, released_model_card(checkpoint, model.config.official_revision, self.organisation), tokenizer)

    def _expected_files(self, checkpoint: ReleasedCheckpoint) -> dict[str, str | None]:
        """The files of a published checkpoint, with git's checksum of those whose content is known beforehand."""
        is_image, is_video_text = checkpoint.task == "image-classification", checkpoint.task == "video-text"
        names = ["config.json", "model.safetensors", f"{'' if is_image else 'video_'}preprocessor_config.json"]
        names += ["tokenizer.json", "tokenizer_config.json"] if is_video_text else []
        classes = [VideoMambaForVideoTextPreTraining if is_video_text else VideoMambaPreTrainedModel]
        classes += [] if is_image else [VideoMambaVideoProcessor]
        modules = [inspect.getfile(cls) for cls in classes]
        code = {Path(file) for module in modules for file in (module, *get_relative_import_files(module))}
        card = released_model_card(checkpoint, self.revision, self.organisation)
        known = {"README.md": card.encode()} | {file.name: file.read_bytes() for file in code}
        return dict.fromkeys(names) | {name: _git_checksum(content) for name, content in known.items()}


def _git_checksum(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
