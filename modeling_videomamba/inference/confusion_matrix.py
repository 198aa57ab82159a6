"""A picture of which labels a classifier takes for which."""

from textwrap import shorten

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure


MOST_NAMED = (
    30  # labels whose names, shares and counts fit into the picture; with more, the most frequent confusions are listed
)


def draw_confusion_matrix(labels: list[int], predictions: list[int], names: list[str]) -> Figure:
    """A row for every label and a column for every prediction: the share of the row, and the number of videos.

    Args:
        labels, predictions: class ids, one a video.
        names: of all classes, by id. Classes that are neither a label nor a prediction get no row.
    """
    present = np.unique([*labels, *predictions])
    names = [shorten(names[i], 40, placeholder="…") for i in present]
    counts = np.zeros((len(present), len(present)), dtype=int)
    np.add.at(counts, (np.searchsorted(present, labels), np.searchsorted(present, predictions)), 1)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)

    is_named = len(present) <= MOST_NAMED
    side = 3 + 0.45 * len(present) if is_named else 9
    figure = Figure(figsize=(side if is_named else side + 6, side), layout="constrained")
    matrix, *listing = figure.subplots(1, 1 if is_named else 2, width_ratios=[1] if is_named else [9, 6], squeeze=False)[0]
    norm = PowerNorm(0.4, vmin=0, vmax=1)  # few confusions are to be seen beside many right ones
    image = matrix.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest")
    matrix.set(xlabel="prediction", ylabel="label", title=f"{np.trace(counts)} of {counts.sum()} videos right")
    if is_named:
        matrix.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
        matrix.set_yticks(range(len(names)), names, parse_math=False)
        for row, column in np.argwhere(counts):
            color = "white" if norm(shares[row, column]) > 0.6 else "black"
            text = f"{shares[row, column]:.0%}\n{counts[row, column]}"
            matrix.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
    else:
        some = range(0, len(present), -(-len(present) // 20))
        matrix.set_xticks(some, present[some], rotation=90)
        matrix.set_yticks(some, present[some])
        figure.colorbar(image, ax=matrix, shrink=0.5, label="share of the label's videos")
        listing[0].axis("off")
        confusions = "\n".join(_most_frequent_confusions(counts, names))
        listing[0].text(0, 1, confusions, va="top", fontsize=9, parse_math=False)
    return figure


def _most_frequent_confusions(counts: np.ndarray, names: list[str], how_many: int = 35) -> list[str]:
    wrong = counts * (1 - np.eye(len(counts), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:how_many]
    pairs = [np.unravel_index(i, wrong.shape) for i in order if wrong.flat[i]]
    return ["most frequent confusions", *(f"{wrong[pair]} ×  {names[pair[0]]}  →  {names[pair[1]]}" for pair in pairs)]
