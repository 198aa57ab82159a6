"""VideoMamba (arXiv 2403.06977): a video model that mixes tokens with a bidirectional selective scan instead of attention.

Read from top to bottom like Fig. 3 of the paper: patches and position embeddings, one direction of the scan, the mixer that
joins two directions, the block, the model, the heads.
"""

import math
import os
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import statically_known_true
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES,
)
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_videomamba import VideoMambaConfig
from .linear_onednn import linear, project
from .long_sequences import mix_in_segments, number_of_segments
from .operators import is_transformed
from .precision import KEPT_IN_FP32, keep_in_fp32, raised
from .scan_backends import load_all
from .scan_operators import ScanInputs, convolve_directions, scan_directions


def interpolate_spatial(position_embeddings: Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Bicubic resize (corners not aligned) of spatial position embeddings, the CLS one kept.

    Args:
        position_embeddings (`Tensor` of shape `(1, 1 + rows * columns, hidden_size)`)
        grid, new_grid: rows and columns, before and after.
    """
    if all(statically_known_true(side == new_side) for side, new_side in zip(grid, new_grid)):
        return position_embeddings
    cls, patches = position_embeddings[:, :1], position_embeddings[:, 1:]
    patches = patches.unflatten(1, grid).permute(0, 3, 1, 2)  # (1, hidden, rows, columns)
    patches = F.interpolate(raised(patches), size=new_grid, mode="bicubic", align_corners=False)
    patches = patches.flatten(2).transpose(1, 2)  # (1, new rows * new columns, hidden)
    return torch.cat((cls, patches.to(cls.dtype)), dim=1)


def interpolate_temporal(position_embeddings: Tensor, length: int) -> Tensor:
    """Linear resize (corners not aligned) of temporal position embeddings `(1, positions, hidden_size)` to `length`.

    A resize to the same length is the identity. It is skipped only where no exported program has to serve other lengths.
    """
    if statically_known_true(position_embeddings.shape[1] == length):
        return position_embeddings
    resized = F.interpolate(raised(position_embeddings).mT, size=length, mode="linear", align_corners=False)
    return resized.mT.to(position_embeddings.dtype)  # (1, length, hidden)


class VideoMambaPatchEmbeddings(nn.Module):
    """Cuts a clip into tubelets of `tubelet_size` frames by `patch_size` x `patch_size` pixels and projects each."""

    def __init__(self, config: VideoMambaConfig):
        super().__init__()
        self.projection = nn.Conv3d(
            config.num_channels,
            config.hidden_size,
            kernel_size=(config.tubelet_size, config.patch_size, config.patch_size),
            stride=(config.tubelet_size, config.stride, config.stride),
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        pixel_values = pixel_values.transpose(1, 2).to(self.projection.weight.dtype)  # (batch, channels, frames, h, w)
        return self.projection(pixel_values).permute(0, 2, 3, 4, 1)  # (batch, positions, rows, columns, hidden)


class VideoMambaEmbeddings(nn.Module):
    """Tokens of a clip: CLS first, then the patches frame by frame, row by row.

    CLS and patches get a spatial position embedding; patches get a temporal one as well, unless it is an image model.
    """

    def __init__(self, config: VideoMambaConfig):
        super().__init__()
        self.config = config
        rows, columns = config.grid_size
        self.patch_embeddings = VideoMambaPatchEmbeddings(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + rows * columns, config.hidden_size))
        self.temporal_position_embeddings = None
        if config.num_frames is not None:
            self.temporal_position_embeddings = nn.Parameter(torch.zeros(1, config.num_temporal_positions, config.hidden_size))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, pixel_values: Tensor, interpolate_pos_encoding: bool = False, images: bool = False
    ) -> tuple[Tensor, tuple[int, int]]:
        """Returns the tokens `(batch, 1 + positions * patches, hidden)` and `(positions, patches per position)`."""
        self._check(pixel_values, interpolate_pos_encoding)
        if pixel_values.ndim == 4:  # images
            pixel_values = pixel_values[:, None]  # (batch, 1, channels, height, width)
        patches = self.patch_embeddings(pixel_values)
        batch, positions, rows, columns, _ = patches.shape
        space = interpolate_spatial(self.position_embeddings, self.config.grid_size, (rows, columns))
        patches = patches.flatten(2, 3) + space[:, None, 1:]  # (batch, positions, patches, hidden)
        if self.temporal_position_embeddings is not None and not images:
            patches = patches + interpolate_temporal(self.temporal_position_embeddings, positions)[:, :, None]
        cls = (self.cls_token + space[:, :1]).expand(batch, -1, -1)
        tokens = torch.cat((cls, patches.flatten(1, 2)), dim=1)  # (batch, 1 + positions * patches, hidden)
        return self.dropout(tokens), (positions, rows * columns)

    def _check(self, pixel_values: Tensor, interpolate_pos_encoding: bool) -> None:
        config, is_image_model = self.config, self.config.num_frames is None
        if not pixel_values.is_floating_point():
            processor = "the model's image processor" if is_image_model else "`VideoMambaVideoProcessor`"
            raise ValueError(
                f"`pixel_values` must be floating point, got {pixel_values.dtype}: {processor} scales and normalises frames."
            )
        shape, channels = tuple(pixel_values.shape), config.num_channels
        if len(shape) not in ((4, 5) if is_image_model else (5,)) or shape[-3] != channels:
            expected = f"(batch, {'' if is_image_model else 'num_frames, '}{channels}, height, width)"
            raise ValueError(f"`pixel_values` must have shape {expected}, got {shape}.")
        frames, (height, width) = 1 if len(shape) == 4 else shape[1], shape[-2:]
        if frames == 0 or frames % config.tubelet_size:
            raise ValueError(f"The number of frames must be a multiple of {config.tubelet_size} (a tubelet), got {frames}.")
        if is_image_model and frames != config.tubelet_size:
            raise ValueError(
                f"This is an image model: it takes {config.tubelet_size} frame, got {frames}. To start a video model from "
                f"it, load it with `from_pretrained(..., num_frames={frames})`."
            )
        image_size = (config.image_size,) * 2 if isinstance(config.image_size, int) else tuple(config.image_size)
        if interpolate_pos_encoding:
            for side in (height, width):
                if side < config.patch_size or (side - config.patch_size) % config.stride:
                    raise ValueError(
                        f"Frames of {height} x {width} pixels cannot be cut into patches of {config.patch_size} pixels "
                        f"every {config.stride} pixels: both sides must be {config.patch_size} plus a multiple of "
                        f"{config.stride}."
                    )
        elif (height, width) != image_size:
            raise ValueError(
                f"The position embeddings cover frames of {image_size[0]} x {image_size[1]} pixels, got {height} x {width}. "
                "Pass `interpolate_pos_encoding=True` to interpolate them, or use `model.resize_position_embeddings(...)`."
            )


class VideoMambaCausalConv1d(nn.Conv1d):
    """A depthwise causal convolution over the tokens.

    The mixer convolves in both directions with one call, so this hands on its weights. It does so by its `forward`, since
    offloading and sharding bring a module's parameters for the time of that.
    """

    def __init__(self, config: VideoMambaConfig):
        channels = config.intermediate_size
        super().__init__(channels, channels, config.conv_kernel, groups=channels, bias=config.use_conv_bias)

    def forward(self) -> tuple[Tensor, Tensor | None]:
        return self.weight, self.bias  # (channels, 1, width), (channels,)


class VideoMambaTimeStepProjection(nn.Module):
    """Projects the low-rank time step to all channels. The bias is handed on: it is added in fp32, inside the scan.

    Not an `nn.Linear`, whose output would be one tensor: tools that replace linear layers must leave it alone.
    """

    def __init__(self, config: VideoMambaConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.intermediate_size, config.time_step_rank))
        self.bias = nn.Parameter(torch.zeros(config.intermediate_size))

    def forward(self, time_step: Tensor) -> tuple[Tensor, Tensor]:
        return linear(time_step, self.weight), self.bias


class VideoMambaScanDirection(nn.Module):
    """What one direction owns: its convolution, its input-dependent delta, B and C, and its A and D (Mamba, section 3.4)."""

    def __init__(self, config: VideoMambaConfig):
        super().__init__()
        self.sizes = (config.time_step_rank, config.state_size, config.state_size)
        self.conv1d = VideoMambaCausalConv1d(config)
        self.x_proj = nn.Linear(config.intermediate_size, sum(self.sizes), bias=False)
        self.dt_proj = VideoMambaTimeStepProjection(config)
        self.A_log = nn.Parameter(torch.zeros(config.intermediate_size, config.state_size))
        self.D = nn.Parameter(torch.ones(config.intermediate_size))

    def forward(self, u: Tensor) -> ScanInputs:
        """`u`: the convolved tokens `(batch, length, intermediate_size)`."""
        projected = project(self.x_proj, u)
        time_step, B, C = projected.split(self.sizes, dim=-1)  # (batch, length, rank), 2 x (batch, length, state)
        delta, delta_bias = self.dt_proj(time_step)  # (batch, length, intermediate)
        return ScanInputs(u, delta, self.A_log, B, C, self.D, delta_bias)


class VideoMambaMixer(nn.Module):
    """Mixes tokens: gate * (forward scan + backward scan) between two projections that the directions share (Fig. 2)."""

    def __init__(self, config: VideoMambaConfig, layer_idx: int):
        super().__init__()
        self.scan_implementation = config.scan_implementation
        self.segment_length = config.segment_length
        self.forward_orders, self.backward_orders = scan_orders(config, layer_idx)
        self.in_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=config.use_bias)
        self.forward_scan = VideoMambaScanDirection(config)
        self.backward_scan = VideoMambaScanDirection(config) if config.bidirectional else None
        self.out_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.use_bias)
        self.out_proj.is_residual_projection = True  # its initialisation depends on the depth

    def forward(self, hidden_states: Tensor, temporal_order: tuple[Tensor, Tensor] | None = None) -> Tensor:
        if (segments := number_of_segments(self, hidden_states)) > 1:
            return mix_in_segments(self, hidden_states, segments)
        x, gate = project(self.in_proj, hidden_states).chunk(2, dim=-1)  # 2 x (batch, length, intermediate)
        y = 0
        if "spatial" in self.forward_orders + self.backward_orders:
            y = self.scan(x, gate, "spatial")
        if "temporal" in self.forward_orders + self.backward_orders:
            permutation, inverse = temporal_order
            y = y + self.scan(x[:, permutation], gate[:, permutation], "temporal")[:, inverse]
        return project(self.out_proj, y)

    def scan(self, x: Tensor, gate: Tensor, order: str) -> Tensor:
        """The gated sum of the directions that scan in this order, `(batch, length, intermediate)`."""
        scans = [self.forward_scan] * (order in self.forward_orders) + [self.backward_scan] * (order in self.backward_orders)
        directions = [scan(u) for scan, u in zip(scans, self.convolve(x, scans))]
        return scan_directions(directions, self.is_reversed(scans), gate, self.scan_implementation)

    def convolve(self, x: Tensor, scans: list[VideoMambaScanDirection]) -> list[Tensor]:
        """The tokens `x (batch, length, intermediate)` as each of the directions takes them."""
        weights, biases = zip(*(scan.conv1d() for scan in scans))
        weights, biases = [weight[:, 0] for weight in weights], [] if biases[0] is None else list(biases)
        return convolve_directions(x, weights, biases, self.is_reversed(scans), self.scan_implementation)

    def is_reversed(self, scans: list[VideoMambaScanDirection]) -> list[bool]:
        return [scan is self.backward_scan for scan in scans]

    def extra_repr(self) -> str:
        return f"scan_implementation={self.scan_implementation!r}"


def scan_orders(config: VideoMambaConfig, layer_idx: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The orders, "spatial" and "temporal" first, in which a block's forward and its backward direction scan (Fig. 7a)."""
    first_half = layer_idx < config.num_hidden_layers // 2
    forward, backward = {
        "spatial_first": (("spatial",), ("spatial",)),
        "temporal_first": (("temporal",), ("temporal",)),
        "spatiotemporal_v1": (("spatial",), ("temporal",)),
        "spatiotemporal_v2": (("spatial", "temporal"), ("spatial", "temporal")),
        "half_spatial_half_temporal": (("spatial",) if first_half else ("temporal",),) * 2,
        "half_temporal_half_spatial": (("temporal",) if first_half else ("spatial",),) * 2,
        "alternating": (("spatial",) if layer_idx % 2 == 0 else ("temporal",),) * 2,
    }[config.scan_order]
    return forward, backward if config.bidirectional else ()


def temporal_first_permutation(positions: int, patches: int, device: torch.device) -> Tensor:
    """Indices that bring tokens `(CLS, position by position)` into the order `(CLS, patch by patch through all positions)`.

    Its inverse is the same with `positions` and `patches` swapped.
    """
    order = torch.arange(positions * patches, device=device).view(positions, patches).T.flatten()
    return torch.cat((order.new_zeros(1), 1 + order))


class VideoMambaRMSNorm(nn.RMSNorm):
    """RMSNorm of the fp32 residual stream, in fp32; the result has the dtype of the weights."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        normed = F.rms_norm(raised(hidden_states), self.normalized_shape, raised(self.weight), self.eps)
        return normed.to(self.weight.dtype)


class VideoMambaLayerNorm(nn.LayerNorm):
    """LayerNorm of the fp32 residual stream, in fp32; the result has the dtype of the weights."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        weight, bias = raised(self.weight), raised(self.bias)
        normed = F.layer_norm(raised(hidden_states), self.normalized_shape, weight, bias, self.eps)
        return normed.to(self.weight.dtype)


def make_norm(config: VideoMambaConfig) -> nn.Module:
    norm = VideoMambaRMSNorm if config.rms_norm else VideoMambaLayerNorm
    return norm(config.hidden_size, eps=config.layer_norm_eps)


class VideoMambaDropPath(nn.Module):
    """Stochastic depth: in training, drops the branch of a whole sample with probability p, else scales it by 1 / (1 - p)."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, hidden_states: Tensor) -> Tensor:
        if self.p == 0 or not self.training:
            return hidden_states
        kept = hidden_states.new_empty(len(hidden_states), 1, 1).bernoulli_(1 - self.p)
        return hidden_states * kept / (1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class VideoMambaLayer(GradientCheckpointingLayer):
    """One pre-norm residual block. Its output is dropped with a probability that grows linearly with depth."""

    def __init__(self, config: VideoMambaConfig, layer_idx: int):
        super().__init__()
        self.norm = make_norm(config)
        self.mixer = VideoMambaMixer(config, layer_idx)
        drop_path_rate = config.drop_path_rate * layer_idx / max(config.num_hidden_layers - 1, 1)
        self.drop_path = VideoMambaDropPath(drop_path_rate)

    def forward(self, hidden_states: Tensor, temporal_order: tuple[Tensor, Tensor] | None = None) -> Tensor:
        return hidden_states + self.drop_path(self.mixer(self.norm(hidden_states), temporal_order))


class VideoMambaPreTrainedModel(PreTrainedModel):
    config_class = VideoMambaConfig
    base_model_prefix = "videomamba"
    main_input_name = "pixel_values"
    input_modalities = ("video", "image")
    supports_gradient_checkpointing = True
    _no_split_modules = ["VideoMambaLayer"]
    _keep_in_fp32_modules_strict = KEPT_IN_FP32
    _can_record_outputs = {"hidden_states": VideoMambaLayer}
    # Losses are means over the clips of a call: the Trainer divides by the accumulation steps, and averages over processes.
    accepts_loss_kwargs = False

    def post_init(self) -> None:
        keep_in_fp32(self, self._keep_in_fp32_modules_strict)
        super().post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The reference's initialisation, by the type of the module that owns a parameter."""
        std = self.config.initializer_range
        if isinstance(module, (nn.Conv3d, nn.Conv1d)):
            bound = 1 / math.sqrt(module.weight[0].numel())  # PyTorch's default
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, (nn.Linear, VideoMambaTimeStepProjection)):
            if getattr(module, "is_residual_projection", False):
                bound = 1 / math.sqrt(module.in_features * self.config.num_hidden_layers)
                init.uniform_(module.weight, -bound, bound)
            else:
                init.trunc_normal_(module.weight, std=std, a=-2.0, b=2.0)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, (VideoMambaRMSNorm, VideoMambaLayerNorm)):
            init.ones_(module.weight)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)
        elif isinstance(module, VideoMambaEmbeddings):
            init.zeros_(module.cls_token)
            init.trunc_normal_(module.position_embeddings, std=std, a=-2.0, b=2.0)
            if module.temporal_position_embeddings is not None:
                init.zeros_(module.temporal_position_embeddings)
        elif isinstance(module, VideoMambaScanDirection):
            states = torch.arange(1, self.config.state_size + 1, dtype=torch.float32, device=module.A_log.device)
            init.copy_(module.A_log, states.log().expand_as(module.A_log))
            init.ones_(module.D)

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> None:
        """As in transformers. The saved directory carries this code and names every Auto class, not only that of this head."""
        self.config.auto_map = {
            "AutoConfig": "configuration_videomamba.VideoMambaConfig",
            "AutoModel": "modeling_videomamba.VideoMambaModel",
            "AutoModelForImageClassification": "modeling_videomamba.VideoMambaForImageClassification",
            "AutoModelForPreTraining": "modeling_videomamba.VideoMambaForPreTraining",
            "AutoModelForVideoClassification": "modeling_videomamba.VideoMambaForVideoClassification",
        }
        super().save_pretrained(save_directory, *args, **kwargs)

    def get_position_embeddings(self) -> tuple[nn.Parameter, nn.Parameter | None]:
        """Spatial `(1, 1 + rows * columns, hidden)` and temporal `(1, positions, hidden)` position embeddings."""
        embeddings = self.base_model.embeddings
        return embeddings.position_embeddings, embeddings.temporal_position_embeddings

    @torch.no_grad()
    def resize_position_embeddings(
        self, image_size: int | tuple[int, int] | None = None, num_frames: int | None = None
    ) -> None:
        """Interpolates the position embeddings, in place and for good, to another frame size or number of frames.

        The starting point for fine-tuning at a higher resolution or on longer clips, as the reference's fine-tuning loader
        does it: bicubic in space, linear in time. `model.config` changes along.

        Args:
            image_size (`int` or `(height, width)`, *optional*): new frame size in pixels.
            num_frames (`int`, *optional*): new number of frames; a multiple of the tubelet size.
        """
        if num_frames is not None and self.config.num_frames is None:
            raise ValueError(
                "An image model has no temporal position embeddings to resize; load it with "
                f"`from_pretrained(..., num_frames={num_frames})` instead."
            )
        sizes = {"image_size": image_size, "num_frames": num_frames}
        new = self.config.to_dict() | {name: size for name, size in sizes.items() if size is not None}
        new = type(self.config).from_dict(new)  # validated before anything changes
        space, time = self.get_position_embeddings()
        embeddings = self.base_model.embeddings
        if new.grid_size != self.config.grid_size:
            resized = interpolate_spatial(space, self.config.grid_size, new.grid_size)
            embeddings.position_embeddings = nn.Parameter(resized, requires_grad=space.requires_grad)
        if new.num_temporal_positions != self.config.num_temporal_positions:
            resized = interpolate_temporal(time, new.num_temporal_positions)
            embeddings.temporal_position_embeddings = nn.Parameter(resized, requires_grad=time.requires_grad)
        self.config.image_size, self.config.num_frames = new.image_size, new.num_frames


class VideoMambaModel(VideoMambaPreTrainedModel):
    """The bare model: tokens of the last block after the final norm, and the CLS token among them."""

    _keys_to_ignore_on_load_unexpected = [r"^(classifier|alignment_heads)\."]  # the bare model of another's checkpoint

    def __init__(self, config: VideoMambaConfig):
        super().__init__(config)
        load_all()
        self.embeddings = VideoMambaEmbeddings(config)
        self.layers = nn.ModuleList([VideoMambaLayer(config, i) for i in range(config.num_hidden_layers)])
        self.norm = make_norm(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embeddings

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: Tensor,
        interpolate_pos_encoding: bool = False,
        bool_masked_pos: Tensor | None = None,
        images: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """
        Args:
            pixel_values (`Tensor` of shape `(batch, num_frames, num_channels, height, width)`, floating point):
                Normalised clips, as [`VideoMambaVideoProcessor`] makes them. An image model (`config.num_frames=None`) also
                takes normalised images `(batch, num_channels, height, width)`.
                A clip of another number of frames than `config.num_frames` interpolates the temporal position embeddings.
            interpolate_pos_encoding (`bool`, defaults to `False`):
                Whether to interpolate the spatial position embeddings, too, to frames of another size.
            bool_masked_pos (`Tensor` of shape `(batch, positions * rows * columns)`, *optional*):
                Patches to leave out (`True`); the others, equally many in each clip, and CLS go through the blocks.
            images (`bool`, defaults to `False`):
                Whether clips of one frame are images, which have no place in time: no temporal position embeddings.
            output_hidden_states (`bool` or list of `int`, *optional*):
                Whether to return the residual stream before the first block and after each block, un-normalised; or which
                of these, the others being `None`.
            return_dict (`bool`, *optional*):
                Whether to return a `ModelOutput` or a tuple.

        Returns:
            `last_hidden_state` of shape `(batch, 1 + positions * rows * columns, hidden_size)`, after the final norm: CLS
            first, then frame by frame, row by row; `pooler_output` of shape `(batch, hidden_size)`, its CLS token;
            `hidden_states`, on request.

        Raises:
            ValueError: for a clip of the wrong dtype, rank, channels, frame size or number of frames, or a mask that does not
                fit.
        """
        hidden_states, (positions, patches) = self.embeddings(pixel_values, interpolate_pos_encoding, images)
        if bool_masked_pos is not None:
            if self.config.scan_order != "spatial_first":
                raise ValueError(f"Masked clips need `scan_order='spatial_first'`, got {self.config.scan_order!r}.")
            hidden_states = visible_tokens(hidden_states, bool_masked_pos)  # (batch, 1 + visible patches, hidden)
        if self.config.residual_in_fp32:
            hidden_states = raised(hidden_states)
        temporal_order = None
        if self.config.scan_order != "spatial_first":
            temporal_order = (
                temporal_first_permutation(positions, patches, hidden_states.device),
                temporal_first_permutation(patches, positions, hidden_states.device),
            )
        for layer in self.layers:
            hidden_states = layer(hidden_states, temporal_order)
        hidden_states = self.norm(hidden_states)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=hidden_states[:, 0])


def visible_tokens(tokens: Tensor, bool_masked_pos: Tensor) -> Tensor:
    """CLS and the unmasked patches of tokens `(batch, 1 + patches, hidden)`, in order."""
    batch, length, hidden = tokens.shape
    if bool_masked_pos.shape != (batch, length - 1):
        raise ValueError(f"`bool_masked_pos` must have shape {(batch, length - 1)}, got {tuple(bool_masked_pos.shape)}.")
    if is_transformed() and torch._C._functorch.is_batchedtensor(bool_masked_pos):
        raise NotImplementedError(
            "`torch.func.vmap` cannot map over `bool_masked_pos`: give it one mask, with `in_dims` `None`."
        )
    visible = ~bool_masked_pos.to(tokens.device, torch.bool)
    counts = visible.sum(dim=1)
    if (counts != counts[0]).any():
        raise ValueError(f"Every clip of a batch must have as many visible patches, got {counts.tolist()}.")
    visible = torch.cat((visible.new_ones(batch, 1), visible), dim=1)  # CLS is always visible
    return tokens[visible].view(batch, -1, hidden)


class _VideoMambaForClassification(VideoMambaPreTrainedModel):
    """A linear head on the CLS token, shared by videos and images."""

    _keys_to_ignore_on_load_unexpected = [r"^alignment_heads\."]  # a masked-pretraining checkpoint, about to be fine-tuned

    def __init__(self, config: VideoMambaConfig):
        super().__init__(config)
        self.videomamba = VideoMambaModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels) if config.num_labels else nn.Identity()
        self.post_init()

    def _classify(self, pixel_values: Tensor, labels: Tensor | None, **kwargs) -> ImageClassifierOutput:
        outputs = self.videomamba(pixel_values, return_dict=True, **kwargs)
        logits = self.classifier(self.dropout(outputs.pooler_output))  # (batch, num_labels)
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return ImageClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


@dataclass
class VideoMambaForPreTrainingOutput(ModelOutput):
    """
    Args:
        loss (`Tensor` of shape `()`, *optional*): `config.alignment_loss`, a mean over layers, clips and visible tokens.
        features (`Tensor` of shape `(batch, aligned layers, 1 + visible patches, alignment_size)`): CLS first.
        hidden_states (`tuple`, *optional*): see [`VideoMambaModel`].
    """

    loss: Tensor | None = None
    features: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


def sinusoid_table(length: int, size: int, device: torch.device) -> Tensor:
    """Position embeddings `(1, length, size)`: sine of `position / 10000^(2i / size)` in channel 2i, cosine in 2i + 1."""
    channels = torch.arange(size, device=device)
    rates = 10000.0 ** (-2 * (channels // 2) / size)
    angles = torch.arange(length, device=device)[:, None] * rates  # (length, size)
    return torch.where(channels % 2 == 0, angles.sin(), angles.cos())[None]


def select_hidden_states(
    hidden_states: tuple[Tensor, ...], selection: bool | int | list[int] | None
) -> tuple[Tensor | None, ...] | None:
    """What a caller asked for with `output_hidden_states`, as `capture_outputs` of transformers understands it.

    All of them, none, or those of some indices, counted from the end if negative, with `None` in place of the others.
    """
    if not selection or selection is True:
        return hidden_states if selection else None
    count = len(hidden_states)
    indices = [selection] if isinstance(selection, int) else selection
    chosen = {i % count for i in indices if -count <= i < count}
    return tuple(state if i in chosen else None for i, state in enumerate(hidden_states))


class VideoMambaAlignmentHead(nn.Module):
    """Projects one layer's features to the width of a teacher's."""

    def __init__(self, config: VideoMambaConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.alignment_size)
        self.norm = VideoMambaLayerNorm(config.alignment_size, eps=config.layer_norm_eps)

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(self.dense(features))


class VideoMambaAlignmentHeads(nn.ModuleList):
    """What masked pretraining aligns with a teacher: features of the visible tokens, a head for each aligned layer."""

    def __init__(self, config: VideoMambaConfig):
        super().__init__([VideoMambaAlignmentHead(config) for _ in config.aligned_layers])
        self.config = config

    def forward(self, outputs: BaseModelOutputWithPooling, norm: nn.Module, bool_masked_pos: Tensor) -> Tensor:
        """Features `(batch, aligned layers, 1 + visible patches, alignment_size)`.

        `outputs`: of the model, with hidden states; `norm`: its final norm.
        """
        batch, patches = bool_masked_pos.shape
        positions = sinusoid_table(1 + patches, self.config.hidden_size, outputs.last_hidden_state.device)
        positions = visible_tokens(positions.expand(batch, -1, -1), bool_masked_pos)
        features = []
        for layer, head in zip(self.config.aligned_layers, self):
            stream = self._tap(outputs, norm, layer) + positions  # (batch, 1 + visible patches, hidden)
            aligned = head(stream.to(head.norm.weight.dtype))  # of a quantised layer, the weight tells no dtype
            features.append(F.normalize(aligned, dim=-1) if self.config.normalize_alignment else aligned)
        return torch.stack(features, dim=1)

    def loss(self, features: Tensor, targets: Tensor) -> Tensor:
        """`config.alignment_loss` of features and of a teacher's, which have the shape of [`forward`]'s."""
        if targets.shape != features.shape:
            raise ValueError(
                "`target_features` must have shape (batch, aligned layers, 1 + visible patches, alignment_size) = "
                f"{tuple(features.shape)}, got {tuple(targets.shape)}."
            )
        features, targets = raised(features), raised(targets)
        if self.config.alignment_loss == "l2":
            return (2 - 2 * (features * targets).sum(dim=-1)).mean()
        return {"mse": F.mse_loss, "smooth_l1": F.smooth_l1_loss}[self.config.alignment_loss](features, targets)

    def _tap(self, outputs: BaseModelOutputWithPooling, norm: nn.Module, layer: int) -> Tensor:
        """Features of a layer `(batch, 1 + visible patches, hidden)`; `hidden_states[i]` is the stream before block i."""
        if layer < self.config.num_hidden_layers - 1:
            return norm(outputs.hidden_states[layer + 1])
        return {
            "before_last_block": outputs.hidden_states[-2],
            "after_last_block": outputs.hidden_states[-1],
            "after_norm": outputs.last_hidden_state,
        }[self.config.alignment_tap]


class VideoMambaForPreTraining(VideoMambaPreTrainedModel):
    """Masked pretraining (section 3.3): the features of visible tokens are aligned with those of a CLIP-like teacher."""

    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]  # it may start from a classifier

    def __init__(self, config: VideoMambaConfig):
        super().__init__(config)
        self.videomamba = VideoMambaModel(config)
        self.alignment_heads = VideoMambaAlignmentHeads(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor,
        target_features: Tensor | None = None,
        output_hidden_states: bool | list[int] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> VideoMambaForPreTrainingOutput:
        """
        Args:
            pixel_values (`Tensor` of shape `(batch, num_frames, num_channels, height, width)`): normalised clips.
            bool_masked_pos (`Tensor` of shape `(batch, positions * rows * columns)`):
                Patches to leave out (`True`), equally many in each clip.
            target_features (`Tensor` of the shape of the output's `features`, *optional*):
                The teacher's; of unit length for `config.alignment_loss="l2"`.
            output_hidden_states, return_dict: see [`VideoMambaModel`].
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        kwargs |= {"output_hidden_states": True, "return_dict": True}
        outputs = self.videomamba(pixel_values, bool_masked_pos=bool_masked_pos, **kwargs)
        features = self.alignment_heads(outputs, self.videomamba.norm, bool_masked_pos)
        loss = None if target_features is None else self.alignment_heads.loss(features, target_features)
        hidden_states = select_hidden_states(outputs.hidden_states, output_hidden_states)
        return VideoMambaForPreTrainingOutput(loss=loss, features=features, hidden_states=hidden_states)


class VideoMambaForVideoClassification(_VideoMambaForClassification):
    """VideoMamba with a linear head on the CLS token, for videos: actions, activities, ratings."""

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImageClassifierOutput:
        """
        Args:
            pixel_values (`Tensor` of shape `(batch, num_frames, num_channels, height, width)`): normalised clips.
            labels (`Tensor` of shape `(batch,)` or `(batch, num_labels)`, *optional*):
                The loss follows `config.problem_type`: class ids (cross-entropy), floats (mean squared error), or 0.0 and
                1.0 for several labels at once (binary cross-entropy). Unset, it is guessed from the labels, as in
                transformers.
            interpolate_pos_encoding, output_hidden_states, return_dict: see [`VideoMambaModel`].

        Returns:
            `logits` of shape `(batch, num_labels)`; `loss`, if there are labels; `hidden_states`, on request.
        """
        return self._classify(pixel_values, labels, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs)


class VideoMambaForImageClassification(_VideoMambaForClassification):
    """VideoMamba with a linear head on the CLS token, for images (`config.num_frames=None`)."""

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImageClassifierOutput:
        """
        Args:
            pixel_values (`Tensor` of shape `(batch, num_channels, height, width)`): normalised images.
            labels, interpolate_pos_encoding: see [`VideoMambaForVideoClassification`], as the returned values.
        """
        if pixel_values.ndim != 4:
            raise ValueError(
                f"`pixel_values` must have shape (batch, num_channels, height, width), got {tuple(pixel_values.shape)}."
            )
        if self.config.num_frames is not None:
            pixel_values = pixel_values[:, None]  # (batch, 1, num_channels, height, width): clips of one frame
        return self._classify(pixel_values, labels, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs)


# Pipelines look a model's name up here, not in what AutoModel.register adds to, and print an error line if it is missing.
MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES[VideoMambaConfig.model_type] = VideoMambaForVideoClassification.__name__
MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[VideoMambaConfig.model_type] = VideoMambaForImageClassification.__name__

__all__ = [
    "VideoMambaForImageClassification",
    "VideoMambaForPreTraining",
    "VideoMambaForPreTrainingOutput",
    "VideoMambaForVideoClassification",
    "VideoMambaModel",
    "VideoMambaPreTrainedModel",
]
