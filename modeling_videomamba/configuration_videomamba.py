"""VideoMamba model configuration."""

import inspect
import math
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, Literal, Self

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig
from transformers.generation.configuration_utils import GenerationConfig
from transformers.models.bert.configuration_bert import BertConfig
from transformers.utils import logging

from .closest_names import did_you_mean


logger = logging.get_logger(__name__)

ScanOrder = Literal[
    "spatial_first",
    "temporal_first",
    "spatiotemporal_v1",
    "spatiotemporal_v2",
    "half_spatial_half_temporal",
    "half_temporal_half_spatial",
    "alternating",
]

# What transformers passes to every configuration, or has saved with one, beside its fields and what it has for generation.
GENERIC_NAMES = """
    adapters add_cross_attention attn_implementation auto_map bos_token_id compression_config cross_attention_hidden_size
    custom_pipelines decoder_start_token_id eos_token_id experts_implementation finetuning_task gradient_checkpointing
    is_decoder loss_type model_type name_or_path num_labels output_attentions pad_token_id per_layer_config prefix pruned_heads
    quantization_config sep_token_id task_specific_params tf_legacy_loss tie_encoder_decoder tie_last_hidden_states
    tie_word_embeddings tokenizer_class torch_dtype torchscript use_bfloat16 use_cache use_return_dict
"""

# Arguments of the official code and of other models, where their spelling does not lead to ours.
NAMES_ELSEWHERE = {
    "clip_norm_type": "normalize_alignment",
    "clip_output_dim": "alignment_size",
    "clip_return_layer": "num_aligned_layers",
    "clip_student_return_interval": "aligned_layer_interval",
    "all_frames": "num_frames",
    "bias": "use_bias",
    "bimamba": "bidirectional",
    "channels": "num_channels",
    "conv_bias": "use_conv_bias",
    "d_conv": "conv_kernel",
    "d_model": "hidden_size",
    "d_state": "state_size",
    "depth": "num_hidden_layers",
    "dim": "hidden_size",
    "drop_path": "drop_path_rate",
    "drop_rate": "hidden_dropout_prob",
    "dropout": "hidden_dropout_prob",
    "dt_rank": "time_step_rank",
    "embed_dim": "hidden_size",
    "fc_drop_rate": "classifier_dropout",
    "frames": "num_frames",
    "img_size": "image_size",
    "in_chans": "num_channels",
    "kernel_size": "tubelet_size",
    "n_layer": "num_hidden_layers",
    "n_layers": "num_hidden_layers",
    "norm_epsilon": "layer_norm_eps",
    "num_classes": "num_labels",
    "num_layers": "num_hidden_layers",
    "resolution": "image_size",
    "stride": "patch_stride",
    "width": "hidden_size",
}


class _CheckedConfig(PreTrainedConfig):
    """A configuration that takes no field that it does not have, where transformers keeps whatever it is given.

    An unknown name is an error in the constructor and in `from_pretrained(..., name=value)`. In a file, which a newer version
    may have written, it is a warning.
    """

    def __post_init__(self, **kwargs):
        type(self).check_names(kwargs)
        super().__post_init__(**kwargs)

    @classmethod
    def names(cls) -> set[str]:
        """Fields of the configuration, those of every configuration included."""
        parameters = inspect.signature(cls.__init__).parameters.values()  # a subclass may have a constructor of its own
        named = {x.name for x in parameters if x.kind in (x.POSITIONAL_OR_KEYWORD, x.KEYWORD_ONLY) and x.name != "self"}
        return {field.name for field in fields(cls)} | named

    @classmethod
    def unknown_names(cls, names: Iterable[str]) -> list[str]:
        """Those of `names` that are not fields, and not what transformers itself gives a configuration."""
        known = cls.names() | set(GENERIC_NAMES.split()) | vars(GenerationConfig()).keys()
        return [name for name in names if name not in known and not name.startswith("_")]

    @classmethod
    def check_names(cls, names: Iterable[str]) -> None:
        """
        Raises:
            ValueError: naming those of `names` that are not fields, and the fields that may be meant.
        """
        if unknown := cls.unknown_names(names):
            raise ValueError(cls._describe(unknown))

    @classmethod
    def _describe(cls, unknown: list[str]) -> str:
        names = cls.names() | {"num_labels"}
        found = []
        for name in unknown:
            elsewhere = NAMES_ELSEWHERE.get(name)
            found.append(f"{name}.{f' Did you mean {elsewhere}?' if elsewhere in names else did_you_mean(name, names)}")
        return " ".join(f"A {cls.__name__} has no field {text}" for text in found)

    @classmethod
    def from_pretrained(cls, *args, **kwargs) -> Self | tuple[Self, dict]:
        asks_for_rest = kwargs.get("return_unused_kwargs", False)
        config, rest = super().from_pretrained(*args, **kwargs | {"return_unused_kwargs": True})
        if asks_for_rest:
            return config, rest
        if not kwargs.get("_from_auto"):  # the Auto classes pass on what is meant for others, such as a tokenizer
            cls.check_names(rest)
        return config

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs) -> Self | tuple[Self, dict]:
        """What a file holds: unknown fields are kept, with a warning, and have no effect."""
        unknown = cls.unknown_names(config_dict)
        if unknown:
            logger.warning_once(f"{cls._describe(unknown)} What the configuration says there has no effect.")
        loaded = super().from_dict({name: x for name, x in config_dict.items() if name not in unknown}, **kwargs)
        for name in unknown:
            setattr(loaded[0] if isinstance(loaded, tuple) else loaded, name, config_dict[name])
        return loaded

    @classmethod
    def from_json_file(cls, json_file) -> Self:
        return cls.from_dict(cls._dict_from_json_file(json_file))


@strict
class VideoMambaConfig(_CheckedConfig):
    r"""
    Configuration of a [`VideoMambaModel`]. The defaults are those of VideoMamba-M with 16 frames at 224 pixels, the
    architecture of `videomamba-m-k400`. The paper's sizes have a constructor each; every field can be overridden:

    | constructor                   | hidden_size | num_hidden_layers | parameters (16 frames, 400 labels) |
    |-------------------------------|-------------|-------------------|------------------------------------|
    | `VideoMambaConfig.tiny()`     | 192         | 24                | 7.0 M                              |
    | `VideoMambaConfig.small()`    | 384         | 24                | 25.6 M                             |
    | `VideoMambaConfig.middle()`   | 576         | 32                | 73.9 M                             |
    | `VideoMambaConfig.base()`     | 768         | 24                | 97.1 M                             |

    Args:
        image_size (`int` or `(height, width)`, defaults to 224):
            Frame size in pixels that the position embeddings cover.
        patch_size (`int`, defaults to 16):
            Side of a square patch in pixels.
        patch_stride (`int`, *optional*):
            Distance between patches in pixels; smaller than `patch_size`, patches overlap. Defaults to `patch_size`.
        num_channels (`int`, defaults to 3):
            Channels of a frame.
        num_frames (`int`, *optional*, defaults to 16):
            Frames of a clip that the temporal position embeddings cover. `None` makes an image model: one frame, no
            temporal embeddings. A video model made from an image checkpoint (`from_pretrained(image_model,
            num_frames=8)`) starts with temporal embeddings of zero, as in the paper.
        tubelet_size (`int`, defaults to 1):
            Frames that one patch spans.
        hidden_size (`int`, defaults to 576):
            Width of the residual stream.
        num_hidden_layers (`int`, defaults to 32):
            Number of blocks.
        state_size (`int`, defaults to 16):
            Size of the state that each channel of the scan carries.
        conv_kernel (`int`, defaults to 4):
            Width of the causal depthwise convolution before the scan. The CUDA kernels of causal-conv1d take 2 to 4.
        expand (`int`, defaults to 2):
            The mixer works on `expand * hidden_size` channels.
        time_step_rank (`int` or `"auto"`, defaults to `"auto"`):
            Rank of the projection to the time step delta; `"auto"` is `ceil(hidden_size / 16)`.
        bidirectional (`bool`, defaults to `True`):
            Whether a second scan, with its own convolution, projections, A and D, runs from the end to the start. Without
            it the CLS token, which is first, sees no patch.
        scan_order (`str`, defaults to `"spatial_first"`):
            Order in which a block scans the patches (Fig. 7a of the paper; the released models are spatial-first, and the
            paper tells the others in one sentence and a drawing, so they are our reading of it):
            `"spatial_first"` frame by frame; `"temporal_first"` position by position, through all frames;
            `"spatiotemporal_v1"` the forward scan spatial-first and the backward one temporal-first;
            `"spatiotemporal_v2"` both orders in both directions, the four outputs added, with one set of weights a direction;
            `"half_spatial_half_temporal"` and `"half_temporal_half_spatial"` the first half of the blocks in one order, the
            rest in the other; `"alternating"` spatial-first in even blocks and temporal-first in odd ones.
        rms_norm (`bool`, defaults to `True`):
            RMSNorm, or LayerNorm if `False`.
        layer_norm_eps (`float`, defaults to 1e-5):
            Epsilon of all norms.
        residual_in_fp32 (`bool`, defaults to `True`):
            Whether the residual stream stays in fp32 when the weights are of lower precision.
        use_bias (`bool`, defaults to `False`):
            Whether the mixer's input and output projections have a bias.
        use_conv_bias (`bool`, defaults to `True`):
            Whether the depthwise convolutions have a bias.
        drop_path_rate (`float`, defaults to 0.0):
            Stochastic depth: the output of block i is dropped, per sample, with probability
            `drop_path_rate * i / (num_hidden_layers - 1)`.
        hidden_dropout_prob (`float`, defaults to 0.0):
            Dropout after the embeddings.
        classifier_dropout (`float`, defaults to 0.0):
            Dropout before the classification head.
        num_aligned_layers (`int`, defaults to 1):
            Masked pretraining: number of layers, counted from the last one down, whose features are aligned with a teacher's.
        aligned_layer_interval (`float`, defaults to 1.0):
            Masked pretraining: distance between aligned layers.
        alignment_size (`int`, defaults to 512):
            Masked pretraining: width of the teacher's features.
        alignment_tap (`str`, defaults to `"before_last_block"`):
            Masked pretraining: what is aligned in place of the last layer. `"before_last_block"` is the residual stream
            without the last block's output, un-normalised: what the released models were trained on, so that their last
            block and final norm never got a gradient. `"after_last_block"` is the stream with it, un-normalised;
            `"after_norm"` is the model's output.
        normalize_alignment (`bool`, defaults to `True`):
            Masked pretraining: whether aligned features have unit length.
        alignment_loss (`str`, defaults to `"l2"`):
            Masked pretraining: `"l2"` is `2 - 2 cos`, the squared distance of features of unit length; `"mse"` and
            `"smooth_l1"` are PyTorch's mean squared error and smooth L1 loss, of any features.
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of linear weights and spatial position embeddings at initialisation.
        scan_implementation (`str`, defaults to `"auto"`):
            Backend of the selective scan, one of [`SCAN_IMPLEMENTATIONS`] or `"auto"`, which chooses at every call by the
            tensors' device and what is installed. See [`scan_report`].
        segment_length (`int` or `None`, defaults to `"auto"`):
            Tokens that a mixer works through at a time in inference (under `torch.no_grad()`), sample by sample, which bounds
            the memory that it takes; the results are the same. `None` is all at once, `"auto"` 8192 on a CPU and all at once
            elsewhere. At least `2 * conv_kernel`. Compiled models and scan orders other than `"spatial_first"` take all at
            once, and mamba_ssm can do nothing else.

    Example:

    ```python
    >>> from modeling_videomamba import VideoMambaConfig, VideoMambaForVideoClassification

    >>> config = VideoMambaConfig.tiny(num_frames=8, num_labels=174)
    >>> model = VideoMambaForVideoClassification(config)
    ```
    """

    model_type = "videomamba"

    image_size: int | list[int] | tuple[int, int] = 224
    patch_size: int = 16
    patch_stride: int | None = None
    num_channels: int = 3
    num_frames: int | None = 16
    tubelet_size: int = 1
    hidden_size: int = 576
    num_hidden_layers: int = 32
    state_size: int = 16
    conv_kernel: int = 4
    expand: int = 2
    time_step_rank: int | Literal["auto"] = "auto"
    bidirectional: bool = True
    scan_order: ScanOrder = "spatial_first"
    rms_norm: bool = True
    layer_norm_eps: float | int = 1e-5
    residual_in_fp32: bool = True
    use_bias: bool = False
    use_conv_bias: bool = True
    drop_path_rate: float | int = 0.0
    hidden_dropout_prob: float | int = 0.0
    classifier_dropout: float | int = 0.0
    num_aligned_layers: int = 1
    aligned_layer_interval: float | int = 1.0
    alignment_size: int = 512
    alignment_tap: Literal["before_last_block", "after_last_block", "after_norm"] = "before_last_block"
    normalize_alignment: bool = True
    alignment_loss: Literal["l2", "mse", "smooth_l1"] = "l2"
    initializer_range: float | int = 0.02
    scan_implementation: Literal["auto", "triton", "mamba_ssm", "numba", "torch"] = "auto"
    segment_length: int | Literal["auto"] | None = "auto"

    def __post_init__(self, **kwargs):
        if self.time_step_rank == "auto":
            self.time_step_rank = math.ceil(self.hidden_size / 16)
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Called by `@strict`, which wraps the error in one of its own; the message names the offending value."""
        super().validate_architecture()
        counts = ["patch_size", "num_channels", "tubelet_size", "hidden_size", "num_hidden_layers", "state_size"]
        counts += ["conv_kernel", "expand", "time_step_rank", "num_aligned_layers", "alignment_size"]
        counts += ["patch_stride"] if self.patch_stride is not None else []
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if not isinstance(self.image_size, int) and len(self.image_size) != 2:
            raise ValueError(f"`image_size` must be an int or (height, width), got {self.image_size}.")
        if not self.layer_norm_eps > 0:
            raise ValueError(f"`layer_norm_eps` must be above 0, got {self.layer_norm_eps}.")
        if not 0 < self.aligned_layer_interval < math.inf:
            raise ValueError(f"`aligned_layer_interval` must be above 0 and finite, got {self.aligned_layer_interval}.")
        _check_initializer_range(self.initializer_range)
        if min(self.grid_size) < 1:
            raise ValueError(f"`image_size` {self.image_size} does not hold one patch of {self.patch_size} pixels.")
        if self.num_frames is not None and (self.num_frames < 1 or self.num_frames % self.tubelet_size):
            raise ValueError(
                f"`num_frames` must be a positive multiple of `tubelet_size` ({self.tubelet_size}), got {self.num_frames}."
            )
        for name in ("drop_path_rate", "hidden_dropout_prob", "classifier_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be in [0, 1), got {getattr(self, name)}.")
        if (self.num_aligned_layers - 1) * self.aligned_layer_interval >= self.num_hidden_layers:
            raise ValueError(
                f"`num_aligned_layers` {self.num_aligned_layers} every `aligned_layer_interval` {self.aligned_layer_interval} "
                f"reach below the first of {self.num_hidden_layers} layers."
            )
        if self.segment_length not in ("auto", None) and self.segment_length < 2 * self.conv_kernel:
            least = 2 * self.conv_kernel
            raise ValueError(f"`segment_length` must be at least {least}, got {self.segment_length}.")
        if self.scan_order == "spatiotemporal_v1" and not self.bidirectional:
            raise ValueError('`scan_order="spatiotemporal_v1"` gives each direction an order: it needs `bidirectional=True`.')

    @property
    def intermediate_size(self) -> int:
        """Channels of the mixer."""
        return self.expand * self.hidden_size

    @property
    def stride(self) -> int:
        """Pixels from one patch to the next."""
        return self.patch_size if self.patch_stride is None else self.patch_stride

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of patches of a frame of `image_size`."""
        height, width = (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size
        return tuple((side - self.patch_size) // self.stride + 1 for side in (height, width))

    @property
    def num_temporal_positions(self) -> int:
        """Temporal positions of a clip of `num_frames`; 1 for an image model."""
        return 1 if self.num_frames is None else self.num_frames // self.tubelet_size

    @property
    def aligned_layers(self) -> list[int]:
        """Indices of the layers that masked pretraining aligns, ascending."""
        steps = range(self.num_aligned_layers)
        return sorted(self.num_hidden_layers - int(i * self.aligned_layer_interval) - 1 for i in steps)

    @classmethod
    def tiny(cls, **kwargs) -> Self:
        """VideoMamba-Ti: 192 channels, 24 blocks."""
        return cls(**{"hidden_size": 192, "num_hidden_layers": 24, **kwargs})

    @classmethod
    def small(cls, **kwargs) -> Self:
        """VideoMamba-S: 384 channels, 24 blocks."""
        return cls(**{"hidden_size": 384, "num_hidden_layers": 24, **kwargs})

    @classmethod
    def middle(cls, **kwargs) -> Self:
        """VideoMamba-M: 576 channels, 32 blocks."""
        return cls(**{"hidden_size": 576, "num_hidden_layers": 32, **kwargs})

    @classmethod
    def base(cls, **kwargs) -> Self:
        """VideoMamba-B: 768 channels, 24 blocks. Released for images only; the paper leaves it out, since it overfits."""
        return cls(**{"hidden_size": 768, "num_hidden_layers": 24, **kwargs})


@strict
class VideoMambaVideoTextConfig(_CheckedConfig):
    r"""
    Configuration of a video-text model, a [`VideoMambaForVideoTextRetrieval`] or [`VideoMambaForVideoTextPreTraining`]. The
    defaults are those of the released models: VideoMamba-M with 8 frames of 224 pixels and BERT-base.

    Args:
        vision_config (`VideoMambaConfig` or `dict`, *optional*):
            The video side. Its fields for masked pretraining tell what is aligned with a teacher.
        text_config (`BertConfig` or `dict`, *optional*):
            The text side.
        num_fusion_layers (`int`, defaults to 3):
            How many of the last layers of the text side also attend to a video. The layers before them encode the text alone.
        projection_dim (`int`, defaults to 512):
            Width of the space in which videos and texts are compared.
        pooling (`str`, defaults to `"cls+avg"`):
            What stands for a video, or for each of its frames, in that space: `"cls"` its CLS token, `"avg"` the mean of its
            patches, `"cls+avg"` their sum.
        initial_temperature (`float`, defaults to 0.07):
            What cosines are divided by in the contrastive loss. It is learned, and kept in [0.001, 0.5].
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of the weights of the projections and the matching head at initialisation.

    Example:

    ```python
    >>> from modeling_videomamba import VideoMambaConfig, VideoMambaForVideoTextRetrieval, VideoMambaVideoTextConfig

    >>> config = VideoMambaVideoTextConfig(vision_config=VideoMambaConfig.tiny(num_frames=8))
    >>> model = VideoMambaForVideoTextRetrieval(config)
    ```
    """

    model_type = "videomamba_video_text"
    sub_configs = {"vision_config": VideoMambaConfig, "text_config": BertConfig}
    # Of a batch, not of its items: `Trainer.predict` could not join them.
    keys_to_ignore_at_inference = [
        "contrastive_loss",
        "matching_loss",
        "masked_language_loss",
        "alignment_loss",
        "logits_per_video",
        "logits_per_text",
        "text_model_output",
        "vision_model_output",
    ]

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    num_fusion_layers: int = 3
    projection_dim: int = 512
    pooling: Literal["cls", "avg", "cls+avg"] = "cls+avg"
    initial_temperature: float | int = 0.07
    initializer_range: float | int = 0.02
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        if not isinstance(self.vision_config, PreTrainedConfig):
            self.vision_config = VideoMambaConfig(**({"num_frames": 8} | (self.vision_config or {})))
        if not isinstance(self.text_config, PreTrainedConfig):
            self.text_config = BertConfig(**(self.text_config or {}))
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs) -> Self | tuple[Self, dict]:
        if isinstance(vision := config_dict.get("vision_config"), dict):
            config_dict = config_dict | {"vision_config": VideoMambaConfig.from_dict({"num_frames": 8} | vision)}
        return super().from_dict(config_dict, **kwargs)

    def validate_architecture(self) -> None:
        """Called by `@strict`, which wraps the error in one of its own; the message names the offending value."""
        super().validate_architecture()
        _check_initializer_range(self.initializer_range)
        if self.projection_dim < 1:
            raise ValueError(f"`projection_dim` must be at least 1, got {self.projection_dim}.")
        if not 1 <= self.num_fusion_layers <= self.text_config.num_hidden_layers:
            raise ValueError(
                f"`num_fusion_layers` must be between 1 and the {self.text_config.num_hidden_layers} layers of the text side, "
                f"got {self.num_fusion_layers}."
            )
        if not 0.001 <= self.initial_temperature <= 0.5:
            raise ValueError(f"`initial_temperature` must be in [0.001, 0.5], got {self.initial_temperature}.")
        if self.vision_config.num_frames is None or self.vision_config.tubelet_size != 1:
            raise ValueError(
                "The video side must be a video model whose patches span one frame, since it takes images as well: got "
                f"`num_frames` {self.vision_config.num_frames}, `tubelet_size` {self.vision_config.tubelet_size}."
            )


def _check_initializer_range(value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"`initializer_range` must be a finite number above 0, got {value}.")


__all__ = ["VideoMambaConfig", "VideoMambaVideoTextConfig"]
