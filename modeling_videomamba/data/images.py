"""Images for training and evaluation, as the reference prepares ImageNet's (`image_sm/datasets.py`)."""

import io
import os

from PIL import Image, ImageOps
from timm.data import create_transform
from torch import Tensor
from torchvision.transforms import v2
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..video_inputs import picture_to_rgb
from ..video_sources import PICTURE_FORMATS


IMAGE_FORMATS = (*PICTURE_FORMATS, "GIF")  # not those for which Pillow starts another program, as for EPS


def read_image(source: str | os.PathLike | bytes, upright: bool = False) -> Tensor:
    """An image `(3, height, width)`, uint8 RGB, of a file or its bytes: grey, palettes, CMYK and 16 bits are converted.

    Transparency is left out. With `upright`, an orientation in the EXIF data is applied; the reference does not do so.

    Raises:
        ValueError, OSError: if it cannot be read.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=IMAGE_FORMATS) as image:
            image = ImageOps.exif_transpose(image) if upright else image
            return v2.functional.pil_to_tensor(picture_to_rgb(image))
    except (FileNotFoundError, PermissionError):  # whose messages name the file
        raise
    except Exception as error:  # Pillow's are of any type, by the kind of damage
        name = f"of {len(source)} bytes" if isinstance(source, bytes) else source
        raise ValueError(f"Cannot read the image {name}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return next(iter(str(error).splitlines()), type(error).__name__)


class ImageTrainingTransform:
    """timm's training transform: crop, flip, RandAugment or AutoAugment, normalise, erase.

    From one uint8 frame `(1, 3, height, width)` to a normalised image `(3, size, size)` in fp32.
    """

    def __init__(
        self,
        size: int,
        auto_augment: str | None = "rand-m9-mstd0.5-inc1",
        min_area: float = 0.08,
        horizontal_flip: bool = True,
        random_erasing: float = 0.25,
    ):
        self.transform = create_transform(
            size,
            is_training=True,
            scale=(min_area, 1),
            ratio=(3 / 4, 4 / 3),
            hflip=0.5 if horizontal_flip else 0.0,
            color_jitter=0.0,
            auto_augment=auto_augment,
            interpolation="bicubic",
            mean=IMAGENET_DEFAULT_MEAN,
            std=IMAGENET_DEFAULT_STD,
            re_prob=random_erasing,
            re_mode="pixel",
            re_count=1,
        )

    def __call__(self, frames: Tensor) -> Tensor:
        return self.transform(v2.functional.to_pil_image(frames[0]))
