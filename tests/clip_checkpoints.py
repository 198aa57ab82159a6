"""OpenAI's layout of a CLIP image tower, for the goldens whose teacher is in it."""

import re

from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection


RENAMES = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_pre": "pre_layrnorm",
    "ln_post": "post_layernorm",
    "transformer.resblocks.": "encoder.layers.",
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
    ".attn.out_proj.": ".self_attn.out_proj.",
}


def load_official_clip(tensors: dict[str, Tensor], num_attention_heads: int) -> CLIPVisionModelWithProjection:
    """A tower with the weights of `tensors`, every one of them used and none missing."""
    patches, hidden_size = tensors["positional_embedding"].shape
    patch_size = tensors["conv1.weight"].shape[-1]
    config = CLIPVisionConfig(
        hidden_size=hidden_size,
        intermediate_size=tensors["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        projection_dim=tensors["proj"].shape[1],
        num_hidden_layers=1 + max(int(m[1]) for name in tensors if (m := re.match(r"transformer\.resblocks\.(\d+)\.", name))),
        num_attention_heads=num_attention_heads,
        image_size=int((patches - 1) ** 0.5) * patch_size,
        patch_size=patch_size,
    )
    ours = {"visual_projection.weight": tensors["proj"].T}
    for name, tensor in tensors.items():
        if name == "proj":
            continue
        for before, after in RENAMES.items():
            name = name.replace(before, after)
        if tensor.ndim == 5:  # the reference makes the kernel span one frame
            tensor = tensor.squeeze(2)  # (hidden, 3, patch, patch)
        if ".attn.in_proj_" in name:  # queries, keys and values in one
            for part, letter in zip(tensor.chunk(3), "qkv"):
                ours["vision_model." + name.replace(".attn.in_proj_", f".self_attn.{letter}_proj.")] = part
        else:
            ours[f"vision_model.{name}"] = tensor
    model = CLIPVisionModelWithProjection(config)
    model.load_state_dict({name: tensor.clone() for name, tensor in ours.items()})
    return model.eval()


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those of `tensors` whose names start with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
