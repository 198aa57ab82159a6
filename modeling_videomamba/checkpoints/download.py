"""Downloads official checkpoint files from the hub, and verifies them."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from .released import REPOSITORY, ReleasedCheckpoint


class DownloadError(OSError):
    """A file that the hub does not have or that is damaged, or a hub out of reach; the message says what to do."""


@dataclass(frozen=True)
class Download:
    """An official file in the hub's cache.

    Attributes:
        path: of the file.
        revision: the commit of the hub's repository that it is from.
        sha256: of its content, as the hub states it, verified; `None` if the hub states none.
    """

    path: Path
    revision: str
    sha256: str | None


def download(checkpoint: ReleasedCheckpoint) -> Download:
    """The official file, from the hub or its cache. A download that broke off goes on where it stopped.

    Raises:
        DownloadError: if the hub has no such file or cannot be reached, or the file is not what the hub states.
    """
    address = f"{constants.ENDPOINT}/{REPOSITORY}/resolve/main/{checkpoint.file}"
    try:
        return _verified(Path(hf_hub_download(REPOSITORY, checkpoint.file)))
    except DownloadError:
        raise
    except (EntryNotFoundError, RepositoryNotFoundError) as error:
        if not isinstance(error, LocalEntryNotFoundError):
            raise DownloadError(f"{address} does not exist: the hub's repository {REPOSITORY} has changed.") from error
        reason = error
    except (HfHubHTTPError, OSError) as error:
        reason = error
    raise DownloadError(
        f"Cannot download {address} ({type(reason).__name__}: {reason}). Without a network, or with a mirror: set "
        "HF_ENDPOINT, or fetch the file another way and convert it by its path."
    ) from reason


def _verified(path: Path) -> Download:
    """What the cache holds at `<cache>/snapshots/<commit>/<file>`, a link to a blob that is named by the hub's checksum.

    The hub's client compares the size as it downloads, and never the checksum.
    """
    stated = path.resolve().name
    if not re.fullmatch("[0-9a-f]{64}", stated):  # a mirror without sha256, or a file system without links
        return Download(path, path.parent.name, None)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != stated:
        raise DownloadError(
            f"{path.resolve()} is damaged: its sha256 is {found}, the hub states {stated}. Delete the file and try again."
        )
    return Download(path, path.parent.name, stated)
