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
    AutoTokenizer,
    AutoVideoProcessor,
    BertTokenizer,
)

from .checkpoints.names_in_transformers import teach_names
from .configuration_videomamba import VideoMambaConfig, VideoMambaVideoTextConfig
from .modeling_videomamba import (
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaForVideoClassification,
    VideoMambaModel,
    VideoMambaPreTrainedModel,
)
from .modeling_videomamba_video_text import (
    VideoMambaForVideoTextPreTraining,
    VideoMambaForVideoTextRetrieval,
    VideoMambaTextModel,
)
from .scan_backends import SCAN_IMPLEMENTATIONS, scan_report
from .selective_scan import selective_scan
from .video_classification_pipeline import VideoMambaVideoClassificationPipeline
from .video_decoding import decode_video
from .video_processing_videomamba import VideoMambaVideoProcessor


__version__ = "0.1.0"

AutoConfig.register(VideoMambaConfig.model_type, VideoMambaConfig, exist_ok=True)  # the package may be imported again
AutoModel.register(VideoMambaConfig, VideoMambaModel)
AutoModelForVideoClassification.register(VideoMambaConfig, VideoMambaForVideoClassification)
AutoModelForImageClassification.register(VideoMambaConfig, VideoMambaForImageClassification)
AutoModelForPreTraining.register(VideoMambaConfig, VideoMambaForPreTraining)
AutoVideoProcessor.register(VideoMambaConfig, VideoMambaVideoProcessor)

AutoConfig.register(VideoMambaVideoTextConfig.model_type, VideoMambaVideoTextConfig, exist_ok=True)
AutoModel.register(VideoMambaVideoTextConfig, VideoMambaForVideoTextRetrieval)
AutoModelForPreTraining.register(VideoMambaVideoTextConfig, VideoMambaForVideoTextPreTraining)
AutoVideoProcessor.register(VideoMambaVideoTextConfig, VideoMambaVideoProcessor)
AutoTokenizer.register(VideoMambaVideoTextConfig, tokenizer_class=BertTokenizer)

teach_names()

VideoMambaConfig.register_for_auto_class()
VideoMambaModel.register_for_auto_class("AutoModel")
VideoMambaForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")
VideoMambaForImageClassification.register_for_auto_class("AutoModelForImageClassification")
VideoMambaForPreTraining.register_for_auto_class("AutoModelForPreTraining")
VideoMambaVideoProcessor.register_for_auto_class("AutoVideoProcessor")
VideoMambaVideoTextConfig.register_for_auto_class()
VideoMambaForVideoTextRetrieval.register_for_auto_class("AutoModel")
VideoMambaForVideoTextPreTraining.register_for_auto_class("AutoModelForPreTraining")

__all__ = [
    "SCAN_IMPLEMENTATIONS",
    "VideoMambaConfig",
    "VideoMambaForImageClassification",
    "VideoMambaForPreTraining",
    "VideoMambaForVideoClassification",
    "VideoMambaForVideoTextPreTraining",
    "VideoMambaForVideoTextRetrieval",
    "VideoMambaModel",
    "VideoMambaPreTrainedModel",
    "VideoMambaTextModel",
    "VideoMambaVideoClassificationPipeline",
    "VideoMambaVideoProcessor",
    "VideoMambaVideoTextConfig",
    "decode_video",
    "scan_report",
    "selective_scan",
]
