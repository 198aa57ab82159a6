"""Label names of the data sets that released checkpoints were trained on, or of a file."""

import re
import unicodedata
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError

from ..data.text_files import parse_json, read_text, shorten
from .download import fetch


# data set -> its file in the hub's data set huggingface/label-files
LABEL_FILES = {
    "kinetics-400": "kinetics400-id2label.json",
    "something-something-v2": "something-something-v2-id2label.json",
    "imagenet-1k": "imagenet-1k-id2label.json",
}


WITH_ID = re.compile(r"(\d{1,9})[\s,;:]+\S")  # a class id before a name, as in UCF101's classInd.txt
BREAKFAST = ["cereals", "coffee", "tea", "pancake", "friedegg", "scrambledegg", "sandwich", "juice", "milk", "salat"]


def load_labels(source: str, num_labels: int | None = None, **cache_options) -> dict[int, str]:
    """Label names by class id.

    Args:
        source: a key of `LABEL_FILES`, looked up on the hub (offline: in torchvision, which lacks Something-Something);
            "breakfast"; or a file, JSON (a list, or an object from id to name) or text with one name a line, each once.
        num_labels: how many there must be, if that is known.
        cache_options: `cache_dir` and `local_files_only` of [`fetch`].

    Raises:
        ValueError: if there is no such file, its content or the number of names is wrong, or the hub is out of reach.
    """
    if source == "breakfast":
        names = dict(enumerate(BREAKFAST))
    elif source in LABEL_FILES:
        names = _data_set_labels(source, cache_options)
    elif Path(source).is_file():
        names = _read_file(Path(source))
    else:
        raise ValueError(f"No such label file: {source}. Give a file, or one of: {', '.join(LABEL_FILES)}, breakfast.")
    num_labels = len(names) if num_labels is None else num_labels
    missing = sorted(set(range(len(names))) - names.keys())  # of as many ids as there are names: the others are too large
    if missing or num_labels != len(names):
        few = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        wrong = f"has no name for {few}" if missing else f"names {len(names)} labels, {num_labels} are wanted"
        raise ValueError(f"{source} {wrong}.")
    return names


def _read_file(path: Path) -> dict[int, str]:
    """The names in a person's file. (Those on the hub may repeat: ImageNet has two cranes.)"""
    places: dict[str, str] = {}
    names = {}
    for i, (where, name) in _parse_file(path).items():
        name = name.strip() if isinstance(name, str) else name
        if not isinstance(name, str) or not name or not all(map(_is_printed, name)):
            raise ValueError(f"{where}: expected the name of a label, got {shorten(name)}.")
        if name in places:
            raise ValueError(f"{where}: the label {name!r} is there already, in {places[name]}. Give each its own name.")
        places[name] = where
        names[i] = name
    numbers = [int(match[1]) for name in names.values() if (match := WITH_ID.match(name))]
    if len(numbers) == len(names) > 1 and numbers in (list(range(len(names))), list(range(1, len(names) + 1))):
        raise ValueError(f"{path}: the names begin with numbers, such as {next(iter(names.values()))!r}. Leave them out.")
    return names


def _is_printed(character: str) -> bool:
    """Whether it is neither a control character nor half of one, which no table or file of UTF-8 holds."""
    return unicodedata.category(character) not in ("Cc", "Cs")


def _parse_file(path: Path) -> dict[int, tuple[str, object]]:
    """By id, where a name is and what is there."""
    if path.suffix != ".json":
        lines = read_text(path).rstrip().split("\n")
        return {i: (f"{path}, line {i + 1}", line.strip()) for i, line in enumerate(lines)}
    content = parse_json(read_text(path), str(path))
    if isinstance(content, list):
        return {i: (f"{path}, item {i + 1}", name) for i, name in enumerate(content)}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a list of names or an object from id to name, got {shorten(content)}.")
    names = {}
    for key, name in content.items():
        if not (key.isascii() and key.isdigit() and len(key) < 10) or int(key) in names:
            raise ValueError(f"{path}, item {key!r}: expected a class id, 0 or more and each once, before the name.")
        names[int(key)] = f"{path}, item {key!r}", name
    return names


def _data_set_labels(data_set: str, cache_options: dict) -> dict[int, str]:
    try:
        path = fetch("huggingface/label-files", LABEL_FILES[data_set], repo_type="dataset", **cache_options)
        return {i: name for i, (_, name) in _parse_file(path).items()}
    except (HfHubHTTPError, OSError) as error:
        from torchvision.models import ResNet50_Weights
        from torchvision.models.video import MViT_V2_S_Weights

        offline = {"kinetics-400": MViT_V2_S_Weights.KINETICS400_V1, "imagenet-1k": ResNet50_Weights.IMAGENET1K_V2}
        if data_set in offline:
            return dict(enumerate(offline[data_set].meta["categories"]))
        raise ValueError(
            f"The labels of {data_set} are on the hub only, which is out of reach: give --labels FILE."
        ) from error
