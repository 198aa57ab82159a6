"""Renders a small data set to try the stages of pretraining on: handwritten digits before photographs, images and clips.

    pip install scikit-image scikit-learn  # for their bundled digits and photographs, nothing is downloaded
    python -m examples.demos.render_digits digits

writes digits/images/{train,val,test}/{digit}/*.png, digits/clips/{train,val,test}/{digit}_{left,right}/*.mp4 and, for
fine-tuning with few labels, digits/few_labels/{train,val,test}.csv, whose training clips are a part of the others. In a clip a
digit crosses the picture while the photograph behind it drifts: a single frame shows the digit, only their order whether it
goes to the left or to the right. No handwritten digit and no photograph is in two splits.
"""

import csv
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate
from torchvision.transforms.v2.functional import to_pil_image
from tqdm import tqdm

from examples.demos.render_demo_clips import PHOTOGRAPHS, load, vary, write
from modeling_videomamba.commands.command_line import run_command
from modeling_videomamba.commands.parser import DataclassParser


DIGITS = {"train": slice(0, 1000), "val": slice(1000, 1300), "test": slice(1300, 1797)}  # of scikit-learn's 1,797
SIZE = 32  # of a picture in pixels
NUM_FRAMES = 8
IMAGES_PER_CLASS = {"train": 400, "val": 50, "test": 100}
CLIPS_PER_CLASS = {"train": 60, "val": 10, "test": 30}
BRIGHTNESS = 0.5  # of the photographs, so that one can read the digits
FEW_LABELS = 10  # clips of a class


class Pictures:
    """The digits and photographs of a split."""

    def __init__(self, digits: np.ndarray, labels: np.ndarray, photographs: list[Tensor]):
        self.digits, self.labels = torch.from_numpy(digits / 16).float(), labels
        self.photographs = [_shrink(photograph) for photograph in photographs]

    def draw(self, label: int, path: np.ndarray, random: np.random.Generator) -> Tensor:
        """Frames of a digit of that label before a photograph, see [`draw_frames`]."""
        photograph = vary(self.photographs[random.integers(len(self.photographs))], random)
        digit = self.digits[random.choice(np.flatnonzero(self.labels == label))]
        return draw_frames(digit, photograph, path, random)


def draw_frames(digit: Tensor, photograph: Tensor, path: np.ndarray, random: np.random.Generator) -> Tensor:
    """A digit before a photograph that drifts.

    Args:
        digit: ink between 0 and 1, `(8, 8)`.
        photograph: `(3, height, width)`, between 0 and 1.
        path: the digit's centre, x and y from -1 to 1, `(frames, 2)`.

    Returns:
        `(frames, 3, SIZE, SIZE)`, between 0 and 1.
    """
    frames = len(path)
    cut = random.uniform(0.25, 0.6)  # of the photograph's shorter side
    room = 1 - cut
    start, drift = random.uniform(-room, room, 2) * 0.7, random.uniform(-room, room, 2) * 0.3
    centres = start + drift * np.linspace(0, 1, frames)[:, None]  # (frames, 2)
    height, width = photograph.shape[1:]
    scale = cut * min(height, width) / np.array([width, height])
    background = grid_sample(
        photograph.expand(frames, -1, -1, -1), _grid(centres, scale), padding_mode="reflection", align_corners=False
    )

    size = random.uniform(0.65, 0.8)  # of the picture
    ink = interpolate(digit[None, None], size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    ink = grid_sample(ink.expand(frames, -1, -1, -1), _grid(-path / size, np.full(2, 1 / size)), align_corners=False)
    colour = torch.from_numpy(random.uniform(0.7, 1, 3)).float()[:, None, None]
    return BRIGHTNESS * background * (1 - ink) + colour * ink


def _grid(centres: np.ndarray, scale: np.ndarray) -> Tensor:
    """Where each pixel of a frame looks, `(frames, SIZE, SIZE, 2)`, for views of `scale` around `centres`."""
    axis = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    view = np.stack([x, y], axis=-1) * scale  # (SIZE, SIZE, 2)
    return torch.from_numpy(view + centres[:, None, None]).float()


def _shrink(photograph: Tensor) -> Tensor:
    """To 4 pictures high, so that the parts that are cut out are not much smaller or larger than a picture."""
    height, width = photograph.shape[1:]
    size = (4 * SIZE, round(4 * SIZE * width / height))
    return interpolate(photograph[None], size=size, mode="bilinear", antialias=True)[0]


def crossing(direction: str, random: np.random.Generator) -> np.ndarray:
    """A path `(NUM_FRAMES, 2)` from one side to the other, at a height that may change a little."""
    x = np.linspace(-1, 1, NUM_FRAMES) * random.uniform(0.2, 0.3) * (1 if direction == "right" else -1)
    y = random.uniform(-0.15, 0.15) + np.linspace(-1, 1, NUM_FRAMES) * random.uniform(-0.1, 0.1)
    return np.stack([x, y], axis=-1)


def main() -> None:
    parser = DataclassParser(description=__doc__)
    parser.add_argument("output", type=Path, metavar="OUTPUT_DIR")
    parser.add_argument("--part", type=float, default=1.0, help="of the images and clips, to try something quickly")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    digits = load_digits()
    for split_index, (split, names) in enumerate(PHOTOGRAPHS.items()):
        pictures = Pictures(digits.images[DIGITS[split]], digits.target[DIGITS[split]], [load(name) for name in names])
        rows = []

        for label in tqdm(range(10), desc=split, unit="digit"):
            folder = args.output / "images" / split / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(round(IMAGES_PER_CLASS[split] * args.part)):
                random = np.random.default_rng([args.seed, split_index, label, number])
                [image] = pictures.draw(label, random.uniform(-0.2, 0.2, (1, 2)), random)
                to_pil_image(image.clamp(0, 1)).save(folder / f"{number:04d}.png")
            for direction_index, direction in enumerate(("left", "right")):
                folder = args.output / "clips" / split / f"{label}_{direction}"
                folder.mkdir(parents=True, exist_ok=True)
                for number in range(round(CLIPS_PER_CLASS[split] * args.part)):
                    random = np.random.default_rng([args.seed, split_index, label, number, 1 + direction_index])
                    frames = pictures.draw(label, crossing(direction, random), random)
                    file = folder / f"{number:04d}.mp4"
                    write(frames.mul(255).round().clamp(0, 255).byte().permute(0, 2, 3, 1), file)
                    if split != "train" or number < round(FEW_LABELS * args.part):
                        rows.append([file.absolute(), folder.name])
        lists = args.output / "few_labels"
        lists.mkdir(exist_ok=True)
        with (lists / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)


if __name__ == "__main__":
    run_command(main)
