"""Frozen models whose features a student learns to predict."""

import inspect
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, CLIPVisionModelWithProjection, PreTrainedModel
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from .. import VideoMambaConfig
from ..checkpoints.by_name import check_model


class ClipImageTower(CLIPVisionModelWithProjection):
    """The half of a CLIP model that looks at images; loaded from a whole one, it does not report that the other is left."""

    _keys_to_ignore_on_load_unexpected = [r"^text_(model|projection)\.", r"^logit_scale$", r"position_ids$"]


def load_clip(name: str, dtype: torch.dtype = torch.float32) -> ClipImageTower:
    """The image tower of a CLIP model, whole or not, from a directory or a hub repository.

    Raises:
        ValueError: if it is not a CLIP, or has no projection into the space that images share with texts.
    """
    check_model(name)
    config = AutoConfig.from_pretrained(name)
    if config.model_type not in ("clip", "clip_vision_model"):
        raise ValueError(f"The teacher must be a CLIP model, {name} is a {config.model_type}.")
    if config.model_type == "clip":
        config.vision_config.projection_dim = config.projection_dim
        config = config.vision_config
    tower, info = ClipImageTower.from_pretrained(name, config=config, dtype=dtype, output_loading_info=True)
    if info["missing_keys"]:
        raise ValueError(f"{name} lacks weights of a CLIP image tower: {', '.join(sorted(info['missing_keys']))}.")
    return tower


class ClipTeacher(nn.Module):
    """A CLIP image tower that looks at every frame by itself, as the reference uses OpenAI's (`video_sm/models/clip.py`).

    Features are the tokens after the chosen layers, without the final norm, which CLIP puts on its CLS token only, but with
    the projection into the space that images share with texts. The CLS tokens of a clip are averaged.

    Args:
        clip: see [`load_clip`].
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
        normalization: Literal["imagenet", "clip"] = "imagenet",
    ):
        super().__init__()
        self.clip = clip.eval().requires_grad_(False)
        depth = clip.config.num_hidden_layers
        self.layers = sorted(depth - int(i * interval) - 1 for i in range(num_layers))
        if self.layers[0] < 0:
            raise ValueError(f"{num_layers} layers every {interval:g} reach below the first of the teacher's {depth}.")
        self.frame_size = [side * clip.config.patch_size for side in grid]
        self.normalize, self.normalization = normalize, normalization

    @classmethod
    def for_student(
        cls,
        clip: CLIPVisionModelWithProjection,
        student: VideoMambaConfig,
        interval: float = 1.0,
        normalization: Literal["imagenet", "clip"] = "imagenet",
    ) -> Self:
        """The teacher of the features that a [`VideoMambaForPreTraining`] with this configuration predicts.

        Raises:
            ValueError: if a patch of the student spans several frames, or its features are of another width.
        """
        if student.tubelet_size != 1:
            raise ValueError(
                f"A frame of the teacher is a position of the student: `tubelet_size` must be 1, got {student.tubelet_size}."
            )
        if student.alignment_size != clip.config.projection_dim:
            raise ValueError(
                f"The model was aligned with features of width {student.alignment_size}, not {clip.config.projection_dim} "
                "as the teacher's."
            )
        layers = student.num_aligned_layers, interval
        return cls(clip, student.grid_size, *layers, student.normalize_alignment, normalization)

    @torch.no_grad()
    def forward(self, pixel_values: Tensor, with_attention: bool = False) -> tuple[Tensor, Tensor | None]:
        """Looks at clips `(clips, frames, 3, height, width)`.

        Returns:
            features `(clips, layers, 1 + frames * patches, width)`, CLS first, then frame by frame; and, if asked for, the
            last layer's attention of CLS to the patches, averaged over heads: `(clips, frames, patches)`. Both in fp32.
        """
        clips, frames = pixel_values.shape[:2]
        images = pixel_values.flatten(0, 1)  # (clips * frames, 3, height, width)
        if self.normalization == "clip":
            images = renormalize(images, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
        images = resize(images, self.frame_size).to(self.clip.dtype)
        is_other_size = self.frame_size != [self.clip.config.image_size] * 2
        outputs = self.clip(images, interpolate_pos_encoding=is_other_size, output_hidden_states=True)
        features = []
        for layer in self.layers:
            tokens = outputs.hidden_states[layer + 1].unflatten(0, (clips, frames))  # (clips, frames, 1 + patches, hidden)
            tokens = self.clip.visual_projection(join_frames(tokens)).float()
            features.append(F.normalize(tokens, dim=-1) if self.normalize else tokens)
        attention = None
        if with_attention:
            attention = self._attention_of_cls(outputs.hidden_states[-2]).unflatten(0, (clips, frames))
        return torch.stack(features, dim=1), attention

    def _attention_of_cls(self, hidden_states: Tensor) -> Tensor:
        """What CLS attends to in the last layer, `(images, patches)`, from what enters that layer.

        One row of the map, so that no layer has to compute and keep all of it.
        """
        layer = self.clip.vision_model.encoder.layers[-1]
        hidden_states = layer.layer_norm1(hidden_states)  # (images, 1 + patches, hidden)
        heads = (-1, self.clip.config.num_attention_heads, layer.self_attn.head_dim)
        query = layer.self_attn.q_proj(hidden_states[:, 0]).view(heads)  # (images, heads, head)
        keys = layer.self_attn.k_proj(hidden_states).unflatten(-1, heads[1:])  # (images, 1 + patches, heads, head)
        scores = torch.einsum("ihd,iphd->ihp", query.float(), keys.float()) * layer.self_attn.scale
        return scores.softmax(dim=-1)[..., 1:].mean(dim=1)


class TokenTeacher(nn.Module):
    """A VideoMamba, or another image or video model of transformers, whose final tokens teach a student token by token.

    A model of images looks at every frame by itself, and the CLS tokens of a clip are averaged.

    Args:
        model: a base model, whose output has a `last_hidden_state` `(batch, tokens, width)`: patches frame by frame and row by
            row, after a CLS token or without one.
        grid: rows and columns of the student's patches. Frames are resized so that the teacher has the same.
        tubelet_size: frames that a patch of the student spans.
        mean, std: of the frames that the teacher sees; the student's are ImageNet's.

    Raises:
        ValueError: if the model does not say how wide its tokens are.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        grid: tuple[int, int],
        tubelet_size: int = 1,
        mean: list[float] = IMAGENET_DEFAULT_MEAN,
        std: list[float] = IMAGENET_DEFAULT_STD,
    ):
        super().__init__()
        config = model.config
        if not hasattr(config, "hidden_size"):
            raise ValueError(
                f"The teacher must be a model of images or videos whose output is tokens, not {config.model_type}."
            )
        self.model = model.eval().requires_grad_(False)
        self.width = config.hidden_size
        self.grid, self.tubelet_size, self.mean, self.std = grid, tubelet_size, mean, std
        self.frame_size = None
        if isinstance(patch_size := getattr(config, "patch_size", None), int):
            stride = getattr(config, "stride", patch_size)
            self.frame_size = [(side - 1) * stride + patch_size for side in grid]

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
        leading = pixel_values.shape[:-3]
        images = renormalize(pixel_values.flatten(0, -4), self.mean, self.std)  # (images, 3, height, width)
        if self.frame_size is not None:
            images = resize(images, self.frame_size)
            if "interpolate_pos_encoding" in inspect.signature(self.model.forward).parameters:
                options["interpolate_pos_encoding"] = True
        tokens = self.model(images.to(self.model.dtype).unflatten(0, leading), **options).last_hidden_state
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


def renormalize(images: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """Images `(images, 3, height, width)`, normalised with ImageNet's statistics, as normalised with others."""
    ours, theirs = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD), (mean, std)
    if [*map(list, ours)] == [*map(list, theirs)]:
        return images
    (ours_mean, ours_std), (mean, std) = (
        (torch.tensor(values).to(images)[:, None, None] for values in statistics) for statistics in (ours, theirs)
    )
    return (images * ours_std + ours_mean - mean) / std
