"""Renders a small data set of clips with captions: which movement of a camera, before which photograph.

    pip install scikit-image scikit-learn  # for their bundled photographs, nothing is downloaded
    python -m examples.demos.render_captioned_clips captioned_clips

writes captioned_clips/{train,val,test}/*.mp4 and the lists {train,val,test}.json that the scripts of video and text take.
Clips are those of `render_demo_clips.py`, so their movement is in the order of frames only; here the photograph has a name,
too. Every clip has a cutting, a path and a wall of its own. The test has one clip for each of 100 captions: chance is 1 %.
"""

import json
from itertools import product
from pathlib import Path

import numpy as np
from tqdm import tqdm

from examples.demos.render_demo_clips import CLASSES, cut, draw_path, load, render, write
from modeling_videomamba.commands.command_line import run_command
from modeling_videomamba.commands.parser import DataclassParser


MOVEMENTS = {
    "pan_left": "the camera moves to the left",
    "pan_right": "the camera moves to the right",
    "pan_up": "the camera moves up",
    "pan_down": "the camera moves down",
    "zoom_out": "the camera moves away",
    "zoom_in": "the camera comes closer",
    "rotate_right": "the camera turns counterclockwise",  # and so the picture clockwise
    "rotate_left": "the camera turns clockwise",
}
THINGS = {
    "astronaut": "an astronaut",
    "brick": "a brick wall",
    "camera": "a man with a tripod",
    "cell": "a cell under the microscope",
    "chelsea": "a cat",
    "china": "a temple in china",
    "coffee": "a cup of coffee",
    "coins": "old coins",
    "flower": "a flower",
    "hubble_deep_field": "galaxies",
    "ihc": "stained tissue",
    "moon": "the surface of the moon",
    "motorcycle_left": "a motorcycle",
    "retina": "a retina",
    "rocket": "a rocket",
}
NUM_TEST_CLIPS = 100
CLIPS_PER_CAPTION = {"train": 24, "val": 1, "test": 1}


def caption(movement: str, thing: str) -> str:
    return f"{MOVEMENTS[movement]} in front of a picture of {THINGS[thing]}"


def main() -> None:
    parser = DataclassParser(description=__doc__)
    parser.add_argument("output", type=Path, metavar="OUTPUT_DIR")
    parser.add_argument("--clips-per-caption", type=int, default=CLIPS_PER_CAPTION["train"], help="of the training split")
    parser.add_argument("--height", type=int, default=72, help="of a frame in pixels, a multiple of 6")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    photographs = {name: load(name) for name in THINGS}
    pairs = list(product(CLASSES, THINGS))
    tested = np.random.default_rng(args.seed).permutation(len(pairs))[:NUM_TEST_CLIPS]
    counts = CLIPS_PER_CAPTION | {"train": args.clips_per_caption}
    for split_index, (split, count) in enumerate(counts.items()):
        (args.output / split).mkdir(parents=True, exist_ok=True)
        items = []
        for pair in tqdm(sorted(tested) if split == "test" else range(len(pairs)), desc=split, unit="caption"):
            movement, thing = pairs[pair]
            for number in range(count):
                random = np.random.default_rng([args.seed, split_index, pair, number])
                picture = cut(photographs[thing], random)
                file = Path(split) / f"{movement}-{thing}-{number:02d}.mp4"
                write(render(draw_path(movement, random), picture, args.height, random), args.output / file)
                items.append({"video": str(file), "caption": caption(movement, thing)})
        (args.output / f"{split}.json").write_text(json.dumps(items, indent=1) + "\n")
        print(f"{split}: {len(items)} clips, {len({item['caption'] for item in items})} captions")


if __name__ == "__main__":
    run_command(main)
