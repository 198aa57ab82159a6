"""An index of videos on disk: the vectors of their frames, by which sentences find them again.

A directory with `index.json`, and with the vectors, in a file for every save: `vectors-00000.safetensors` and so on, each a
tensor `frames` `(videos, frames, width)` in fp16. Every file is written beside its place, then moved there whole, vectors
before the list that names them: a process that is killed leaves the index as it was saved last.
"""

import hashlib
import json
import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from ..data.outputs import check_held, replacing
from ..data.text_files import parse_json, read_text
from .score_files import fingerprint


def fingerprint_of_directory(model: Path) -> str:
    """16 letters that change with what makes vectors: configuration, weights, and how videos are read.

    Raises:
        FileNotFoundError: if this is no directory of a model.
    """
    if not (model / "config.json").is_file():
        raise FileNotFoundError(f"There is no model in {model}.")
    files = [model / "config.json", *sorted(model.glob("*processor_config.json")), *sorted(model.glob("*.safetensors"))]
    parts = []
    for file in files:
        with file.open("rb") as content:
            parts.append(hashlib.file_digest(content, "sha256").digest())
    return fingerprint(*parts)


def stamp(video: Path) -> dict[str, int | None]:
    """What tells whether a file has changed; of a link to nowhere, nothing."""
    try:
        status = video.stat()
    except OSError:
        return {"size": None, "modified": None}
    return {"size": status.st_size, "modified": status.st_mtime_ns}


def _is_entry(video: object) -> bool:
    """Whether this is what an index knows of a video: it has a place among the vectors, or a reason why not."""
    if not isinstance(video, dict):
        return False
    place = video.get("shard"), video.get("row")
    return "error" in video or all(type(number) is int and number >= 0 for number in place)


@dataclass
class VideoIndex:
    """The videos of a folder, each with its vectors, or with the reason why it has none.

    Args:
        directory: where the index is.
        folder: where the videos are.
        model, model_fingerprint: what made the vectors, see [`fingerprint_of_directory`].
        videos: by path in the folder: `size` and `modified` of the file, and `shard` and `row` of its vectors or else `error`.
    """

    directory: Path
    folder: str
    model: str
    model_fingerprint: str
    videos: dict[str, dict] = field(default_factory=dict)
    waiting: list[tuple[str, dict, Tensor]] = field(default_factory=list)  # for the next save

    @classmethod
    def read(cls, directory: Path) -> Self:
        """
        Raises:
            FileNotFoundError: if there is no index.
            ValueError: if it is damaged.
        """
        file = directory / "index.json"
        if not file.exists():
            raise FileNotFoundError(f"There is no index in {directory}.")
        content = parse_json(read_text(file), str(file))
        if not (
            isinstance(content, dict)
            and content.keys() == {"folder", "model", "model_fingerprint", "videos"}
            and isinstance(content["videos"], dict)
            and all(map(_is_entry, content["videos"].values()))
        ):
            raise ValueError(f"{file}: not an index of videos, or a damaged one. Make another --index.")
        return cls(directory, **content)

    @classmethod
    def read_or_start(cls, directory: Path, folder: str, model: str, model_fingerprint: str) -> Self:
        """The index that is there, or a new one.

        Raises:
            ValueError: if it is another model's or another folder's, or if something else is there. Nothing is changed then.
        """
        if (directory / "index.json").exists():
            index = cls.read(directory)
            index.check_model(model, model_fingerprint)
            if index.folder != folder and os.path.isdir(index.folder):  # else it was moved
                raise ValueError(f"{directory} is an index of {index.folder}, not of {folder}: give another --index.")
            index.folder, index.model = folder, model
            return index
        if directory.exists() and any(not path.name.startswith(".") for path in directory.iterdir()):
            raise ValueError(f"{directory} has files, but no index: give another --index.")
        return cls(directory, folder, model, model_fingerprint)

    def check_model(self, model: str, model_fingerprint: str) -> None:
        """
        Raises:
            ValueError: if another model made the vectors, or the same one, before it changed.
        """
        if model_fingerprint != self.model_fingerprint:
            raise ValueError(
                f"{self.directory} was made by another model: {self.model} had the fingerprint {self.model_fingerprint}, "
                f"{model} has {model_fingerprint}. Give that --model, or make another --index."
            )

    def out_of_date(self, found: dict[str, dict]) -> tuple[list[str], list[str]]:
        """What differs from the files `found`, stamps by path in the folder: videos that are gone; new or changed ones."""

        def is_current(name: str) -> bool:
            known = self.videos.get(name, {})
            return found[name].items() <= known.items() and ("error" in known or self._file(known["shard"]).exists())

        return [name for name in self.videos if name not in found], [name for name in found if not is_current(name)]

    def add(self, name: str, stamp: dict, vectors: Tensor) -> None:
        """Takes the vectors `(frames, width)` of a video, of unit length, into the next save."""
        self.waiting.append((name, stamp, vectors.half().cpu()))

    def add_error(self, name: str, stamp: dict, reason: str) -> None:
        self.videos[name] = stamp | {"error": reason}

    def save(self) -> None:
        """From here on, what was added outlives the process, which holds the directory, see [`hold`].

        Raises:
            OSError: if the directory was removed, or has no room.
        """
        check_held(self.directory)
        if self.waiting:
            names, stamps, vectors = zip(*self.waiting)
            shard = 1 + max((video.get("shard", -1) for video in self.videos.values()), default=-1)
            with replacing(self._file(shard)) as unfinished:
                unfinished.write_bytes(to_safetensors({"frames": torch.stack(vectors)}))
            self.videos |= {name: s | {"shard": shard, "row": row} for row, (name, s) in enumerate(zip(names, stamps))}
            self.waiting = []
        content = {name: getattr(self, name) for name in ("folder", "model", "model_fingerprint", "videos")}
        with replacing(self.directory / "index.json") as unfinished:
            unfinished.write_text(json.dumps(content, indent=1), encoding="utf-8")
        self._remove_unused_shards()

    def check_whole(self) -> None:
        """
        Raises:
            FileNotFoundError: if a file with vectors is missing on disk, or the directory is another one.
        """
        check_held(self.directory)
        for video in self.videos.values():
            if "shard" in video and not self._file(video["shard"]).is_file():
                raise FileNotFoundError(f"{self._file(video['shard'])} was removed while the index was made. Start again.")

    def _remove_unused_shards(self) -> None:
        used = {self._file(video["shard"]) for video in self.videos.values() if "shard" in video}
        for file in self.directory.glob("vectors-*.safetensors"):
            if file not in used:
                file.unlink()

    def _file(self, shard: int) -> Path:
        return self.directory / f"vectors-{shard:05}.safetensors"

    def mean_vectors(self) -> tuple[list[str], Tensor]:
        """The videos that have vectors, and the means over their frames `(videos, width)`.

        Raises:
            ValueError: if there are none, or a file with vectors is missing or damaged.
        """
        by_shard = defaultdict(list)
        for name, video in self.videos.items():
            if "shard" in video:
                by_shard[video["shard"]].append((name, video["row"]))
        if not by_shard:
            raise ValueError(f"The index {self.directory} has no videos.")
        names, means = [], []
        for shard, entries in by_shard.items():
            frames = self._load(shard, 1 + max(row for _, row in entries))
            names += [name for name, _ in entries]
            means.append(frames[[row for _, row in entries]].float().mean(dim=1))
        return names, torch.cat(means)

    def _load(self, shard: int, num_videos: int) -> Tensor:
        """The vectors in a file, `(videos, frames, width)`, of at least so many videos."""
        file = self._file(shard)
        try:
            frames = load_file(file)["frames"]
        except (FileNotFoundError, SafetensorError, KeyError) as error:
            problem = "missing" if isinstance(error, FileNotFoundError) else f"damaged ({error})"
            raise ValueError(f"{file} is {problem}. Unless another run is indexing just now, make the index again.") from error
        if frames.ndim != 3 or len(frames) < num_videos:
            raise ValueError(f"{file} is damaged: it has vectors of shape {tuple(frames.shape)}. Make the index again.")
        return frames

    def path_of(self, name: str) -> str:
        return os.path.join(self.folder, name)
