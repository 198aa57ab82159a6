"""VideoMamba for transformers.

Importing this package registers the model with transformers' Auto classes and pipelines. Models saved from it carry its
code, so that they load elsewhere with `trust_remote_code=True`, without this package.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
)

from .configuration_videomamba import VideoMambaConfig
from .modeling_videomamba import (
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaForVideoClassification,
    VideoMambaModel,
    VideoMambaPreTrainedModel,
)
from .scan_implementations import SCAN_IMPLEMENTATIONS, scan_report
from .selective_scan import selective_scan
from .video_decoding import decode_video
from .video_processing_videomamba import VideoMambaVideoProcessor


AutoConfig.register(VideoMambaConfig.model_type, VideoMambaConfig)
AutoModel.register(VideoMambaConfig, VideoMambaModel)
AutoModelForVideoClassification.register(VideoMambaConfig, VideoMambaForVideoClassification)
AutoModelForImageClassification.register(VideoMambaConfig, VideoMambaForImageClassification)
AutoModelForPreTraining.register(VideoMambaConfig, VideoMambaForPreTraining)
AutoVideoProcessor.register(VideoMambaConfig, VideoMambaVideoProcessor)

VideoMambaConfig.register_for_auto_class()
VideoMambaModel.register_for_auto_class("AutoModel")
VideoMambaForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")
VideoMambaForImageClassification.register_for_auto_class("AutoModelForImageClassification")
VideoMambaForPreTraining.register_for_auto_class("AutoModelForPreTraining")
VideoMambaVideoProcessor.register_for_auto_class("AutoVideoProcessor")

__all__ = [
    "SCAN_IMPLEMENTATIONS",
    "VideoMambaConfig",
    "VideoMambaForImageClassification",
    "VideoMambaForPreTraining",
    "VideoMambaForVideoClassification",
    "VideoMambaModel",
    "VideoMambaPreTrainedModel",
    "VideoMambaVideoProcessor",
    "decode_video",
    "scan_report",
    "selective_scan",
]
