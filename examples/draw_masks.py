"""Draws the five masks of masked pretraining on the frames of a video, as in Fig. 5 of the paper.

    python examples/draw_masks.py video.mp4 masks.png --teacher openai/clip-vit-base-patch16

Without a --teacher, the attention-guided mask, which needs one, is left out.
"""

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import interpolate

from modeling_videomamba import VideoMambaVideoProcessor
from modeling_videomamba.commands.command_line import run_command
from modeling_videomamba.commands.parser import DataclassParser
from modeling_videomamba.data.masking import MASK_TYPES, draw_noise, mask_patches
from modeling_videomamba.inference.answer_picture import MOST_FRAMES, frame_strip
from modeling_videomamba.training.teachers import ClipTeacher, load_clip


def visible_part(clip: Tensor, masked: Tensor, patch_size: int) -> Tensor:
    """A normalised clip `(frames, 3, height, width)` whose masked patches `(frames, rows, columns)` are grey."""
    hidden = interpolate(masked[:, None].float(), scale_factor=patch_size)  # (frames, 1, height, width)
    return torch.where(hidden.bool(), torch.zeros_like(clip), clip)


def main() -> None:
    parser = DataclassParser(description=__doc__)
    parser.add_argument("video")
    parser.add_argument("picture", help="where to write it, .png, .pdf or .svg")
    parser.add_argument("--teacher", help="a CLIP model: a directory or a hub repository")
    parser.add_argument("--mask-ratio", type=float, default=0.8)
    parser.add_argument("--num-frames", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--patch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.image_size % args.patch_size:
        parser.error(f"--image-size {args.image_size} is no multiple of --patch-size {args.patch_size}")

    torch.manual_seed(args.seed)
    size = {"size": {"shortest_edge": args.image_size}, "crop_size": args.image_size}
    processor = VideoMambaVideoProcessor(num_frames=args.num_frames, **size)
    [clip] = processor(args.video, return_tensors="pt")["pixel_values"]  # (frames, 3, height, width)
    grid = (args.image_size // args.patch_size,) * 2
    noise = draw_noise(args.num_frames, *grid)[None]
    rows, attention = {"clip": clip}, None
    if args.teacher:
        _, attention = ClipTeacher(load_clip(args.teacher), grid)(clip[None], with_attention=True)
    for mask_type in MASK_TYPES:
        if mask_type != "attention" or attention is not None:
            masked = mask_patches(noise, mask_type, args.mask_ratio, attention).view(args.num_frames, *grid)
            rows[mask_type] = visible_part(clip, masked, args.patch_size)

    figure = Figure(figsize=(1.2 * min(args.num_frames, MOST_FRAMES), 1.4 * len(rows)), layout="constrained")
    for axis, (name, frames) in zip(figure.subplots(len(rows)), rows.items()):
        axis.imshow(frame_strip(frames, processor.image_mean, processor.image_std).numpy())
        axis.set_title(name.replace("_", "-"), loc="left")
        axis.axis("off")
    figure.savefig(args.picture, dpi=100)


if __name__ == "__main__":
    run_command(main)
