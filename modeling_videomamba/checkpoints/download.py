"""Downloads official checkpoint files from the hub, and verifies them."""

import errno
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from .released import REPOSITORY, ReleasedCheckpoint


PATIENCE = 10  # seconds for the hub to answer
NOT_WRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


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


def download(
    checkpoint: ReleasedCheckpoint,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Download:
    """The official file, from the hub's cache or else from the hub. A download that broke off goes on where it stopped.

    Raises:
        DownloadError: if the hub has no such file or cannot be reached, or the file is not what the hub states.
    """
    address = hf_hub_url(REPOSITORY, checkpoint.file)
    try:
        return _verified(fetch(REPOSITORY, checkpoint.file, None, cache_dir, force_download, local_files_only))
    except DownloadError:
        raise
    except (EntryNotFoundError, RepositoryNotFoundError) as error:
        if isinstance(error, LocalEntryNotFoundError):
            reason = error
        else:
            raise DownloadError(f"{address} does not exist: the hub's repository {REPOSITORY} has changed.") from error
    except (HfHubHTTPError, OSError) as error:
        reason = error
    cache = cache_dir or constants.HF_HUB_CACHE
    if isinstance(reason, OSError) and reason.errno in NOT_WRITABLE:
        raise DownloadError(
            f"Cannot write {checkpoint.file} into the cache {cache} ({reason.strerror}): make room, or set HF_HUB_CACHE to "
            "another directory."
        ) from reason
    if local_files_only or constants.HF_HUB_OFFLINE:
        raise DownloadError(
            f"{checkpoint.id} is not in the cache {cache}, and the hub must not be asked "
            "(HF_HUB_OFFLINE or local_files_only): load it once with a network."
        ) from reason
    raise DownloadError(
        f"Cannot download {address} ({type(reason).__name__}: {reason}). Without a network, or with a mirror: set "
        "HF_ENDPOINT, or fetch the file another way and convert it by its path: videomamba convert "
        f"{checkpoint.file} DIRECTORY"
    ) from reason


def fetch(
    repository: str,
    file: str,
    repo_type: str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """A file of a repository on the hub, from the cache if it is there.

    The hub is asked once with a short limit, since the hub's client repeats its request for half a minute where there is no
    network.

    Raises:
        HfHubHTTPError, OSError: of the hub's client.
    """
    where = {"repo_type": repo_type, "cache_dir": cache_dir}
    if not force_download and isinstance(cached := try_to_load_from_cache(repository, file, **where), str):
        return Path(cached)
    if not (local_files_only or constants.HF_HUB_OFFLINE):
        try:
            address = hf_hub_url(repository, file, repo_type=repo_type)
            get_hf_file_metadata(address, timeout=PATIENCE)
        except (HfHubHTTPError, OSError):
            raise
        except Exception as error:  # of the library that the hub's client uses, which changes
            raise ConnectionError(f"{type(error).__name__}: {error}") from error
    options = {"force_download": force_download, "local_files_only": local_files_only}
    return Path(hf_hub_download(repository, file, **where, **options))


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
