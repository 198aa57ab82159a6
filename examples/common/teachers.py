"""Frozen models whose features a student learns to predict."""

import inspect

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection, PreTrainedModel
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD


class ClipImageTower(CLIPVisionModelWithProjection):
    """The half of a CLIP model that looks at images; loaded from a whole one, it does not report that the other is left."""

    _keys_to_ignore_on_load_unexpected = [r"^text_(model|projection)\.", r"^logit_scale$", r"position_ids$"]


class ClipTeacher(nn.Module):
    """A CLIP image tower that looks at every frame by itself, as the reference uses OpenAI's (`video_sm/models/clip.py`).

    Features are the tokens after the chosen layers, without the final norm, which CLIP puts on its CLS token only, but with
    the projection into the space that images share with texts. The CLS tokens of a clip are averaged.

    Args:
        clip: for attention, loaded with `attn_implementation="eager"`.
        grid: rows and columns of the student's patches. Frames are resized so that the teacher has the same.
        num_layers, interval: the teacher's layers, counted from the last one down, and their distance.
        normalize: whether features have unit length.
        normalization: statistics of the frames that the teacher sees; the student's are ImageNet's.
    """

    def __init__(
        self,
        clip: CLIPVisionModelWithProjection,
        grid: tuple[int, int],
        num_layers: int = 1,
        interval: float = 1.0,
        normalize: bool = True,
        normalization: str = "imagenet",
    ):
        super().__init__()
        self.clip = clip.eval().requires_grad_(False)
        depth = clip.config.num_hidden_layers
        self.layers = sorted(depth - int(i * interval) - 1 for i in range(num_layers))
        if self.layers[0] < 0:
            raise ValueError(f"{num_layers} layers every {interval:g} reach below the first of the teacher's {depth}.")
        self.frame_size = [side * clip.config.patch_size for side in grid]
        self.normalize, self.normalization = normalize, normalization

    @property
    def width(self) -> int:
        return self.clip.config.projection_dim

    @torch.no_grad()
    def forward(self, pixel_values: Tensor, with_attention: bool = False) -> tuple[Tensor, Tensor | None]:
        """Looks at clips `(clips, frames, 3, height, width)`.

        Returns:
            features `(layers, clips, 1 + frames * patches, width)`, CLS first, then frame by frame; and, if asked for, the
            last layer's attention of CLS to the patches, averaged over heads: `(clips, frames, patches)`. Both in fp32.
        """
        clips, frames = pixel_values.shape[:2]
        images = self._prepare(pixel_values.flatten(0, 1))  # (clips * frames, 3, height, width)
        outputs = self.clip(
            images.to(self.clip.dtype),
            interpolate_pos_encoding=self.frame_size != [self.clip.config.image_size] * 2,
            output_hidden_states=True,
            output_attentions=with_attention,
        )
        features = []
        for layer in self.layers:
            tokens = outputs.hidden_states[layer + 1].unflatten(0, (clips, frames))  # (clips, frames, 1 + patches, hidden)
            tokens = self.clip.visual_projection(join_frames(tokens)).float()
            features.append(F.normalize(tokens, dim=-1) if self.normalize else tokens)
        attention = None
        if with_attention:
            attention = outputs.attentions[-1][:, :, 0, 1:].float().mean(dim=1)  # (clips * frames, patches)
            attention = attention.unflatten(0, (clips, frames))
        return torch.stack(features), attention

    def _prepare(self, images: Tensor) -> Tensor:
        if self.normalization == "clip":
            images = renormalize(images, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
        return resize(images, self.frame_size)


class TokenTeacher(nn.Module):
    """A VideoMamba, or another image or video model of transformers, whose final tokens teach a student token by token.

    A model of images looks at every frame by itself, and the CLS tokens of a clip are averaged.

    Args:
        model: a base model, whose output has a `last_hidden_state` `(batch, tokens, width)`: patches frame by frame and row by
            row, after a CLS token or without one.
        grid: rows and columns of the student's patches. Frames are resized so that the teacher has the same.
        tubelet_size: frames that a patch of the student spans.
    """

    def __init__(self, model: PreTrainedModel, grid: tuple[int, int], tubelet_size: int = 1):
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.grid, self.tubelet_size = grid, tubelet_size
        patch_size = getattr(model.config, "patch_size", None)
        self.frame_size = [side * patch_size for side in grid] if isinstance(patch_size, int) else None

    @property
    def width(self) -> int:
        return self.model.config.hidden_size

    @torch.no_grad()
    def forward(self, pixel_values: Tensor) -> Tensor:
        """Tokens of unit length, fp32, of clips `(batch, frames, 3, height, width)` or images `(batch, 3, height, width)`.

        Returns:
            `(batch, 1 + positions * patches, width)`, or without the CLS token if the teacher has none.

        Raises:
            ValueError: if the teacher has another number of tokens.
        """
        clips = pixel_values if pixel_values.ndim == 5 else pixel_values[:, None]  # (batch, frames, 3, height, width)
        positions, patches = clips.shape[1] // self.tubelet_size, self.grid[0] * self.grid[1]
        if getattr(self.model.config, "num_frames", None):  # a model of clips
            tokens = self._tokens(clips)
            if self.model.config.model_type == "timesformer" and tokens.shape[1] == 1 + positions * patches:
                by_patch = tokens[:, 1:].unflatten(1, (patches, positions))  # it goes patch by patch, through all frames
                tokens = torch.cat((tokens[:, :1], by_patch.transpose(1, 2).flatten(1, 2)), dim=1)
        else:
            tokens = self._tokens(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])  # (batch, frames, tokens, width)
            has_cls = tokens.shape[2] != patches
            tokens = join_frames(tokens) if has_cls else tokens.flatten(1, 2)
        if tokens.shape[1] not in (1 + positions * patches, positions * patches):
            raise ValueError(
                f"The teacher has {tokens.shape[1]} tokens where the student has CLS and {positions} x {patches} patches."
            )
        return F.normalize(tokens.float(), dim=-1)

    def _tokens(self, pixel_values: Tensor) -> Tensor:
        config, options = self.model.config, {}
        if self.frame_size is not None:
            leading, pixel_values = pixel_values.shape[:-3], pixel_values.flatten(0, -4)
            pixel_values = resize(pixel_values, self.frame_size).unflatten(0, leading)
            if "interpolate_pos_encoding" in inspect.signature(self.model.forward).parameters:
                options["interpolate_pos_encoding"] = True
        if config.model_type == "videomamba" and pixel_values.ndim == 4:
            pixel_values = pixel_values[:, None]  # the base model takes clips, of one frame too
        tokens = self.model(pixel_values.to(self.model.dtype), **options).last_hidden_state
        registers = getattr(config, "num_register_tokens", 0)  # DINO's, between CLS and patches
        return torch.cat((tokens[:, :1], tokens[:, 1 + registers :]), dim=1) if registers else tokens


def join_frames(tokens: Tensor) -> Tensor:
    """Tokens `(clips, frames, 1 + patches, width)` of single frames as those of clips: the mean of the CLS tokens first."""
    cls = tokens[:, :, :1].mean(dim=1)  # (clips, 1, width)
    return torch.cat((cls, tokens[:, :, 1:].flatten(1, 2)), dim=1)  # (clips, 1 + frames * patches, width)


def resize(images: Tensor, size: list[int]) -> Tensor:
    """Bicubic resize (corners not aligned) of normalised images `(images, 3, height, width)`."""
    if list(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bicubic", align_corners=False)


def renormalize(images: Tensor, mean: list[float], std: list[float], new_mean: list[float], new_std: list[float]) -> Tensor:
    """Images `(images, 3, height, width)`, normalised with `mean` and `std`, as normalised with the new ones."""
    mean, std, new_mean, new_std = (torch.tensor(x).to(images)[:, None, None] for x in (mean, std, new_mean, new_std))
    return (images * std + mean - new_mean) / new_std
