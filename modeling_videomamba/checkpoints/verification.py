"""An independent forward pass on official tensors, by their official names, to hold a converted model against."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import VideoMambaConfig, VideoMambaPreTrainedModel
from ..selective_scan import selective_scan_reference
from .video_text_layout import VISION, is_video_text


def verify(tensors: dict[str, Tensor], model: VideoMambaPreTrainedModel) -> float:
    """Largest difference between the CLS features of the official layout, in fp64, and of the converted model, in fp32.

    Of a video-text model, its video side. Both see one fixed clip of the model's own size. The features come after the final
    norm and have unit scale.
    """
    vision = getattr(model, "vision_model", model.base_model)
    config = vision.config
    prefix = VISION if is_video_text(tensors) else ""
    tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    frames = config.num_frames or 1
    height, width = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
    clip = torch.randn(1, frames, config.num_channels, height, width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = official_features({name: tensor.double() for name, tensor in tensors.items()}, clip.double(), config)
        features = vision(clip).pooler_output
    return (features - expected).abs().max().item()


def official_features(tensors: dict[str, Tensor], clip: Tensor, config: VideoMambaConfig) -> Tensor:
    """CLS features `(batch, hidden)` of a clip `(batch, frames, channels, height, width)`, straight from official tensors.

    Source: `forward_features` of `video_sm/models/videomamba.py`, and `Mamba.forward` of its fork of mamba-ssm. From `config`
    come only the patch stride and the norm's epsilon, which no tensor tells.
    """
    kernel = tensors["patch_embed.proj.weight"]
    kernel = kernel[:, :, None] if kernel.ndim == 4 else kernel  # (hidden, channels, tubelet, patch, patch)
    stride = (kernel.shape[2], config.stride, config.stride)
    x = F.conv3d(clip.transpose(1, 2), kernel, tensors["patch_embed.proj.bias"], stride=stride)
    x = x.flatten(3).permute(0, 2, 3, 1) + tensors["pos_embed"][:, None, 1:]  # (batch, positions, patches, hidden)
    if "temporal_pos_embedding" in tensors:
        x = x + tensors["temporal_pos_embedding"][:, :, None]
    cls = (tensors["cls_token"] + tensors["pos_embed"][:, :1]).expand(len(x), -1, -1)
    x = torch.cat((cls, x.flatten(1, 2)), dim=1)
    depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("layers."))
    for i in range(depth):
        block = {name.removeprefix(f"layers.{i}."): t for name, t in tensors.items() if name.startswith(f"layers.{i}.")}
        x = x + _mixer(block, _norm(block, "norm", x, config.layer_norm_eps))
    return _norm(tensors, "norm_f" if "norm_f.weight" in tensors else "norm", x, config.layer_norm_eps)[:, 0]


def _norm(tensors: dict[str, Tensor], name: str, x: Tensor, eps: float) -> Tensor:
    weight, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
    if bias is not None:
        return F.layer_norm(x, weight.shape, weight, bias, eps)
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight


def _mixer(block: dict[str, Tensor], x: Tensor) -> Tensor:
    """Both directions as the reference runs them: the backward one on a flipped sequence, each with its own gate."""
    xz = F.linear(x, block["mixer.in_proj.weight"], block.get("mixer.in_proj.bias")).mT  # (batch, 2 * inner, length)
    y = _direction(block, xz, "")
    if "mixer.A_b_log" in block:
        y = y + _direction(block, xz.flip(-1), "_b").flip(-1)
    return F.linear(y.mT, block["mixer.out_proj.weight"], block.get("mixer.out_proj.bias"))


def _direction(block: dict[str, Tensor], xz: Tensor, suffix: str) -> Tensor:
    x, z = xz.chunk(2, dim=1)  # 2 x (batch, inner, length)
    kernel, rank = block[f"mixer.conv1d{suffix}.weight"], block[f"mixer.dt_proj{suffix}.weight"].shape[1]
    A = -block["mixer.A_b_log" if suffix else "mixer.A_log"].exp()
    bias = block.get(f"mixer.conv1d{suffix}.bias")
    u = F.silu(F.conv1d(F.pad(x, (kernel.shape[-1] - 1, 0)), kernel, bias, groups=len(kernel)))
    delta, B, C = (block[f"mixer.x_proj{suffix}.weight"] @ u).split((rank, A.shape[1], A.shape[1]), dim=1)
    delta = block[f"mixer.dt_proj{suffix}.weight"] @ delta
    D, delta_bias = block[f"mixer.D{suffix}"], block[f"mixer.dt_proj{suffix}.bias"]
    return selective_scan_reference(u, delta, A, B, C, D, z, delta_bias, delta_softplus=True)
