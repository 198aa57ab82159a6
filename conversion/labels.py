"""Label names of the data sets that released checkpoints were trained on, or of a file."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError


# data set -> its file in the hub's data set huggingface/label-files
LABEL_FILES = {
    "kinetics-400": "kinetics400-id2label.json",
    "something-something-v2": "something-something-v2-id2label.json",
    "imagenet-1k": "imagenet-1k-id2label.json",
}


BREAKFAST = ["cereals", "coffee", "tea", "pancake", "friedegg", "scrambledegg", "sandwich", "juice", "milk", "salat"]


def load_labels(source: str, num_labels: int | None = None) -> dict[int, str]:
    """Label names by class id.

    Args:
        source: a key of `LABEL_FILES`, looked up on the hub (offline: in torchvision, which lacks Something-Something);
            "breakfast"; or a file, JSON (a list, or an object from id to name) or text with one name a line.
        num_labels: how many there must be, if that is known.

    Raises:
        ValueError: if there is no such file or it is not a label file, it names two classes alike, the hub is out of reach, or
            the number of names is wrong.
    """
    if source == "breakfast":
        names = dict(enumerate(BREAKFAST))
    elif source in LABEL_FILES:
        names = _data_set_labels(source)
    elif Path(source).is_file():
        names = _read_file(Path(source))
        _check_distinct(Path(source), names)
    else:
        raise ValueError(f"No such label file: {source}. Give a file, or one of: {', '.join(LABEL_FILES)}, breakfast.")
    if num_labels is None:
        num_labels = len(names)
    if missing := set(range(num_labels)) ^ names.keys():
        few = ", ".join(map(str, sorted(missing)[:5]))
        raise ValueError(
            f"{source} names {len(names)} labels, {num_labels} are wanted: no match for {few}"
            f"{', ...' if len(missing) > 5 else ''}."
        )
    return names


def _read_file(path: Path) -> dict[int, str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = json.loads(text, object_pairs_hook=_without_repeats) if path.suffix == ".json" else text.strip().splitlines()
        if not isinstance(names, dict | list):
            raise TypeError(f"it is a {type(names).__name__}")
        names = {int(i): name for i, name in (names.items() if isinstance(names, dict) else enumerate(names))}
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is not a label file, neither a list of names nor an object from id to name: {error}"
        ) from error
    if not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{path} is not a label file: not every name is a string.")
    return names


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if repeated := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
        raise ValueError(f"the id {repeated[0]} is there twice")
    return dict(pairs)


def _check_distinct(path: Path, names: dict[int, str]) -> None:
    """Of a file of one's own: the data sets' lists have classes of one name, as ImageNet's two cranes."""
    ids: dict[str, int] = {}
    for i, name in names.items():
        if (first := ids.setdefault(name, i)) != i:
            raise ValueError(f"{path} names two classes {name!r}, {first} and {i}: give each a name of its own.")


def _data_set_labels(data_set: str) -> dict[int, str]:
    try:
        path = hf_hub_download("huggingface/label-files", LABEL_FILES[data_set], repo_type="dataset")
        return _read_file(Path(path))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        from torchvision.models import ResNet50_Weights
        from torchvision.models.video import MViT_V2_S_Weights

        offline = {"kinetics-400": MViT_V2_S_Weights.KINETICS400_V1, "imagenet-1k": ResNet50_Weights.IMAGENET1K_V2}
        if data_set in offline:
            return dict(enumerate(offline[data_set].meta["categories"]))
        raise ValueError(
            f"The labels of {data_set} are on the hub only, which is out of reach: give --labels FILE."
        ) from error
