"""A trained classifier of videos, and what it says of them."""

import torch
from torch import Tensor
from transformers import AutoConfig
from transformers.utils import logging

from .. import VideoMambaConfig, VideoMambaForVideoClassification, VideoMambaVideoProcessor
from ..checkpoints.by_name import locate
from .score_files import fingerprint


def load_classifier(name: str) -> tuple[VideoMambaForVideoClassification, VideoMambaVideoProcessor]:
    """From a directory, the id of a released checkpoint or a hub repository.

    Raises:
        ValueError: if it has no trained head, or is a model of images.
    """
    source = locate(name)
    config = AutoConfig.from_pretrained(source)
    if not isinstance(config, VideoMambaConfig):
        raise ValueError(f"{name} is no trained classifier of videos, but a {config.model_type}.")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what is missing is said below, in one line
    model, loading = VideoMambaForVideoClassification.from_pretrained(source, output_loading_info=True)
    logging.set_verbosity(verbosity)
    if loading["missing_keys"]:
        raise ValueError(f"{name} is no trained classifier of videos, it lacks {', '.join(sorted(loading['missing_keys']))}.")
    if model.config.num_frames is None:
        raise ValueError(f"{name} is a model of images.")
    return model.eval(), VideoMambaVideoProcessor.from_pretrained(source)


def fingerprint_of(model: VideoMambaForVideoClassification, processor: VideoMambaVideoProcessor) -> str:
    tensors = (tensor.cpu().contiguous().view(torch.uint8).numpy() for tensor in model.state_dict().values())
    return fingerprint(model.config.to_json_string().encode(), processor.to_json_string().encode(), *tensors)


@torch.inference_mode()
def classify_views(
    model: VideoMambaForVideoClassification,
    processor: VideoMambaVideoProcessor,
    views: Tensor,
    num_views: int,
    batch_size: int,
    bf16: bool,
) -> Tensor:
    """The scores `(videos, labels)` from all views `(videos * num_views, frames, 3, height, width)`.

    Raises:
        ValueError: if the model's patches do not cover such frames.
    """
    other_size = not processor.do_center_crop
    with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        logits = torch.cat(
            [model(batch.to(model.device), interpolate_pos_encoding=other_size).logits for batch in views.split(batch_size)]
        )  # (videos * num_views, labels)
    return processor.post_process_video_classification(logits, num_views, model.config.problem_type).cpu()
