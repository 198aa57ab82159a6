"""Trains a CLIP model of a few hundred thousand parameters, to try masked pretraining with where no other CLIP is at hand.

    python examples/train_small_clip.py my_images small-clip
    python examples/masked_pretraining.py my_videos my-model --teacher small-clip

`my_images` has a folder of images for each class, in `train/` and `val/` or not; of each image the square in its middle is
taken. Every class is a text, its folder's name; an image is to be nearer to its own text than to the others. For anything but
a trial take a CLIP that has seen the world, `--teacher openai/clip-vit-base-patch16`.
"""

import argparse

import torch
from datasets import Dataset
from torch import Tensor, nn
from torchvision.transforms import v2
from transformers import CLIPConfig, CLIPModel, set_seed
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from modeling_videomamba.data.images import read_image
from modeling_videomamba.data.media_lists import label_ids, label_names, load_splits


BATCH_SIZE, FEWEST_STEPS, FEWEST_EPOCHS = 64, 1200, 20
LARGEST_DEFAULT_SIZE = 64  # pixels


def read_squares(table: Dataset, size: int) -> Tensor:
    """The middles of all images, `(images, 3, size, size)`, uint8."""
    square = v2.Compose([v2.Resize(size), v2.CenterCrop(size)])
    return torch.stack([square(read_image(file)) for file in table["image"]])


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


def main(argv: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="folder with a folder of images for each class")
    parser.add_argument("output_dir")
    parser.add_argument("--image-size", type=int, help="pixels (default: the first image's shorter side, at most 64)")
    parser.add_argument("--patch-size", type=int, default=8)
    parser.add_argument("--epochs", type=int, help="default: 20, or as many as 1,200 steps have")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    set_seed(options.seed)

    train, validation, _ = load_splits(options.images, media="image")
    size = options.image_size or min(*read_image(train[0]["image"]).shape[1:], LARGEST_DEFAULT_SIZE)
    size = max(size // options.patch_size, 1) * options.patch_size
    names = dict(enumerate(label_names(train)))
    images, labels = read_squares(train, size), torch.tensor(label_ids(train, names, "train"))
    validation_images = read_squares(validation, size)
    validation_labels = torch.tensor(label_ids(validation, names, "validation"))
    texts = spell(list(names.values()))
    clip = make_clip(size, options.patch_size, texts.shape[1])
    normalize = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)])
    shift = v2.Compose([v2.RandomAffine(degrees=5, translate=(0.1, 0.1), scale=(0.9, 1.1)), normalize])

    batch_size = min(BATCH_SIZE, len(images))
    batches = len(images) // batch_size
    epochs = options.epochs or max(FEWEST_EPOCHS, FEWEST_STEPS // batches)
    optimizer = torch.optim.AdamW(clip.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=epochs * batches)
    for epoch in range(epochs):
        clip.train()
        for batch in torch.randperm(len(images))[: batches * batch_size].view(batches, batch_size):
            logits = clip(input_ids=texts, pixel_values=shift(images[batch])).logits_per_image  # (images, classes)
            loss = nn.functional.cross_entropy(logits, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        clip.eval()
        with torch.no_grad():
            answers = clip(input_ids=texts, pixel_values=normalize(validation_images)).logits_per_image.argmax(dim=1)
        accuracy = (answers == validation_labels).float().mean().item()
        print(f"epoch {epoch + 1} of {epochs}: loss {loss:.3f}, nearest text of validation images {accuracy:.1%}")
    clip.save_pretrained(options.output_dir)
    print(f"the model is in {options.output_dir}: --teacher of examples/masked_pretraining.py")
    return accuracy


if __name__ == "__main__":
    main()
