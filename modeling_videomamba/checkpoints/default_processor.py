"""The processor and the tokenizer of a model: what the reference evaluates with."""

from transformers import AutoTokenizer, CLIPImageProcessor, PreTrainedTokenizerBase
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling

from .. import VideoMambaConfig, VideoMambaVideoProcessor, VideoMambaVideoTextConfig
from .checkpoint_file import CheckpointError


RELEASED_TOKENIZER = "google-bert/bert-base-uncased"  # of the released video-text models


def processor_for(
    config: VideoMambaConfig | VideoMambaVideoTextConfig,
) -> VideoMambaVideoProcessor | CLIPImageProcessor:
    """The reference's evaluation transform: for videos our own processor, for images CLIP's with ImageNet statistics.

    A video-text model sees whole frames, squeezed into its size.
    """
    is_video_text = isinstance(config, VideoMambaVideoTextConfig)
    config = config.vision_config if is_video_text else config
    height, width = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
    crop_size, side = {"height": height, "width": width}, max(height, width)
    if is_video_text:
        return VideoMambaVideoProcessor(
            num_frames=config.num_frames,
            frame_sampling="intervals",
            size=crop_size,
            crop_size=crop_size,
            do_center_crop=False,
            resample=PILImageResampling.BICUBIC,
        )
    if config.num_frames is not None:
        return VideoMambaVideoProcessor(num_frames=config.num_frames, size={"shortest_edge": side}, crop_size=crop_size)
    return CLIPImageProcessor(
        size={"shortest_edge": int(side / 0.875)},
        crop_size=crop_size,
        image_mean=IMAGENET_DEFAULT_MEAN,
        image_std=IMAGENET_DEFAULT_STD,
    )


def tokenizer_for(
    config: VideoMambaVideoTextConfig, name: str = RELEASED_TOKENIZER, **cache_options
) -> PreTrainedTokenizerBase:
    """A BERT tokenizer for a video-text model, from a directory or a hub repository.

    `cache_options`: `cache_dir` and `local_files_only`, as in transformers.

    Raises:
        CheckpointError: if there is none, or it has another vocabulary than the model.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **cache_options)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"Cannot load the tokenizer {name} ({error}). Give another with --tokenizer, or 'none'."
        ) from error
    if len(tokenizer) != config.text_config.vocab_size:
        vocab_size = config.text_config.vocab_size
        raise CheckpointError(f"The tokenizer {name} has {len(tokenizer)} words, the model {vocab_size}: give its own one.")
    return tokenizer
