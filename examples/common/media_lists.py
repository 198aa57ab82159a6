"""Videos or images from a folder, a list, or a `datasets` data set, as one table: a row a file, none of them opened yet.

The columns are `video` or `image` (a path, or `{"path": ..., "bytes": ...}`), `label` (a class id, a name or a value) and, for
windows of long videos, `start` and `end` in seconds. Everything that can be wrong with a list is said here, before anything is
trained.
"""

import csv
import os
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, List, Value, Video

from modeling_videomamba.video_sources import is_address

from .frame_sampling import lvu_windows
from .label_sets import label_field
from .media_files import SUFFIXES, Media, find_files, passed_over, printable, report_passed_over, search_folder


HEADERS = {"label", "labels", "class", "class_id", "category"}  # what the second field of a header says
FEATURES = {"video": Video, "image": Image}
SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "validation", "valid"), "test": ("test", "testing")}


def load_media(
    data: str,
    split: str,
    root: str | None = None,
    data_config: str | None = None,
    media: Media = "video",
    labelled: bool = True,
) -> Dataset | None:
    """The videos, or images, of one split, or `None` if `data` has no such split.

    Args:
        data: a folder with one folder a class, or with such folders in `train`, `val` and `test`; a folder with the lists
            `train.csv`, `val.csv` and `test.csv`, or one such list; a directory of `Dataset.save_to_disk`; a hub data set.
        split: `"train"`, `"val"` or `"test"`, or `"all"` of a source without splits, which is all `"train"`, too. A single
            list is every split.
        root: where relative paths in a list start from; by default at the list.
        data_config: configuration of a hub data set.
        media: what is in the files.
        labelled: whether there must be labels. Without, any folder of files will do, and a list of nothing but paths.

    Raises:
        FileNotFoundError, ValueError: naming the path, line or column that is wrong.
    """
    if not data:
        raise ValueError("No --data given.")
    path = Path(data)
    read_folder = read_class_folders if labelled else read_unlabelled_folder
    if path.is_file():
        return read_list(path, root, media, labelled)
    if not path.is_dir():
        return _load_hub(data, split, data_config, media, labelled)
    if (path / "dataset_dict.json").exists() or (path / "dataset_info.json").exists():
        return _pick_split(datasets.load_from_disk(data), split, media, labelled)
    if lists := _splits_in(path, ".csv"):
        return read_list(lists[split], root, media, labelled) if split in lists else None
    if folders := _splits_in(path, ""):
        return read_folder(folders[split], media) if split in folders else None
    return read_folder(path, media) if split in ("train", "all") else None


def load_splits(
    data: str,
    root: str | None,
    data_config: str | None,
    validation_fraction: float,
    seed: int,
    media: Media = "video",
    labelled: bool = True,
    by_class: bool = True,
) -> tuple[Dataset, Dataset | None, bool]:
    """What to train on and what to validate on, and whether the latter was held out of the former, not given.

    It is held out where no validation split is given, or a single list is; nothing is, if the fraction is 0. For the other
    arguments see [`load_media`].
    """
    train, validation = (load_media(data, split, root, data_config, media, labelled) for split in ("train", "val"))
    if train is None:
        raise ValueError(f"{data} has no training {media}s.")
    if validation is not None and not Path(data).is_file():
        return train, validation, False
    if validation_fraction == 0:
        return train, None, False
    return *hold_out(train, validation_fraction, seed, by_class), True


def read_class_folders(folder: Path, media: Media = "video") -> Dataset:
    """Videos or images from a folder that has one folder a class."""
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        example = {"video": "VIDEO.mp4", "image": "IMAGE.jpg"}[media]
        raise ValueError(
            f"{folder} has no class folders: expected {folder}/CLASS/{example}, a list, or train/val/test folders."
        )
    paths, labels, others = [], [], Counter()
    for label, name in enumerate(classes):
        found = find_files(folder / name, media, of_class := Counter())
        if not found:
            raise ValueError(f"The class folder {folder / name} has no {media}s{passed_over(of_class)}.")
        others += of_class
        paths += _names_in_table(found)
        labels += [label] * len(found)
    report_passed_over(folder, media, len(paths), others)
    features = Features({media: Value("string"), "label": ClassLabel(names=classes)})
    return Dataset.from_dict({media: paths, "label": labels}, features)


def read_unlabelled_folder(folder: Path, media: Media = "video") -> Dataset:
    """All videos or images in a folder, at whatever depth."""
    return Dataset.from_dict({media: _names_in_table(search_folder(folder, media))})


def read_list(path: Path, root: str | None = None, media: Media = "video", labelled: bool = True) -> Dataset:
    """Videos or images from a list as the official code takes it, separated by commas or spaces.

    A line is `path label`, `path label seconds`, or `folder num_frames label` for a folder with one picture a frame; without
    labels, just `path`, see [`_path_and_more`]. A first line whose second field is `label`, `class` or the like is a header.
    Labels are class ids, class names, or values to regress. The path of a video may be an http(s) address.

    Without labels, lines that begin with `#` and a header that is just `path` or `video` are left out.
    """
    start = Path(root) if root is not None else path.parent
    rows = _rows_of(path, start, media, labelled)
    if not rows:
        raise ValueError(f"The list {path} is empty.")

    has_frame_folders = any(len(row) == 3 and (start / row[0].strip()).is_dir() for row in rows)
    columns = {media: [], "label": [], "duration": []}
    for row in rows:
        fields = [field.strip() for field in row]
        if len(fields) == 1 and not labelled:
            fields.append("")
        if len(fields) not in (2, 3):
            raise ValueError(f"{path}: expected `path label`, `path label duration` or `folder frames label`, got {row}.")
        file = start / fields[0]
        is_frame_folder = len(fields) == 3 and (file.is_dir() or (has_frame_folders and not file.exists()))
        duration = None
        if len(fields) == 3 and not is_frame_folder:
            try:
                duration = float(fields[2])
            except ValueError:
                raise ValueError(f"{path}: the third field of {row} is no number of seconds.") from None
        columns[media].append(fields[0] if is_address(fields[0]) else str(file))
        columns["label"].append(fields[2] if is_frame_folder else fields[1])
        columns["duration"].append(duration)
    if None in columns["duration"]:
        del columns["duration"]
    columns["label"] = _numbers(columns["label"])
    if not labelled:
        del columns["label"]

    missing = [file for file in columns[media] if not is_address(file) and not os.path.exists(file)]
    if len(missing) == len(rows):
        raise FileNotFoundError(
            f"None of the {len(rows)} {media}s in {path} exists, the first is {missing[0]}. Relative paths start from "
            f"{start}: say otherwise with --media_root."
        )
    return Dataset.from_dict(columns)


def cut_into_windows(videos: Dataset, length: float, stride: float) -> Dataset:
    """A row for every window of every video; lengths in seconds, see [`lvu_windows`]. The videos need a `duration`."""
    if "duration" not in videos.column_names:
        raise ValueError("Windows need a list whose third column is the duration of the video in seconds.")
    rows = [
        row | {"start": start, "end": end} for row in videos for start, end in lvu_windows(row["duration"], length, stride)
    ]
    return Dataset.from_list(rows, Features(videos.features | {"start": Value("float64"), "end": Value("float64")}))


def write_list(videos: Dataset, path: Path) -> None:
    """Writes a list that [`read_list`] takes, if the videos are files: bytes are left out."""
    feature = videos.features["label"]
    with path.open("w", encoding="utf-8", newline="") as file:
        for row in videos:
            if isinstance(source := source_of(row), str):
                label = label_field(feature, row["label"])
                duration = [row["duration"]] if "duration" in row else []
                place = source if is_address(source) else Path(source).absolute()
                csv.writer(file).writerow([place, label, *duration])


def hold_out(videos: Dataset, fraction: float, seed: int, by_class: bool = True) -> tuple[Dataset, Dataset]:
    """The videos without, and those of, a random part of every class, or of all if labels are values or there are none.

    Or of all if not `by_class`, as where a video has several labels.

    Each class keeps at least one video, and of two or more gives at least one.
    """
    by_label: dict = {}
    labels = videos["label"] if by_class and "label" in videos.column_names else [None] * len(videos)
    for index, label in enumerate(labels):
        by_label.setdefault(None if isinstance(label, float) else label, []).append(index)
    random = np.random.default_rng(seed)
    held_out = []
    for indices in by_label.values():
        count = min(max(round(fraction * len(indices)), 1), len(indices) - 1)
        held_out += random.permutation(indices)[:count].tolist()
    kept = sorted(set(range(len(videos))) - set(held_out))
    return videos.select(kept), videos.select(sorted(held_out))


def label_names(videos: Dataset) -> list[str] | None:
    """Names of the classes, in the order of their ids if they have ids; `None` if labels are bare numbers."""
    label = videos.features["label"]
    if isinstance(label, List):
        raise ValueError("A video has several labels: --problem_type multi_label_classification learns them.")
    if isinstance(label, ClassLabel):
        return label.names
    return sorted(set(videos["label"])) if label.dtype in ("string", "large_string") else None


def label_ids(videos: Dataset, label2id: dict[str, int], where: str) -> list[int]:
    """The labels of all videos as ids of the model's head.

    Raises:
        ValueError: naming the labels that the head does not have.
    """
    names = label_names(videos)
    labels = list(videos["label"])
    if None in labels or (names is not None and -1 in labels):
        raise ValueError(f"{where} has videos without a label.")
    if names is None:
        strangers = sorted({label for label in labels if label not in range(len(label2id))})
    else:
        labels = [names[label] if isinstance(label, int) else label for label in labels]
        strangers = [name for name in names if name not in label2id]
    if strangers:
        some = ", ".join(repr(label) for label in strangers[:5]) + (", ..." if len(strangers) > 5 else "")
        head = ", ".join(list(label2id)[:5])
        raise ValueError(
            f"{where} has labels that the model's head of {len(label2id)} does not have: {some}. It has {head}, ..."
        )
    return [int(label) for label in labels] if names is None else [label2id[name] for name in labels]


def label_values(videos: Dataset, where: str) -> list[float]:
    """The labels of all videos as numbers to regress."""
    if (names := label_names(videos)) is not None:
        raise ValueError(f"{where}: regression needs numbers as labels, got names such as {names[0]!r}.")
    return [float(label) for label in videos["label"]]


def source_of(row: dict) -> str | dict:
    """The path of a row's video or image, or `{"path": ..., "bytes": ...}`."""
    return row["image"] if "image" in row else row["video"]


def name_of(row: dict) -> str:
    """What a message calls a row's video or image."""
    source = source_of(row)
    return source if isinstance(source, str) else source.get("path") or f"<{len(source['bytes'])} bytes>"


def _names_in_table(files: list[Path]) -> list[str]:
    """Paths as a table can hold them: a name that is no UTF-8 becomes one that no file has, so it counts as unreadable."""
    return [printable(str(file)) for file in files]


def _load_hub(name: str, split: str, config: str | None, media: Media, labelled: bool) -> Dataset | None:
    try:
        dataset = datasets.load_dataset(name, config)
    except (datasets.exceptions.DatasetNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(f"{name} is no folder, no list and no data set that the hub gives: {error}") from error
    return _pick_split(dataset, split, media, labelled)


def _pick_split(
    dataset: Dataset | datasets.DatasetDict, split: str, media: Media = "video", labelled: bool = True
) -> Dataset | None:
    if isinstance(dataset, datasets.DatasetDict):
        dataset = next((dataset[name] for name in SPLIT_NAMES.get(split, ()) if name in dataset), None)
    elif split not in ("train", "all"):
        return None
    if dataset is None:
        return None
    columns = {_column(dataset, media, FEATURES[media]): media}
    if labelled:
        columns[_column(dataset, "label", ClassLabel)] = "label"
    dataset = dataset.select_columns(list(columns)).rename_columns(columns)
    is_decoded = isinstance(dataset.features[media], FEATURES[media])
    return dataset.cast_column(media, FEATURES[media](decode=False)) if is_decoded else dataset


def _column(dataset: Dataset, name: str, feature_type: type) -> str:
    """The column of that name, or else the only one of that type."""
    if name in dataset.column_names:
        return name
    candidates = [column for column, feature in dataset.features.items() if isinstance(feature, feature_type)]
    if len(candidates) != 1:
        raise ValueError(
            f"The data set has no column {name!r} and not just one {feature_type.__name__}: {dataset.column_names}. "
            "Rename the right one and save it, `dataset.rename_column(...).save_to_disk(...)`."
        )
    return candidates[0]


def _splits_in(folder: Path, suffix: str) -> dict[str, Path]:
    """What `folder` has for each split: `train.csv`, `validation.csv`, or with an empty suffix the folders `train`, `val`."""
    paths = {split: [folder / f"{name}{suffix}" for name in names] for split, names in SPLIT_NAMES.items()}
    found = {split: next((path for path in candidates if path.exists()), None) for split, candidates in paths.items()}
    return {split: path for split, path in found.items() if path is not None}


def _rows_of(path: Path, root: Path, media: Media, labelled: bool) -> list[list[str]]:
    """The fields of all lines of a list, without its header."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"The list {path} is no text in UTF-8: {error}.") from error
    if not labelled:
        lines = [line for line in map(str.strip, lines) if not line.startswith("#") or os.path.exists(root / line)]
        if lines and lines[0].lower() in ("path", media):
            lines = lines[1:]
    separated_by_commas = bool(lines) and "," in lines[0]
    rows = list(csv.reader(lines)) if separated_by_commas else [_split_at_spaces(line, root, media) for line in lines]
    if rows and len(rows[0]) > 1 and rows[0][1].strip().lower() in HEADERS:
        return rows[1:]
    return rows if labelled else [_path_and_more(line, root, media) for line in lines]


def _path_and_more(line: str, root: Path, media: Media) -> list[str]:
    """The line as a path or address, unless it has a label or more after one, as a labelled list does without a header."""

    def is_path(text: str) -> bool:
        return Path(text).suffix.lower() in SUFFIXES[media] or os.path.exists(root / text)

    if is_path(line):
        return [line]
    for fields in (next(csv.reader([line])), _split_at_spaces(line, root, media)):
        if (first := fields[0].strip()) and is_path(first):
            return fields
    return [line]


def _split_at_spaces(line: str, root: Path, media: Media) -> list[str]:
    """Fields of a line whose path may itself hold spaces."""
    if Path(line).suffix.lower() in SUFFIXES[media]:
        return [line]
    three = line.rsplit(maxsplit=2)
    two = line.rsplit(maxsplit=1)
    is_two = len(three) < 3 or Path(two[0]).suffix.lower() in SUFFIXES[media] or os.path.exists(root / two[0])
    return two if is_two else three


def _numbers(labels: list[str]) -> list[int] | list[float] | list[str]:
    for number in (int, float):
        try:
            return [number(label) for label in labels]
        except ValueError:
            continue
    return labels
