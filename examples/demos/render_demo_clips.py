"""Renders a small data set of clips that can be told apart by the ORDER of their frames only.

    pip install scikit-image scikit-learn  # for their bundled photographs, nothing is downloaded
    python -m examples.demos.render_demo_clips clips --clips-per-class 400

writes clips/{train,val,test}/{class}/{photograph}-{number}.mp4: a camera moves before a wall on which a photograph hangs, for
two seconds. Its path has four axes: x, y, zoom and angle. The axis that the class names runs from one end of a range to the
other; its direction is the label. The three others swing once, there and back, over a range drawn in the same way. Every
value of every axis is therefore as frequent in one class as in another: a single frame says nothing about the label, and all
frames in disorder say at best which axis it is, never the direction. And no photograph is in two splits, so a model cannot
know the pictures by heart.
"""

from importlib.resources import files
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate
from tqdm import tqdm

from modeling_videomamba.commands.command_line import run_command
from modeling_videomamba.commands.parser import DataclassParser


PHOTOGRAPHS = {
    "train": ["china", "flower", "gravel", "hubble_deep_field", "ihc", "moon", "motorcycle_left", "rocket", "retina"],
    "val": ["brick", "chelsea", "cell"],
    "test": ["astronaut", "camera", "coffee", "coins", "grass"],
}
CLASSES = {  # the axis that counts and its direction; y points down, the content turns against the camera
    "pan_left": (0, -1),
    "pan_right": (0, 1),
    "pan_up": (1, -1),
    "pan_down": (1, 1),
    "zoom_out": (2, -1),
    "zoom_in": (2, 1),
    "rotate_right": (3, -1),
    "rotate_left": (3, 1),
}
WIDEST_RANGE = (0.6, 0.45, 0.7, 1.2)  # of x and y in heights of the view, of log(zoom), of the angle in radians
NARROWEST = 0.6  # a clip's range on an axis, as a part of the widest
PICTURE_SIZE = (0.5, 0.6)  # the height of the photograph on the wall, in heights of the view
PICTURE_ASPECT = 1.6
WALL = (0.85, 1.0)  # its red, green and blue
ASPECT = 4 / 3
NUM_FRAMES = 32
FRAMES_PER_SECOND = 16
QUALITY = {"crf": "20", "preset": "fast"}
SHARE_OF_TRAINING_CLIPS = {"train": 1.0, "val": 0.1, "test": 0.2}


def draw_path(label: str, random: np.random.Generator) -> np.ndarray:
    """x, y, log(zoom) and angle of the camera, `(frames, 4)`, each around 0."""
    time = np.linspace(0, 1, NUM_FRAMES)[:, None]  # (frames, 1)
    phase = random.random(4)
    path = 2 * np.abs((time + phase) % 1 - 0.5) - 0.5  # (frames, 4), triangle waves from -1/2 to 1/2
    axis, direction = CLASSES[label]
    path[:, axis] = direction * (time[:, 0] - 0.5)
    return path * WIDEST_RANGE * random.uniform(NARROWEST, 1, 4)


def cut(photograph: Tensor, random: np.random.Generator) -> Tensor:
    """A part of the photograph, `(3, height, width)`, of the aspect of a picture."""
    height = int(min(photograph.shape[1], photograph.shape[2] / PICTURE_ASPECT) * random.uniform(0.5, 1))
    width = int(height * PICTURE_ASPECT)
    top, left = (random.integers(room - size + 1) for room, size in zip(photograph.shape[1:], (height, width)))
    return photograph[:, top : top + height, left : left + width]


def render(path: np.ndarray, picture: Tensor, height: int, random: np.random.Generator) -> Tensor:
    """Frames of a clip, `(frames, height, width, 3)`, uint8."""
    width = round(height * ASPECT)
    rows = (torch.arange(height) + 0.5 - height / 2) / height
    columns = (torch.arange(width) + 0.5 - width / 2) / height
    v, u = torch.meshgrid(rows, columns, indexing="ij")  # (height, width), in heights of the view
    x, y, log_zoom, angle = torch.from_numpy(path).float().T[..., None, None]  # (frames, 1, 1) each
    scale, cos, sin = torch.exp(-log_zoom), angle.cos(), angle.sin()
    on_wall = torch.stack([scale * (u * cos - v * sin) + x, scale * (u * sin + v * cos) + y], -1)  # (frames, height, width, 2)

    size = random.uniform(*PICTURE_SIZE) * torch.tensor([PICTURE_ASPECT, 1.0])  # width and height on the wall
    pixels = [round(float(side) * height) for side in size.flip(0)]
    picture = interpolate(picture[None], size=pixels, mode="bilinear", antialias=True)
    wall = torch.from_numpy(random.uniform(*WALL, 3)).float()[:, None, None]
    pictures = (picture - wall).expand(len(path), -1, -1, -1)
    frames = grid_sample(pictures, on_wall * 2 / size, padding_mode="zeros", align_corners=False) + wall
    return frames.mul(255).round().clamp(0, 255).byte().permute(0, 2, 3, 1)


def vary(picture: Tensor, random: np.random.Generator) -> Tensor:
    """Mirrored, in other colours, brighter or darker: more pictures to learn from."""
    mirrored = [dim for dim in (1, 2) if random.random() < 0.5]
    return picture[random.permutation(3)].flip(mirrored) ** random.uniform(0.6, 1.6)


def write(frames: Tensor, file: Path) -> None:
    with av.open(file, "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=QUALITY)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.thread_count = 1  # the same file on every machine
        for frame in frames.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def load(name: str) -> Tensor:
    """A photograph, `(3, height, width)`, between 0 and 1."""
    folders = [files("skimage") / "data", files("sklearn") / "datasets" / "images"]
    [file] = [
        file for folder in folders for file in folder.iterdir() if Path(file.name).stem == name and file.suffix != ".npz"
    ]
    return torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1) / 255


def main() -> None:
    parser = DataclassParser(description=__doc__)
    parser.add_argument("output", type=Path, metavar="OUTPUT_DIR")
    parser.add_argument("--clips-per-class", type=int, default=400, help="of the training split; the others are smaller")
    parser.add_argument("--height", type=int, default=96, help="of a frame in pixels, even")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    for split_index, (split, names) in enumerate(PHOTOGRAPHS.items()):
        photographs = {name: load(name) for name in names}
        count = round(args.clips_per_class * SHARE_OF_TRAINING_CLIPS[split])
        for label_index, label in enumerate(tqdm(CLASSES, desc=split, unit="class")):
            folder = args.output / split / label
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                random = np.random.default_rng([args.seed, split_index, label_index, number])
                name = names[number % len(names)]
                picture = cut(photographs[name], random)
                if split == "train":
                    picture = vary(picture, random)
                frames = render(draw_path(label, random), picture, args.height, random)
                write(frames, folder / f"{name}-{number:04d}.mp4")
        print(f"{split}: {count * len(CLASSES)} clips of {len(names)} photographs: {', '.join(names)}")


if __name__ == "__main__":
    run_command(main)
