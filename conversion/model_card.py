"""The model card of a converted checkpoint."""

from huggingface_hub import ModelCardData

from modeling_videomamba import VideoMambaPreTrainedModel


def model_card(model: VideoMambaPreTrainedModel, name: str, source: str) -> str:
    """A card for the model directory `name`, converted from the file `source`."""
    task = {
        "VideoMambaForVideoClassification": "video-classification",
        "VideoMambaForImageClassification": "image-classification",
    }.get(type(model).__name__)
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=task or "feature-extraction",
        tags=["videomamba", "mamba", "state-space-model"],
    )
    config = model.config
    input_name = "video.mp4" if task == "video-classification" else "image.jpg"
    usage = (
        f'pipeline("{task}", model="{name}", trust_remote_code=True)("{input_name}")'
        if task
        else f'AutoModel.from_pretrained("{name}", trust_remote_code=True)'
    )
    return f"""---
{data.to_yaml()}
---

# {name}

A [VideoMamba](https://arxiv.org/abs/2403.06977) model, converted from the official-layout checkpoint `{source}`:
{config.num_hidden_layers} blocks of width {config.hidden_size}, {config.num_frames or 1} frame(s) of {config.image_size}
pixels, {model.num_parameters():,} parameters. The conversion changes names and layout, never values.

```python
from transformers import {"pipeline" if task else "AutoModel"}

{usage}
```

```bibtex
@inproceedings{{li2024videomamba,
  title={{VideoMamba: State Space Model for Efficient Video Understanding}},
  author={{Li, Kunchang and Li, Xinhao and Wang, Yi and He, Yinan and Wang, Yali and Wang, Limin and Qiao, Yu}},
  booktitle={{ECCV}},
  year={{2024}}
}}
```
"""


def released_model_card(checkpoint) -> str:
    return ""
