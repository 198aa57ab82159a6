"""Makes an index of the videos of a folder, and brings it up to date."""

import os
import sys
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .. import VideoMambaForVideoTextRetrieval, VideoMambaVideoProcessor
from ..data.media_files import printable, reason_of
from .bulk_classification import batches_by_shape
from .embedding_index import VideoIndex


class VideosToIndex(Dataset):
    """`(name, clip)`, clip `(1, frames, 3, height, width)`, or the reason why a video cannot be read."""

    def __init__(self, folder: str, names: list[str], processor: VideoMambaVideoProcessor):
        self.folder, self.names, self.processor = folder, names, processor

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> tuple[str, Tensor | str]:
        name = self.names[i]
        try:
            return name, self.processor(os.path.join(self.folder, name), return_tensors="pt")["pixel_values"]
        except Exception as error:  # of whatever type: no file may end the run
            return name, reason_of(error, os.path.join(self.folder, name))


@torch.inference_mode()
def encode_videos(model: VideoMambaForVideoTextRetrieval, clips: Tensor) -> Tensor:
    """Vectors of unit length `(videos, frames, width)` of `(videos, frames, 3, height, width)`."""
    return F.normalize(model.get_video_features(clips.to(model.device)).pooler_output.float(), dim=-1)


def update_index(
    index: VideoIndex,
    to_do: dict[str, dict],
    model: VideoMambaForVideoTextRetrieval,
    processor: VideoMambaVideoProcessor,
    batch_size: int,
    num_workers: int,
    save_seconds: float,
) -> None:
    """Adds the videos `to_do`, stamps by name, and saves every `save_seconds`."""
    loader = DataLoader(
        VideosToIndex(index.folder, list(to_do), processor),
        batch_size=None,
        num_workers=num_workers,
        in_order=False,  # a long video holds up nothing
    )

    def fail(name: str, reason: str, is_lasting: bool = True) -> None:
        tqdm.write(f"error: {printable(reason)}", file=sys.stderr)
        index.add_error(name, to_do[name] if is_lasting else {}, reason)  # without a stamp, it is out of date the next time

    def readable() -> Iterator[tuple[str, Tensor]]:
        for name, clip in tqdm(loader, unit="video", disable=None):
            if isinstance(clip, Tensor):
                yield name, clip
            else:
                fail(name, clip)

    saved = time.monotonic()
    try:
        for batch in batches_by_shape(readable(), batch_size):
            names, clips = zip(*batch)
            try:
                vectors = encode_videos(model, torch.cat(clips))
            except torch.AcceleratorError:  # from here on, nothing works
                raise
            except Exception as error:  # such as frames of a size that patches do not cover, or too large for the memory
                for name in names:
                    fail(name, f"{index.path_of(name)}: {error}", is_lasting=isinstance(error, ValueError))
                continue
            for name, vectors_of_video in zip(names, vectors):
                index.add(name, to_do[name], vectors_of_video)
            if time.monotonic() - saved >= save_seconds:
                index.save()
                saved = time.monotonic()
    finally:  # also when it is interrupted
        index.save()
