"""A picture of what a classifier saw of videos, and of its answers."""

import torch
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import pad


MOST_FRAMES = 8


def frame_strip(clip: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """Frames side by side, with gaps of white, as colours `(height, width of the strip, 3)` from 0 to 1.

    Args:
        clip: what the model gets, `(frames, 3, height, width)`; of more than 8 frames, 8 are shown.
        mean, std: what it was normalised with.
    """
    chosen = torch.linspace(0, len(clip) - 1, min(len(clip), MOST_FRAMES)).round().int()
    frames = clip.cpu()[chosen].permute(2, 0, 3, 1)  # (height, frames, width, 3)
    colours = (frames * torch.tensor(std) + torch.tensor(mean)).clip(0, 1)
    gap = -(-frames.shape[2] // 32)
    return pad(colours, (0, 0, 0, gap), value=1).flatten(1, 2)[:, :-gap]


def picture_suffixes() -> set[str]:
    """What the name of a figure's file may end in."""
    return {f".{kind}" for kind in FigureCanvasBase.get_supported_filetypes()}


def draw_answers(rows: list[tuple[str, Tensor, list[str], list[float]]]) -> Figure:
    """A row for every video: its name, its strip of frames, and its answers on bars, whose lengths are from 0 to 1."""
    height, width, _ = rows[0][1].shape
    widths = [width / height, 2.5]  # of frames and answers, in heights of a frame
    figure = Figure(figsize=(1.4 * sum(widths), 1.7 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 2, width_ratios=widths, squeeze=False)
    for (left, right), (name, strip, answers, bars) in zip(axes, rows):
        left.imshow(strip.numpy())
        left.set_title(name if len(name) <= 100 else f"…{name[-100:]}", loc="left", fontsize=9, parse_math=False)
        left.axis("off")
        right.barh(range(len(bars)), bars, color="lightsteelblue")
        for place, answer in enumerate(answers):
            right.text(0.02, place, answer, va="center", fontsize=9, parse_math=False)
        right.set(xlim=(0, 1))
        right.invert_yaxis()  # the likeliest on top
        right.axis("off")
    return figure
