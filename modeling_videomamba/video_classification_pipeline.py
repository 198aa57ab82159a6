"""Transformers' pipeline for video classification, with views and frame rates."""

from typing import Any

from transformers import VideoClassificationPipeline
from transformers.image_processing_utils import BatchFeature
from transformers.modeling_outputs import ImageClassifierOutput


PROBLEM_TYPES = {
    "softmax": "single_label_classification",
    "sigmoid": "multi_label_classification",
    "none": "regression",
}


class VideoMambaVideoClassificationPipeline(VideoClassificationPipeline):
    r"""
    Beside `num_frames`, `top_k` and `function_to_apply`, a call takes `num_clips` and `num_crops`, whose scores are averaged,
    and `fps` instead of `num_frames`. `batch_size` works, for videos that give equal numbers of frames.

    A video is whatever [`VideoMambaVideoProcessor`] takes; a list is always one of videos, so frames in a list are
    `[[frame, frame, ...]]`.

    Example:

    ```python
    >>> classify = pipeline("video-classification", model=DIR, pipeline_class=VideoMambaVideoClassificationPipeline)
    >>> classify("dog.mp4", num_clips=4, num_crops=3)
    ```
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.feature_extractor = self.video_processor  # transformers makes batches for feature extractors and tokenizers only

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        num_frames: int | None = None,
        function_to_apply: str | None = None,
        fps: float | None = None,
        num_clips: int | None = None,
        num_crops: int | None = None,
    ) -> tuple[dict, dict, dict]:
        _, _, postprocess = super()._sanitize_parameters(top_k, None, None, function_to_apply)
        if function_to_apply is None:
            postprocess.pop("function_to_apply", None)
        sampling = {"num_frames": num_frames, "fps": fps, "num_clips": num_clips, "num_crops": num_crops}
        preprocess = {name: value for name, value in sampling.items() if value is not None}
        views = {"num_views": (num_clips or 1) * (num_crops or 1)} if num_clips or num_crops else {}
        return preprocess, views, postprocess

    def preprocess(self, video: Any, **sampling: Any) -> BatchFeature:
        if "fps" not in sampling:
            sampling.setdefault("num_frames", self.model.config.num_frames)
        return self.video_processor(video, do_sample_frames=True, return_tensors="pt", **sampling).to(self.dtype)

    def _forward(self, model_inputs: dict, num_views: int = 1) -> ImageClassifierOutput:
        outputs = super()._forward(model_inputs)
        logits = outputs.logits.unflatten(0, (-1, num_views))  # (videos, views, labels)
        return ImageClassifierOutput(logits=logits)

    def postprocess(
        self, model_outputs: ImageClassifierOutput, top_k: int = 5, function_to_apply: str | None = None
    ) -> list[dict[str, Any]]:
        [logits] = model_outputs.logits  # (views, labels) of one video
        problem_type = PROBLEM_TYPES.get(function_to_apply, self.model.config.problem_type)
        [scores] = self.video_processor.post_process_video_classification(logits, len(logits), problem_type)
        best = scores.topk(min(top_k, len(scores)))
        return [
            {"score": score, "label": self.model.config.id2label[label]}
            for score, label in zip(best.values.tolist(), best.indices.tolist())
        ]


__all__ = ["VideoMambaVideoClassificationPipeline"]
