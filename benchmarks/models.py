"""The models that benchmarks compare: ours, and what a user would pick instead, in transformers' own classes."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import TimesformerConfig, TimesformerForVideoClassification, VideoMAEConfig, VideoMAEForVideoClassification
from transformers.models.timesformer.modeling_timesformer import TimesformerSelfAttention

from modeling_videomamba import VideoMambaConfig, VideoMambaForVideoClassification


class SdpaAttention(TimesformerSelfAttention):
    """TimeSformer's attention, for which transformers has the eager form only, as one call of PyTorch's."""

    def forward(self, hidden_states: Tensor, output_attentions: bool = False) -> tuple[Tensor]:
        qkv = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return (F.scaled_dot_product_attention(*qkv, scale=self.scale).transpose(1, 2).flatten(2),)


def videomamba(size: str, implementation: str) -> Callable[[int, int], nn.Module]:
    def build(frames: int, pixels: int) -> nn.Module:
        config = getattr(VideoMambaConfig, size)(num_frames=frames, image_size=pixels, scan_implementation=implementation)
        return VideoMambaForVideoClassification(config)

    return build


def timesformer(sdpa: bool) -> Callable[[int, int], nn.Module]:
    """Of tiny size, with joint attention over space and time: what Fig. 1 of the paper compares with."""

    def build(frames: int, pixels: int) -> nn.Module:
        sizes = {"hidden_size": 192, "num_attention_heads": 3, "num_hidden_layers": 12, "intermediate_size": 768}
        config = TimesformerConfig(
            **sizes, num_frames=frames, image_size=pixels, patch_size=16, attention_type="joint_space_time", num_labels=400
        )
        model = TimesformerForVideoClassification(config)
        for module in model.modules():
            if sdpa and type(module) is TimesformerSelfAttention:
                module.__class__ = SdpaAttention
        return model

    return build


def videomae(width: int) -> Callable[[int, int], nn.Module]:
    def build(frames: int, pixels: int) -> nn.Module:
        sizes = {"hidden_size": width, "num_attention_heads": width // 64, "intermediate_size": 4 * width}
        config = VideoMAEConfig(**sizes, num_frames=frames, image_size=pixels, num_labels=400, attn_implementation="sdpa")
        return VideoMAEForVideoClassification(config)

    return build


def to_bf16(model: nn.Module) -> nn.Module:
    """As `from_pretrained(..., dtype=torch.bfloat16)` loads it: what its class keeps in fp32 stays so."""
    kept = getattr(model, "_keep_in_fp32_modules_strict", None) or ()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and not any(part in name for part in kept):
            tensor.data = tensor.data.bfloat16()
    return model
