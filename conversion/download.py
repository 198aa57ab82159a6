"""Downloads official checkpoint files from the hub."""

from pathlib import Path

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from conversion.released import REPOSITORY, ReleasedCheckpoint


class DownloadError(OSError):
    """A file that the hub does not have, or a hub out of reach; the message says what to do."""


def download(checkpoint: ReleasedCheckpoint) -> Path:
    """Path of the official file in the hub's cache. A download that broke off goes on where it stopped.

    Raises:
        DownloadError: if the hub has no such file or cannot be reached.
    """
    address = f"{constants.ENDPOINT}/{REPOSITORY}/resolve/main/{checkpoint.file}"
    try:
        return Path(hf_hub_download(REPOSITORY, checkpoint.file))
    except (EntryNotFoundError, RepositoryNotFoundError) as error:
        if not isinstance(error, LocalEntryNotFoundError):
            raise DownloadError(f"{address} does not exist: the hub's repository {REPOSITORY} has changed.") from error
        reason = error
    except (HfHubHTTPError, OSError) as error:
        reason = error
    raise DownloadError(
        f"Cannot download {address} ({type(reason).__name__}). Without a network, or with a mirror: set HF_ENDPOINT, or fetch "
        "the file another way and convert it by its path."
    ) from reason
