"""Videos that a sentence describes, from an index of their vectors."""

import sys
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tqdm import tqdm
from transformers import AutoConfig, AutoTokenizer

from .. import VideoMambaForVideoTextRetrieval, VideoMambaVideoProcessor, VideoMambaVideoTextConfig
from ..data.captions import CaptionTokenizer, clean_caption
from ..data.media_files import printable, reason_of
from .embedding_index import VideoIndex


def load_model(directory: str, device: str) -> tuple[VideoMambaForVideoTextRetrieval, VideoMambaVideoProcessor]:
    """
    Raises:
        ValueError: if the directory has a model of another kind.
    """
    config = AutoConfig.from_pretrained(directory)
    if not isinstance(config, VideoMambaVideoTextConfig):
        raise ValueError(f"{directory} has no model of videos and texts, but a {config.model_type}.")
    model, loading = VideoMambaForVideoTextRetrieval.from_pretrained(directory, output_loading_info=True)
    if loading["missing_keys"]:
        raise ValueError(f"{directory} has no whole model, it lacks {', '.join(sorted(loading['missing_keys']))}.")
    return model.to(device).eval(), VideoMambaVideoProcessor.from_pretrained(directory)


@dataclass
class Found:
    """A video, its cosine with the sentence, and the matching head's logit, if it was asked."""

    video: str
    cosine: float
    match: float | None = None


class Searcher:
    """An index in memory, and the model that made it."""

    def __init__(self, index: VideoIndex, model_directory: str, device: str, max_length: int):
        self.index = index
        self.names, self.means = index.mean_vectors()  # (videos, width)
        self.model, self.processor = load_model(model_directory, device)
        max_length = min(max_length, self.model.config.text_config.max_position_embeddings)
        self.tokenize = CaptionTokenizer(AutoTokenizer.from_pretrained(model_directory), max_length)

    @torch.inference_mode()
    def search(self, sentence: str, top: int, rerank: int = 0) -> list[Found]:
        """The `top` videos, best first: the `rerank` ones of the highest cosine by what the matching head says, then others.

        Raises:
            ValueError: if the sentence is empty, or has nothing but punctuation.
        """
        caption = clean_caption(sentence)
        if not caption:
            raise ValueError("The sentence is empty.")
        input_ids, mask = (tensor.to(self.model.device) for tensor in self.tokenize([caption]))  # (1, max_length)
        text = self.model.get_text_features(input_ids, mask)
        cosines = self.means @ F.normalize(text.pooler_output[0].float(), dim=0).cpu()  # (videos,)
        best = cosines.topk(min(max(top, rerank), len(self.names)))
        found = [
            Found(self.index.path_of(self.names[i]), cosine) for i, cosine in zip(best.indices.tolist(), best.values.tolist())
        ]
        judged = []
        for candidate in tqdm(found[:rerank], "looking again", unit="video", disable=None, leave=False):
            try:
                clip = self.processor(candidate.video, return_tensors="pt")["pixel_values"]
                patches = self.model.get_video_features(clip.to(self.model.device)).last_hidden_state
            except torch.AcceleratorError:
                raise
            except Exception as error:  # the file may have changed since it was indexed
                print(f"left out: {printable(reason_of(error, candidate.video))}", file=sys.stderr)
                continue
            candidate.match = self.model.match(text.last_hidden_state, mask, patches)[0, 1].item()
            judged.append(candidate)
        judged.sort(key=lambda candidate: -candidate.match)
        return (judged + found[rerank:])[:top]
