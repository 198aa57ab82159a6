"""Several labels a video: read from a table of videos, as vectors of 0 and 1.

In a list they are one field, `path,cat;dog`, of names or of ids, and a field without any is empty. In a `datasets` data set
the column `label` has lists: of names, of ids (`ClassLabel` or integers), or, if all are as long as there are labels and have
bool or float values, of one value a label.
"""

from datasets import ClassLabel, Dataset, List, Value

from .text_files import shorten


SEPARATOR = ";"
MOST_LABELS = 1_000_000
MOST_DIGITS = 18  # of an id in 64 bits


def label_set_names(videos: Dataset) -> list[str] | None:
    """The names of all labels, in the order of their ids if they have ids; `None` if labels are bare numbers."""
    feature = _element(videos)
    if isinstance(feature, ClassLabel):
        return feature.names
    if _has_vectors(videos):
        return None
    labels = {label for labels in _lists(videos) for label in labels}
    return None if all(isinstance(label, int) for label in labels) else sorted(map(str, labels))


def num_label_sets(videos: Dataset, num_labels: int | None = None) -> int:
    """How many labels there are, where they are bare numbers, see [`size_of_head`]."""
    if _has_vectors(videos):
        return len(videos[0]["label"])
    return size_of_head(videos, _lists(videos), num_labels)


def size_of_head(videos: Dataset, ids: list[list[int]], num_labels: int | None = None) -> int:
    """One more than the largest of the ids of all videos, or `num_labels`.

    Raises:
        ValueError: if labels are missing or are not ids, or if an id is too large. Without `num_labels`, an id must be below
            1,000 or ten times the number of different ids: some classes may be missing in the data, but not nearly all.
    """
    if num_labels is not None and not 1 <= num_labels <= MOST_LABELS:
        raise ValueError(f"--num_labels must be between 1 and {MOST_LABELS:,}, got {num_labels}.")
    different = {label for labels in ids for label in labels}
    bound = max(1000, 10 * len(different)) if num_labels is None else num_labels
    for index, labels in enumerate(ids):
        for label in labels:
            if not isinstance(label, int) or label < 0:
                raise ValueError(f"{origin_of(videos, index)}: expected a class id, 0 or more, got {label}.")
            if label >= bound and num_labels is None:
                raise ValueError(
                    f"{origin_of(videos, index)}: the class id {label} is very large for data with {len(different)} different "
                    "ids. If it is right, say how many classes there are, with --num_labels."
                )
            if label >= bound:
                raise ValueError(f"{origin_of(videos, index)}: the class id {label} is not below --num_labels {num_labels}.")
    return num_labels or max(different, default=0) + 1


def origin_of(videos: Dataset, index: int) -> str:
    """Words that say where a row is from."""
    return videos[index].get("listed") or f"row {index + 1}"


def label_vectors(videos: Dataset, id2label: dict[int, str], where: str) -> list[list[float]]:
    """For every video a 1 for each of its labels among those of the model's head, else a 0: `(videos, num_labels)`.

    Raises:
        ValueError: naming a label that the head does not have.
    """
    feature, names, has_vectors = _element(videos), label_set_names(videos), _has_vectors(videos)
    size, label2id = len(id2label), {name: i for i, name in id2label.items()}
    vectors = []
    for labels in videos["label"] if has_vectors else _lists(videos):
        if has_vectors:
            if len(labels) != size or not set(map(float, labels)) <= {0.0, 1.0}:
                raise ValueError(f"{where}: expected {size} values of 0 or 1 for each video, got {labels}.")
            vectors.append([float(label) for label in labels])
            continue
        vector = [0.0] * size
        for label in labels:
            name = names[label] if isinstance(feature, ClassLabel) else str(label)
            place = label2id.get(name, -1) if names is not None else label
            if place not in range(size):
                head = ", ".join([id2label[i] for i in range(min(5, size))])
                raise ValueError(f"{where} has the label {name!r}, which the model's head does not have. It has {head}, ...")
            vector[place] = 1.0
        vectors.append(vector)
    return vectors


def label_field(feature: object, label: object) -> str | int | float:
    """What a list says of a video: its label, by name if it has one, or all of its labels, joined."""
    element = feature.feature if isinstance(feature, List) else feature
    labels = label if isinstance(label, list) else [label]
    if isinstance(feature, List) and _is_vector(element):
        labels = [i for i, is_there in enumerate(labels) if is_there]
    if isinstance(element, ClassLabel):
        labels = [element.names[i] for i in labels]
    return SEPARATOR.join(map(str, labels)) if isinstance(feature, List) else labels[0]


def _element(videos: Dataset) -> object:
    """The feature of one label."""
    feature = videos.features["label"]
    return feature.feature if isinstance(feature, List) else feature


def _is_vector(feature: object) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("bool", "float16", "float32", "float64")


def _has_vectors(videos: Dataset) -> bool:
    """Whether each video has one value a label, of bool or float."""
    return isinstance(videos.features["label"], List) and _is_vector(_element(videos))


def _lists(videos: Dataset) -> list[list[int] | list[str]]:
    """The labels of every video: ids, if all of a list's labels are numbers.

    Raises:
        ValueError: naming a number that is not an id.
    """
    columns = list(videos["label"])
    if isinstance(videos.features["label"], List):
        return [labels or [] for labels in columns]
    if all(isinstance(label, int) for label in columns):
        return [[label] for label in columns]
    fields = [[part for text in str(label).split(SEPARATOR) if (part := text.strip())] for label in columns]
    if not all(_is_number(part) for parts in fields for part in parts):
        return fields
    for index, parts in enumerate(fields):
        for part in parts:
            if not part.isdecimal() or len(part) > MOST_DIGITS:
                raise ValueError(f"{origin_of(videos, index)}: expected class ids, 0 or more, got {shorten(part)}.")
    return [[int(part) for part in parts] for parts in fields]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # which Python takes for numbers: 1_0 is 10
