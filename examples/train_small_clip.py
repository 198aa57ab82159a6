"""Trains a CLIP model of a few hundred thousand parameters, to try masked pretraining with where no other CLIP is at hand.

    python examples/train_small_clip.py digits/images small-clip

Every class is a text, its folder's name; an image is to be nearer to its own text than to the others. For anything
but a trial take a CLIP that has seen the world, `--teacher openai/clip-vit-base-patch16`.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from transformers import CLIPConfig, CLIPModel, set_seed
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from modeling_videomamba.commands.command_line import run_command
from modeling_videomamba.commands.parser import DataclassParser
from modeling_videomamba.data.images import read_image
from modeling_videomamba.data.media_lists import label_names, load_media


def load_split(images: Path, split: str) -> tuple[Tensor, Tensor, list[str]]:
    """Images `(images, 3, height, width)`, uint8, their class ids, and the names of the classes."""
    table = load_media(str(images), split, media="image")
    return torch.stack([read_image(file) for file in table["image"]]), torch.tensor(table["label"]), label_names(table)


def spell(names: list[str]) -> Tensor:
    """Class names as token ids `(classes, length)`: a byte is a token, after 1 and before 2, the end, and zeros."""
    length = max(len(name.encode()) for name in names) + 2
    ids = [[1, *(byte + 3 for byte in name.encode()), 2] for name in names]
    return torch.tensor([row + [0] * (length - len(row)) for row in ids])


def make_clip(image_size: int, patch_size: int, text_length: int) -> CLIPModel:
    towers = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    tokens = {"vocab_size": 259, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    vision = {"num_hidden_layers": 3, "image_size": image_size, "patch_size": patch_size, **towers}
    text = {"num_hidden_layers": 1, "max_position_embeddings": text_length, **tokens, **towers}
    return CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=64))


def main() -> None:
    parser = DataclassParser(description=__doc__)
    parser.add_argument("images", type=Path, help="folder with a folder a class in train/ and val/")
    parser.add_argument("output", type=Path, metavar="OUTPUT_DIR")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--patch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    set_seed(args.seed)

    images, labels, names = load_split(args.images, "train")
    validation_images, validation_labels, _ = load_split(args.images, "val")
    texts = spell(names)
    clip = make_clip(images.shape[-1], args.patch_size, texts.shape[1])
    normalize = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)])
    shift = v2.Compose([v2.RandomAffine(degrees=5, translate=(0.1, 0.1), scale=(0.9, 1.1)), normalize])
    optimizer = torch.optim.AdamW(clip.parameters(), lr=1e-3, weight_decay=0.05)
    batches = len(images) // 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=args.epochs * batches)
    for epoch in range(args.epochs):
        clip.train()
        for batch in torch.randperm(len(images))[: batches * 64].view(batches, 64):
            logits = clip(input_ids=texts, pixel_values=shift(images[batch])).logits_per_image  # (images, classes)
            loss = nn.functional.cross_entropy(logits, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        clip.eval()
        with torch.no_grad():
            answers = clip(input_ids=texts, pixel_values=normalize(validation_images)).logits_per_image.argmax(dim=1)
        accuracy = (answers == validation_labels).float().mean()
        print(f"epoch {epoch + 1} of {args.epochs}: loss {loss:.3f}, nearest text of validation images {accuracy:.1%}")
    clip.save_pretrained(args.output)


if __name__ == "__main__":
    run_command(main)
