"""Videos or images from a folder, a list, or a `datasets` data set, as one table: a row a file, none of them opened yet.

The columns are `video` or `image` (a path, or `{"path": ..., "bytes": ...}`), `label` (a class id, a name or a value) and, for
windows of long videos, `start` and `end` in seconds. Everything that can be wrong with a list is said here, before anything is
trained.
"""

import csv
import math
import os
import re
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, List, Value, Video

from ..video_sources import is_address
from .label_sets import label_field, origin_of, size_of_head
from .media_files import SUFFIXES, Media, find_files, passed_over, report_passed_over, search_folder
from .outputs import replacing
from .text_files import read_lines, shorten, split_csv


# What the first and the second field of a header say
PATH_HEADER = re.compile(r"(video|image|file|clip)s?([ _-]?(path|name|file))?|paths?", re.IGNORECASE)
LABEL_HEADER = re.compile(
    r"(labels?|class(es)?|categor(y|ies)|targets?|actions?)([ _-]?(id|idx|index|name)s?)?", re.IGNORECASE
)
FEATURES = {"video": Video, "image": Image}
LONGEST = 1_000_000  # seconds that a video can be said to last
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
    root: str | None = None,
    data_config: str | None = None,
    validation_fraction: float = 0.1,
    seed: int = 0,
    media: Media = "video",
    labelled: bool = True,
    by_class: bool = True,
) -> tuple[Dataset, Dataset | None, bool]:
    """What to train on and what to validate on, and whether the latter was held out of the former, not given.

    It is held out where no validation split is given, or a single list is; nothing is, if the fraction is 0. For the other
    arguments see [`load_media`].

    Raises:
        ValueError: also if nothing can be held out.
    """
    train, validation = (load_media(data, split, root, data_config, media, labelled) for split in ("train", "val"))
    if train is None:
        raise ValueError(f"{data} has no training {media}s.")
    if validation is not None and not Path(data).is_file():
        return train, validation, False
    if validation_fraction == 0:
        return train, None, False
    train, validation = hold_out(train, validation_fraction, seed, by_class)
    if len(validation) == 0:
        raise ValueError(
            f"No class of {data} has two {media}s, so none can be held out for validation. Give more, or a validation split."
        )
    return train, validation, True


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
        paths += map(_as_text, found)
        labels += [label] * len(found)
    report_passed_over(folder, media, len(paths), others)
    features = Features({media: Value("string"), "label": ClassLabel(names=list(map(_as_text, classes)))})
    return Dataset.from_dict({media: paths, "label": labels}, features)


def read_unlabelled_folder(folder: Path, media: Media = "video") -> Dataset:
    """All videos or images in a folder, at whatever depth."""
    return Dataset.from_dict({media: list(map(_as_text, search_folder(folder, media)))})


def read_list(path: Path, root: str | None = None, media: Media = "video", labelled: bool = True) -> Dataset:
    """Videos or images from a list as the official code takes it, separated by commas, tabs or spaces.

    A line is `path label`, `path label seconds`, or `folder num_frames label` for a folder with one picture a frame; without
    labels, just `path`, see [`_path_and_more`]. A first line that is not of a file, but says `path,label`, `video,class_id` or
    the like, is a header.
    Labels are class ids, class names, or values to regress. The path of a video may be an http(s) address. The column `listed`
    says where a row is from: `list.csv, line 3`.

    Without labels, lines that begin with `#` and a header that is just `path` or `video` are left out.

    Raises:
        FileNotFoundError, ValueError: naming the list, and the line if it is one that is wrong.
    """
    start = Path(root) if root is not None else path.parent
    rows = _rows_of(path, start, media, labelled)
    if not rows:
        raise ValueError(f"The list {path} is empty.")

    has_frame_folders = any(len(fields) == 3 and os.path.isdir(start / fields[0]) for _, fields in rows)
    columns = {media: [], "label": [], "duration": [], "listed": [where for where, _ in rows]}
    for where, fields in rows:
        if len(fields) == 1 and not labelled:
            fields = [*fields, ""]
        if len(fields) not in (2, 3):
            form = "`path label`, `path label duration` or `folder frames label`"
            raise ValueError(f"{where}: expected {form}, separated by commas, tabs or spaces, got {shorten(fields)}.")
        if not fields[0]:
            raise ValueError(f"{where}: there is no path before the label: {shorten(fields)}.")
        if labelled and any(Path(part).suffix.lower() in SUFFIXES[media] for part in re.split(r"[,;\s]+", fields[-1])):
            form = "a path with spaces needs commas or tabs before the label, one with commas needs quotes"
            raise ValueError(f"{where}: the label holds the name of a file: {shorten(fields)}. In lists, {form}.")
        file = start / fields[0]
        is_frame_folder = len(fields) == 3 and (os.path.isdir(file) or (has_frame_folders and not os.path.exists(file)))
        columns[media].append(fields[0] if is_address(fields[0]) else str(file))
        columns["label"].append(fields[2] if is_frame_folder else fields[1])
        has_duration = len(fields) == 3 and not is_frame_folder
        columns["duration"].append(_duration(fields[2], where) if has_duration else None)
    if None in columns["duration"]:
        del columns["duration"]
    if labelled:
        columns["label"] = _numbers(columns["label"], columns["listed"])
    else:
        del columns["label"]

    missing = [file for file in columns[media] if not is_address(file) and not os.path.exists(file)]
    if len(missing) == len(rows):
        raise FileNotFoundError(
            f"None of the {len(rows)} {media}s in {path} exists, the first is {shorten(missing[0])}. "
            f"Relative paths start from {start}: say otherwise with --media_root."
        )
    return Dataset.from_dict(columns)


def write_list(videos: Dataset, path: Path) -> None:
    """Writes a list that [`read_list`] takes, if the videos are files: bytes are left out."""
    feature = videos.features["label"]
    with replacing(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
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
    return sorted(set(videos["label"]) - {None, ""}) if label.dtype in ("string", "large_string") else None


def count_classes(videos: Dataset, num_labels: int | None = None) -> int:
    """The size of a head for labels that are bare ids, see [`size_of_head`]."""
    return size_of_head(videos, [[label] for label in videos["label"]], num_labels)


def label_ids(videos: Dataset, id2label: dict[int, str], where: str) -> list[int]:
    """The labels of all videos as ids of the model's head.

    Raises:
        ValueError: naming the labels that the head does not have, or has twice.
    """
    names = label_names(videos)
    labels = list(videos["label"])
    for index, label in enumerate(labels):
        if label in (None, "") or (names is not None and label == -1):
            raise ValueError(f"{where} has videos without a label, the first in {origin_of(videos, index)}.")
    if names is None:
        known: dict = {float(i): i for i in id2label}
    else:
        labels = [names[label] if isinstance(label, int) else label for label in labels]
        known = {name: i for i, name in id2label.items()}
        heads = Counter(id2label.values())
        if repeated := [name for name in names if heads[name] > 1]:
            raise ValueError(f"The model has several labels named {repeated[0]!r}, so {where} needs class ids, not names.")
    strangers = sorted({label for label in labels if label not in known})
    if strangers:
        some = ", ".join(map(shorten, strangers[:5])) + (", ..." if len(strangers) > 5 else "")
        head = ", ".join(list(id2label.values())[:5])
        raise ValueError(
            f"{where} has labels that the model's head of {len(id2label)} does not have: {some}. It has {head}, ... "
            f"The first is in {origin_of(videos, labels.index(strangers[0]))}."
        )
    return [known[label] for label in labels]


def label_values(videos: Dataset, where: str) -> list[float]:
    """The labels of all videos as numbers to regress.

    Raises:
        ValueError: if there are others.
    """
    if (names := label_names(videos)) is not None:
        raise ValueError(f"{where}: regression needs numbers as labels, got names such as {names[0]!r}.")
    labels = list(videos["label"])
    for index, label in enumerate(labels):
        if label is None or not math.isfinite(label):
            raise ValueError(f"{origin_of(videos, index)}: regression needs a finite number, got {label}.")
    return [float(label) for label in labels]


def source_of(row: dict) -> str | dict:
    """The path of a row's video or image, or `{"path": ..., "bytes": ...}`."""
    return row["image"] if "image" in row else row["video"]


def name_of(row: dict) -> str:
    """What a message calls a row's video or image."""
    source = source_of(row)
    return source if isinstance(source, str) else source.get("path") or f"<{len(source['bytes'])} bytes>"


def folder_names(videos: Dataset) -> list[str]:
    """The names of the folders that the files of a table are in, which may say what is in them."""
    column = videos["image" if "image" in videos.column_names else "video"]
    sources = (source["path"] if isinstance(source, dict) else source for source in column)
    return sorted({Path(source).parent.name for source in sources if source is not None})


def _as_text(name: str | Path) -> str:
    """A name as a table can hold it: one that is not UTF-8 becomes one that no file has, so the file counts as unreadable."""
    return str(name).encode("utf-8", "backslashreplace").decode("utf-8")


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


def _rows_of(path: Path, root: Path, media: Media, labelled: bool) -> list[tuple[str, list[str]]]:
    """The fields of all lines of a list, without its header, each after the words that say where it is."""
    lines = [(where, line.strip()) for where, line in read_lines(path)]
    if not labelled:
        lines = [(where, line) for where, line in lines if not _is_comment(line, root, media)]
    if not lines:
        return []

    where, first = lines[0]
    by_commas = "," in first and "\t" not in first
    names = [name.strip(' "') for name in (first.split(",") if by_commas else _split_at_spaces(first, root, media))]
    is_file = is_address(names[0]) or Path(names[0]).suffix.lower() in SUFFIXES[media] or os.path.exists(root / names[0])
    has_labels = not is_file and len(names) > 1 and LABEL_HEADER.fullmatch(names[1]) is not None
    has_header = has_labels or (not is_file and PATH_HEADER.fullmatch(names[0]) is not None)
    if labelled and has_header and not has_labels:
        form = "the second column of a list is that of labels, called `label` or `class`"
        raise ValueError(f"{where}: {form}, not as in the header {shorten(first)}.")
    if labelled or has_labels:
        return [
            (where, _split_at_commas(line, where) if by_commas else _split_at_spaces(line, root, media))
            for where, line in lines[has_header:]
        ]
    return [(where, _path_and_more(line, where, root, media)) for where, line in lines[has_header:]]


def _is_comment(line: str, root: Path, media: Media) -> bool:
    """Whether a line begins with `#`, which is not the name of a file there."""
    names = line, line.split(",")[0], _split_at_spaces(line, root, media)[0]
    return line.startswith("#") and not any(os.path.exists(root / name) for name in names)


def _path_and_more(line: str, where: str, root: Path, media: Media) -> list[str]:
    """The line as a path or address, unless it has a label or more after one, as a labelled list does without a header."""

    def is_path(text: str) -> bool:
        return Path(text).suffix.lower() in SUFFIXES[media] or os.path.exists(root / text)

    if is_path(line):
        return [line]
    for fields in (_split_at_commas(line, where), _split_at_spaces(line, root, media)):
        if (first := fields[0]) and is_path(first):
            return fields
    return [line]


def _split_at_commas(line: str, where: str) -> list[str]:
    """Fields of a line of CSV, without empty ones after the second, which spreadsheets add to short lines."""
    fields = split_csv(line, where)
    while len(fields) > 2 and not fields[-1]:
        fields.pop()
    return fields


def _split_at_spaces(line: str, root: Path, media: Media) -> list[str]:
    """Fields of a line whose path may itself hold spaces; at its tabs, if it has some."""
    if Path(line).suffix.lower() in SUFFIXES[media]:
        return [line]
    if "\t" in line:
        return [field.strip() for field in line.split("\t") if field.strip()]
    three = line.rsplit(maxsplit=2)
    two = line.rsplit(maxsplit=1)
    is_two = len(three) < 3 or Path(two[0]).suffix.lower() in SUFFIXES[media] or os.path.exists(root / two[0])
    return two if is_two else three


def _duration(text: str, where: str) -> float:
    try:
        duration = float(text)
    except ValueError:
        duration = math.nan
    if not 0 < duration <= LONGEST:
        raise ValueError(
            f"{where}: the third field is not a number of seconds, above 0 and up to {LONGEST:,}: {shorten(text)}."
        )
    return duration


def _numbers(labels: list[str], listed: list[str]) -> list[int] | list[float] | list[str]:
    """All labels as whole numbers, else all as numbers, else all as they are, as if one is missing.

    Raises:
        ValueError: for a number that no computer counts with.
    """
    if any("_" in label for label in labels):  # which Python takes for numbers: 1_0 is 10
        return labels
    for number in (int, float):
        try:
            numbers = [number(label) for label in labels]
        except ValueError:
            continue
        for value, label, where in zip(numbers, labels, listed):
            if not -(2**63) <= value < 2**63:  # nor is nan
                raise ValueError(f"{where}: the label {shorten(label)} is not finite, or larger than any label can be.")
        return numbers
    return labels
