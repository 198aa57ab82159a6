"""From a table of videos or images to batches: what the Trainer's data loaders call.

An item is a video: its clips `(clips, frames, 3, height, width)` in training, one for every repeat of the augmentation, or its
views in evaluation. The collator puts all clips of its videos into one batch. An image is a video of one frame until its
transform, which leaves it `(3, height, width)`.
"""

import hashlib
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import BaseImageProcessor, TrainerCallback

from .. import VideoMambaVideoProcessor
from ..video_decoding import decode_video
from ..video_index import VideoFileMetadata
from .frame_sampling import FrameSampling
from .images import read_image
from .masking import draw_noise
from .media_files import printable
from .media_lists import name_of, source_of
from .mixing import ClipMixing
from .windows import window_frames


UNREADABLE_LABEL = -100  # what losses and metrics leave out; for values to regress it is nan


@contextmanager
def drawn_from(*key: int) -> Iterator[None]:
    """Inside, everything random on the CPU depends on `key` alone; afterwards the generators are as they were."""
    seed = int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=4).digest())
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class UnreadableFiles:
    """Names videos or images that cannot be decoded, once each, in a file that all workers and processes write.

    Without a file, each process warns of those that it meets. With `strict` they are errors.
    """

    def __init__(self, file: Path | None = None, strict: bool = False):
        self.file, self.strict = file, strict
        self.warned_of: set[str] = set()

    def add(self, name: str, error: Exception) -> None:
        name = printable(name)
        if self.strict:
            raise ValueError(f"Cannot read {name} (--strict): {error}") from error
        if name not in self.names():
            print(f"warning: skipped {name}: {printable(str(error))}", file=sys.stderr)
            self.warned_of.add(name)
            if self.file is not None:
                with self.file.open("a", encoding="utf-8") as file:
                    file.write(f"{name}\n")

    def names(self) -> list[str]:
        if self.file is None:
            return sorted(self.warned_of)
        return sorted(set(self.file.read_text(encoding="utf-8").splitlines())) if self.file.exists() else []


def read_frames(
    row: dict, choose: Callable[[int], list[int] | np.ndarray], shrink: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """The frames `(frames, 3, height, width)`, uint8, that `choose` picks among those of a row's video, or of its window.

    An image is its one frame. Those of a video file go through `shrink` as they are decoded, see [`decode_video`].

    Raises:
        ValueError, OSError: if the video or image cannot be read.
    """
    video, start, end = source_of(row), row.get("start"), row.get("end")
    if isinstance(video, dict):
        video = video["bytes"] or video["path"]
    if "image" in row:
        return read_image(video)[None]

    def choose_in_window(metadata: VideoFileMetadata) -> np.ndarray:
        first, length = window_frames(metadata.total_num_frames, metadata.fps, start, end, metadata.frame_times)
        return first + np.asarray(choose(length)).reshape(-1)

    if isinstance(video, str) and Path(video).is_dir():
        return _read_frame_folder(Path(video), choose)
    return decode_video(video, choose_in_window, shrink=shrink)[0]


def _read_frame_folder(folder: Path, choose: Callable[[int], list[int] | np.ndarray]) -> Tensor:
    pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    if not pictures:
        raise ValueError(f"The folder {folder} has no pictures.")
    frames = []
    for picture in (pictures[i] for i in np.asarray(choose(len(pictures))).reshape(-1)):
        frame = read_image(picture, upright=True)
        if frames and frame.shape != frames[0].shape:
            before, after = (f"{height} x {width}" for _, height, width in (frames[0].shape, frame.shape))
            raise ValueError(f"The pictures in {folder} are not of one size: {picture.name} is {after}, others are {before}.")
        frames.append(frame)
    return torch.stack(frames)


def require_readable(videos: Dataset, where: str, unreadable: UnreadableFiles) -> None:
    """Goes through the videos or images up to the first that can be read.

    Raises:
        ValueError: if there is none.
    """
    for row in videos:
        try:
            read_frames(row, lambda total: [0])
            return
        except (ValueError, OSError) as error:
            unreadable.add(name_of(row), error)
    media = "image" if "image" in videos.column_names else "video"
    raise ValueError(f"None of the {len(videos)} {where} {media}s can be read.")


class TrainingClips(torch.utils.data.Dataset):
    """Augmented clips of videos, or augmented images, with their labels if there are any.

    What item i is in an epoch depends on the seed, the epoch and i, on nothing else: not on workers, processes, or whether the
    run was interrupted. Items from the number of videos on are further copies of the same ones, see
    [`RepeatedAugmentationSampler`]. What cannot be read is replaced by the next that can.
    """

    def __init__(
        self,
        videos: Dataset,
        labels: list[int] | list[float] | list[list[float]] | None,
        sampling: FrameSampling,
        num_frames: int,
        transform: Callable[[Tensor], Tensor],
        repeats: int = 1,
        seed: int = 0,
        unreadable: UnreadableFiles | None = None,
    ):
        self.videos, self.labels = videos, labels
        self.sampling, self.num_frames, self.transform = sampling, num_frames, transform
        self.repeats, self.seed, self.unreadable = repeats, seed, unreadable or UnreadableFiles()
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that live on see it change

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict:
        key = (self.seed, int(self.epoch), index)
        with drawn_from(*key):
            readable, frames = self._read_from(index % len(self))
            clips = torch.stack([self.transform(frames) for _ in range(self.repeats)])  # (repeats, frames, 3, height, width)
        labels = {} if self.labels is None else {"labels": torch.tensor([self.labels[readable]] * self.repeats)}
        return {"pixel_values": clips, "key": key, **labels}

    def _read_from(self, index: int) -> tuple[int, Tensor]:
        for i in range(len(self)):
            readable = (index + i) % len(self)
            row = self.videos[readable]
            try:
                return readable, read_frames(row, lambda total: self.sampling.train(total, self.num_frames))
            except (ValueError, OSError) as error:
                self.unreadable.add(name_of(row), error)
        raise ValueError(f"None of the {len(self)} videos or images to train on can be read.")


class EpochOfClips(TrainerCallback):
    """Tells the training clips which epoch it is."""

    def __init__(self, clips: TrainingClips):
        self.clips = clips

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.clips.epoch.fill_(int(state.epoch))


class EvaluationViews(torch.utils.data.Dataset):
    """The views of labelled videos, `(num_clips * num_crops, frames, 3, height, width)`, with one label each.

    Of an image it is one, `(1, 3, height, width)`. What cannot be read is black, and its label [`UNREADABLE_LABEL`] or nan.
    """

    def __init__(
        self,
        videos: Dataset,
        labels: list[int] | list[float] | list[list[float]],
        sampling: FrameSampling,
        processor: VideoMambaVideoProcessor | BaseImageProcessor,
        unreadable: UnreadableFiles | None = None,
        num_clips: int = 1,
        num_crops: int = 1,
    ):
        self.videos, self.labels = videos, labels
        self.sampling, self.processor, self.unreadable = sampling, processor, unreadable or UnreadableFiles()
        self.num_clips, self.num_crops = num_clips, num_crops
        self.num_frames = getattr(processor, "num_frames", 1)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict:
        row = self.videos[index]
        label = torch.tensor(self.labels[index])
        try:
            choose = partial(self.sampling.views, num_frames=self.num_frames, num_clips=self.num_clips)
            frames = read_frames(row, choose, self._shrink if self.processor.do_resize else None)
        except (ValueError, OSError) as error:
            self.unreadable.add(name_of(row), error)
            label = torch.full_like(label, torch.nan if label.is_floating_point() else UNREADABLE_LABEL)
            crop_size = self.processor.crop_size["height"], self.processor.crop_size["width"]
            frames = torch.zeros(self.num_clips * self.num_frames, 3, *crop_size, dtype=torch.uint8)
        views = self._views_of(frames)
        return {"pixel_values": views, "labels": label.expand(len(views), *label.shape)}

    def _shrink(self, frames: Tensor) -> Tensor:
        """Resizes them now: a long video is never in memory at full size, and the processor has nothing left to resize."""
        return self.processor.resize(frames, self.processor.size, resample=self.processor.resample)

    def _views_of(self, frames: Tensor) -> Tensor:
        if isinstance(self.processor, VideoMambaVideoProcessor):
            options = {"do_sample_frames": False, "num_clips": self.num_clips, "num_crops": self.num_crops}
            return self.processor(frames, **options, return_tensors="pt")["pixel_values"]
        return self.processor(frames[0], return_tensors="pt")["pixel_values"]


class ClipCollator:
    """Joins the clips of all items into one batch: `pixel_values` `(clips, frames, 3, height, width)`, `labels` `(clips,)`, or
    `(clips, num_labels)` where a clip may have several.

    Images are `(images, 3, height, width)`. With `mixing`, clips of items that have a key are mixed: labels become
    `(clips, num_labels)`.
    """

    def __init__(self, mixing: ClipMixing | None = None):
        self.mixing = mixing

    def __call__(self, items: list[dict]) -> dict[str, Tensor]:
        pixel_values = torch.cat([item["pixel_values"] for item in items])
        labels = torch.cat([item["labels"] for item in items])
        if self.mixing is not None and "key" in items[0]:
            with drawn_from(*items[0]["key"], 1):
                pixel_values, labels = self.mixing(pixel_values, labels)
        return {"pixel_values": pixel_values, "labels": labels}


class MaskingCollator:
    """Joins clips into one batch, with `mask_noise` `(clips, positions, rows, columns)`, which their masks are made of.

    The same item has the same noise. See [`mask_patches`].
    """

    def __init__(self, positions: int, rows: int, columns: int):
        self.size = positions, rows, columns

    def __call__(self, items: list[dict]) -> dict[str, Tensor]:
        noise = []
        for item in items:
            with drawn_from(*item["key"], 1):
                noise += [draw_noise(*self.size) for _ in item["pixel_values"]]
        return {"pixel_values": torch.cat([item["pixel_values"] for item in items]), "mask_noise": torch.stack(noise)}
