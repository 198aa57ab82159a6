"""VideoMamba with BERT (section 3.4 of the paper): videos and texts in one space, and pairs of them judged together.

Read from top to bottom: a text encoder whose last layers look at a video, what stands for a video, the model for retrieval,
its pretraining. Source: the reference's `video_mm/models/umt_videomamba.py`.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.models.bert.configuration_bert import BertConfig
from transformers.models.bert.modeling_bert import BertAttention, BertLayer, BertLMPredictionHead, BertModel, BertOnlyMLMHead
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_videomamba import VideoMambaVideoTextConfig
from .modeling_videomamba import VideoMambaAlignmentHeads, VideoMambaModel, select_hidden_states
from .precision import TEMPERATURE_IN_FP32, keep_in_fp32
from .video_text_losses import contrastive_loss, hard_negatives, similarities


MIN_TEMPERATURE, MAX_TEMPERATURE = 0.001, 0.5


class VideoMambaFusionLayer(BertLayer):
    """A BERT layer that attends to the tokens of a video between its self-attention and its feed-forward network."""

    def __init__(self, config: BertConfig, layer_idx: int, video_size: int):
        super().__init__(config, layer_idx)
        self.crossattention = BertAttention(config, layer_idx=layer_idx, is_cross_attention=True)
        attention = self.crossattention.self
        attention.key = nn.Linear(video_size, attention.all_head_size)
        attention.value = nn.Linear(video_size, attention.all_head_size)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None, video_tokens: Tensor) -> Tensor:
        hidden_states, _ = self.attention(hidden_states, attention_mask)
        hidden_states, _ = self.crossattention(hidden_states, encoder_hidden_states=video_tokens)
        return self.feed_forward_chunk(hidden_states)


class VideoMambaTextModel(BertModel):
    """BERT in two parts: the first layers encode a text, the last `num_fusion_layers` join it with a video.

    `from_pretrained("google-bert/bert-base-uncased", num_fusion_layers=3, video_size=576)` starts from BERT, with new
    cross-attention.
    """

    def __init__(self, config: BertConfig, num_fusion_layers: int, video_size: int):
        super().__init__(config, add_pooling_layer=False)
        self.num_text_layers = config.num_hidden_layers - num_fusion_layers
        for i in range(self.num_text_layers, config.num_hidden_layers):
            self.encoder.layer[i] = VideoMambaFusionLayer(config, i, video_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | list[int] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        """
        Args:
            input_ids, attention_mask (`Tensor` of shape `(texts, length)`): the mask is 0 at padding.
            output_hidden_states (`bool` or list of `int`, *optional*):
                Whether to return what enters the first layer and what leaves each layer before those that look at a video; or
                which of these.

        Returns:
            `last_hidden_state` of shape `(texts, length, hidden_size)`; `hidden_states`, on request.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        states = [self.embeddings(input_ids=input_ids)]
        mask = create_bidirectional_mask(self.config, states[0], attention_mask)
        for layer in self.encoder.layer[: self.num_text_layers]:
            states.append(layer(states[-1], mask))
        return BaseModelOutput(states[-1], select_hidden_states(tuple(states), output_hidden_states))

    def fuse(self, hidden_states: Tensor, attention_mask: Tensor | None, video_tokens: Tensor) -> Tensor:
        """Encoded texts, each joined with a video: `(pairs, length, hidden_size)` in and out.

        `video_tokens`: `(pairs, patches, video_size)`.
        """
        mask = create_bidirectional_mask(self.config, hidden_states, attention_mask)
        for layer in self.encoder.layer[self.num_text_layers :]:
            hidden_states = layer(hidden_states, mask, video_tokens)
        return hidden_states


class VideoMambaVideoPooler(nn.Module):
    """What stands for a video in the space of texts: one vector of the whole, or one of each of its frames."""

    def __init__(self, config: VideoMambaVideoTextConfig):
        super().__init__()
        self.pooling = config.pooling
        self.norm = nn.LayerNorm(config.vision_config.hidden_size)

    def forward(self, tokens: Tensor, num_vectors: int) -> Tensor:
        """`tokens`: CLS and patches `(videos, 1 + patches, hidden)`. Returns `(videos, num_vectors, hidden)`."""
        cls, patches = tokens[:, :1], tokens[:, 1:]
        if self.pooling == "cls":
            return self.norm(cls.expand(-1, num_vectors, -1))
        means = patches.unflatten(1, (num_vectors, -1)).mean(dim=2)  # (videos, num_vectors, hidden)
        return self.norm(means if self.pooling == "avg" else cls + means)


class VideoMambaVideoTextPreTrainedModel(PreTrainedModel):
    config_class = VideoMambaVideoTextConfig
    base_model_prefix = "video_text"
    input_modalities = ("video", "image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["VideoMambaLayer", "BertLayer", "VideoMambaFusionLayer", "BertEmbeddings"]
    _keep_in_fp32_modules_strict = TEMPERATURE_IN_FP32  # beside what the video side keeps
    # Losses are means over the pairs of a call: the Trainer divides by the accumulation steps, and averages over processes.
    accepts_loss_kwargs = False

    def post_init(self) -> None:
        keep_in_fp32(self, self._keep_in_fp32_modules_strict)
        super().post_init()

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> None:
        """As in transformers. The saved directory carries this code."""
        self.config.auto_map = {
            "AutoConfig": "configuration_videomamba.VideoMambaVideoTextConfig",
            "AutoModel": "modeling_videomamba_video_text.VideoMambaForVideoTextRetrieval",
            "AutoModelForPreTraining": "modeling_videomamba_video_text.VideoMambaForVideoTextPreTraining",
        }
        super().save_pretrained(save_directory, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The projections, the heads and the temperature; the two sides initialise themselves."""
        super()._init_weights(module)
        if isinstance(module, BertLMPredictionHead):
            init.zeros_(module.bias)
        elif isinstance(module, _VideoMambaForVideoText):
            init.constant_(module.temperature, self.config.initial_temperature)


@dataclass
class VideoMambaVideoTextOutput(ModelOutput):
    """
    Args:
        loss (`Tensor` of shape `()`, *optional*): the sum of the losses that could be computed.
        contrastive_loss, matching_loss, masked_language_loss, alignment_loss (`Tensor` of shape `()`, *optional*)
        logits_per_video (`Tensor` of shape `(videos, texts)`): cosines over the temperature.
        logits_per_text (`Tensor` of shape `(texts, videos)`): its transpose.
        video_embeds (`Tensor` of shape `(videos, frames or 1, projection_dim)`): of unit length.
        text_embeds (`Tensor` of shape `(texts, projection_dim)`): of unit length.
        text_model_output, vision_model_output (`BaseModelOutputWithPooling`):
            What [`get_text_features`] and [`get_video_features`] return.
    """

    loss: Tensor | None = None
    contrastive_loss: Tensor | None = None
    matching_loss: Tensor | None = None
    masked_language_loss: Tensor | None = None
    alignment_loss: Tensor | None = None
    logits_per_video: Tensor | None = None
    logits_per_text: Tensor | None = None
    video_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


class _VideoMambaForVideoText(VideoMambaVideoTextPreTrainedModel):
    """Both sides, the space that they share, and the judge of pairs. Clips of one frame are images."""

    def __init__(self, config: VideoMambaVideoTextConfig):
        super().__init__(config)
        video_size, text_size = config.vision_config.hidden_size, config.text_config.hidden_size
        self.vision_model = VideoMambaModel(config.vision_config)
        self.video_pooler = VideoMambaVideoPooler(config)
        self.text_model = VideoMambaTextModel(config.text_config, config.num_fusion_layers, video_size)
        self.video_projection = nn.Linear(video_size, config.projection_dim)
        self.text_projection = nn.Linear(text_size, config.projection_dim)
        self.matching_head = nn.Linear(text_size, 2)
        self.temperature = nn.Parameter(torch.tensor(float(config.initial_temperature)))

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def resize_position_embeddings(
        self, image_size: int | tuple[int, int] | None = None, num_frames: int | None = None
    ) -> None:
        """Of the video side, see [`VideoMambaModel.resize_position_embeddings`]."""
        self.vision_model.resize_position_embeddings(image_size, num_frames)

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        output_hidden_states: bool | list[int] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """
        Args:
            pixel_values (`Tensor` of shape `(videos, num_frames, channels, height, width)`): normalised clips.
            bool_masked_pos (`Tensor` of shape `(videos, num_frames * rows * columns)`, *optional*):
                Patches to leave out (`True`). One vector then stands for a clip, without it one for each frame.
            interpolate_pos_encoding, output_hidden_states, return_dict: see [`VideoMambaModel`].

        Returns:
            `pooler_output` `(videos, num_frames, projection_dim)`, or `(videos, 1, projection_dim)`, not normalised;
            `last_hidden_state` `(videos, patches, hidden)`, what [`match`] takes, without CLS; `hidden_states`, on request,
            with CLS.
        """
        return self._encode_video(pixel_values, bool_masked_pos, interpolate_pos_encoding, output_hidden_states)[0]

    def _encode_video(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor | None,
        interpolate_pos_encoding: bool,
        output_hidden_states: bool | list[int] | None,
        needs_hidden_states: bool = False,
    ) -> tuple[BaseModelOutputWithPooling, BaseModelOutputWithPooling]:
        """The features of videos, and what the video side returned."""
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states or self.config.vision_config.output_hidden_states
        frames = pixel_values.shape[1]
        outputs = self.vision_model(
            pixel_values,
            bool_masked_pos=bool_masked_pos,
            images=frames == 1,
            interpolate_pos_encoding=interpolate_pos_encoding,
            output_hidden_states=bool(output_hidden_states) or needs_hidden_states,
            return_dict=True,
        )
        vectors = self.video_pooler(outputs.last_hidden_state, frames if bool_masked_pos is None else 1)
        features = BaseModelOutputWithPooling(
            last_hidden_state=outputs.last_hidden_state[:, 1:],
            pooler_output=self.video_projection(vectors),
            hidden_states=select_hidden_states(outputs.hidden_states, output_hidden_states),
        )
        return features, outputs

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | list[int] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """
        Args:
            input_ids, attention_mask (`Tensor` of shape `(texts, length)`): of BERT's tokenizer; the mask is 0 at padding.
            output_hidden_states, return_dict: see [`VideoMambaTextModel`].

        Returns:
            `pooler_output` `(texts, projection_dim)`, not normalised; `last_hidden_state` `(texts, length, hidden_size)`, what
            [`match`] takes; `hidden_states`, on request.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states or self.config.text_config.output_hidden_states
        outputs = self.text_model(input_ids, attention_mask, output_hidden_states, return_dict=True)
        return BaseModelOutputWithPooling(
            last_hidden_state=outputs.last_hidden_state,
            pooler_output=self.text_projection(outputs.last_hidden_state[:, 0]),
            hidden_states=outputs.hidden_states,
        )

    def match(self, text_states: Tensor, attention_mask: Tensor | None, video_tokens: Tensor) -> Tensor:
        """Judges pairs of a text and a video, both as `last_hidden_state` of their features, `(pairs, ...)`.

        Returns:
            Logits `(pairs, 2)`; the second says that they belong together, and is what retrieval ranks by.
        """
        return self.matching_head(self.text_model.fuse(text_states, attention_mask, video_tokens)[:, 0])

    def _compare(self, video: BaseModelOutputWithPooling, text: BaseModelOutputWithPooling) -> VideoMambaVideoTextOutput:
        if self.training:
            with torch.no_grad():
                self.temperature.clamp_(MIN_TEMPERATURE, MAX_TEMPERATURE)
        video_embeds, text_embeds = (F.normalize(side.pooler_output.float(), dim=-1) for side in (video, text))
        logits = similarities(video_embeds, text_embeds) / self._copy_of_temperature()  # (videos, texts)
        return VideoMambaVideoTextOutput(
            logits_per_video=logits,
            logits_per_text=logits.T,
            video_embeds=video_embeds,
            text_embeds=text_embeds,
            text_model_output=text,
            vision_model_output=video,
        )

    def _copy_of_temperature(self) -> Tensor:
        """In fp32; a copy, since another forward pass may clamp the parameter before the backward pass of this one."""
        return self.temperature.float().clone()

    def _add_pair_losses(
        self,
        output: VideoMambaVideoTextOutput,
        video: BaseModelOutputWithPooling,
        text: BaseModelOutputWithPooling,
        attention_mask: Tensor | None,
        pair_ids: Tensor,
    ) -> None:
        temperature = self._copy_of_temperature()
        output.contrastive_loss = contrastive_loss(output.video_embeds, output.text_embeds, temperature, pair_ids)
        output.matching_loss = self._matching_loss(output, video, text, attention_mask, pair_ids)
        output.loss = output.contrastive_loss + output.matching_loss

    def _matching_loss(self, output, video, text, attention_mask, pair_ids) -> Tensor:
        """Cross-entropy of each pair, of each text with a wrong video, and of each video with a wrong text."""
        texts, wrong_videos = hard_negatives(output.logits_per_text, pair_ids)
        videos, wrong_texts = hard_negatives(output.logits_per_video, pair_ids)
        pairs = torch.arange(len(pair_ids), device=pair_ids.device)
        of_text, of_video = torch.cat((pairs, texts, wrong_texts)), torch.cat((pairs, wrong_videos, videos))
        mask = None if attention_mask is None else attention_mask[of_text]
        logits = self.match(text.last_hidden_state[of_text], mask, video.last_hidden_state[of_video])  # (about 3 * batch, 2)
        labels = torch.zeros_like(of_text)
        labels[: len(pairs)] = 1
        return F.cross_entropy(logits.float(), labels)

    @staticmethod
    def _check_pairs(input_ids: Tensor, pixel_values: Tensor) -> None:
        if len(input_ids) != len(pixel_values):
            raise ValueError(f"The losses need a text for each video, got {len(input_ids)} and {len(pixel_values)}.")

    @staticmethod
    def _pair_ids(pair_ids: Tensor | None, input_ids: Tensor) -> Tensor:
        if pair_ids is not None:
            return pair_ids
        ids, rank = torch.arange(len(input_ids), device=input_ids.device), 0
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            rank = torch.distributed.get_rank()
        return ids + rank * len(ids)  # pairs of other processes are others


class VideoMambaForVideoTextRetrieval(_VideoMambaForVideoText):
    """Ranks texts by videos and videos by texts: quickly by cosines in a common space, then pair by pair, looking at both."""

    _keys_to_ignore_on_load_unexpected = [r"^(alignment_heads|masked_language_head)\."]  # a pretrained model, about to be used

    def __init__(self, config: VideoMambaVideoTextConfig):
        super().__init__(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        pair_ids: Tensor | None = None,
        return_loss: bool = False,
        interpolate_pos_encoding: bool = False,
        output_hidden_states: bool | list[int] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> VideoMambaVideoTextOutput:
        """
        Args:
            input_ids, attention_mask (`Tensor` of shape `(texts, length)`): see [`get_text_features`].
            pixel_values (`Tensor` of shape `(videos, num_frames, channels, height, width)`): normalised clips.
            pair_ids (`Tensor` of shape `(videos,)`, *optional*):
                With `return_loss`: pairs of the same id are no negatives for each other. By default, all differ.
            return_loss (`bool`, defaults to `False`):
                Whether to return the contrastive and the matching loss, for which the i-th text belongs to the i-th video.
                The first compares with the videos and texts of all processes, the second with those of its own.
            interpolate_pos_encoding, return_dict: see [`VideoMambaModel`].
            output_hidden_states (`bool` or list of `int`, *optional*):
                Whether those of both sides are in `text_model_output` and `vision_model_output`, and which.

        Raises:
            ValueError: with `return_loss`, unless there are as many texts as videos.
        """
        if return_loss:
            self._check_pairs(input_ids, pixel_values)
        video, _ = self._encode_video(pixel_values, None, interpolate_pos_encoding, output_hidden_states)
        text = self.get_text_features(input_ids, attention_mask, output_hidden_states, return_dict=True)
        output = self._compare(video, text)
        if return_loss:
            ids = self._pair_ids(pair_ids, input_ids)
            self._add_pair_losses(output, video, text, attention_mask, ids)
        return output


class VideoMambaForVideoTextPreTraining(_VideoMambaForVideoText):
    """Four objectives: contrastive, matching, masked language modelling, alignment of unmasked tokens with a teacher."""

    _tied_weights_keys = {
        "masked_language_head.predictions.decoder.weight": "text_model.embeddings.word_embeddings.weight",
        "masked_language_head.predictions.decoder.bias": "masked_language_head.predictions.bias",
    }

    def __init__(self, config: VideoMambaVideoTextConfig):
        super().__init__(config)
        self.masked_language_head = BertOnlyMLMHead(config.text_config)
        self.alignment_heads = VideoMambaAlignmentHeads(config.vision_config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.masked_language_head.predictions.decoder

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.masked_language_head.predictions.decoder = new_embeddings
        self.masked_language_head.predictions.bias = new_embeddings.bias

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        pair_ids: Tensor | None = None,
        bool_masked_pos: Tensor | None = None,
        target_features: Tensor | None = None,
        masked_input_ids: Tensor | None = None,
        masked_labels: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        output_hidden_states: bool | list[int] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> VideoMambaVideoTextOutput:
        """
        Args:
            input_ids, attention_mask, pixel_values, pair_ids, interpolate_pos_encoding, output_hidden_states, return_dict:
                See [`VideoMambaForVideoTextRetrieval`].
            bool_masked_pos (`Tensor` of shape `(videos, num_frames * rows * columns)`, *optional*):
                Patches to leave out (`True`), in the masked phase. Without it, one vector stands for each frame.
            target_features (`Tensor` of shape `(videos, aligned layers, 1 + visible patches, alignment_size)`, *optional*):
                The teacher's, of unit length for `config.vision_config.alignment_loss="l2"`. Needs `bool_masked_pos`.
            masked_input_ids, masked_labels (`Tensor` of shape `(texts, length)`, *optional*):
                Texts with words masked, and the words, -100 where none is to be guessed.

        Returns:
            The losses whose inputs there are, and their sum.

        Raises:
            ValueError: unless there are as many texts as videos, and for one of two inputs that need each other.
        """
        self._check_pairs(input_ids, pixel_values)
        if target_features is not None and bool_masked_pos is None:
            raise ValueError("`target_features` are those of the visible patches: `bool_masked_pos` is missing.")
        if (masked_input_ids is None) != (masked_labels is None):
            raise ValueError("`masked_input_ids` and `masked_labels` come together.")
        encoding = bool_masked_pos, interpolate_pos_encoding, output_hidden_states
        video, outputs = self._encode_video(pixel_values, *encoding, needs_hidden_states=target_features is not None)
        text = self.get_text_features(input_ids, attention_mask, output_hidden_states, return_dict=True)
        output = self._compare(video, text)
        self._add_pair_losses(output, video, text, attention_mask, self._pair_ids(pair_ids, input_ids))
        if masked_input_ids is not None:
            states = self.text_model(masked_input_ids, attention_mask, output_hidden_states=False, return_dict=True)
            states = self.text_model.fuse(states.last_hidden_state, attention_mask, video.last_hidden_state)
            words = self.masked_language_head(states)  # (texts, length, vocabulary)
            total = F.cross_entropy(words.flatten(0, 1).float(), masked_labels.flatten(), reduction="sum")
            output.masked_language_loss = total / (masked_labels != -100).sum().clamp(min=1)
            output.loss = output.loss + output.masked_language_loss
        if target_features is not None:
            features = self.alignment_heads(outputs, self.vision_model.norm, bool_masked_pos)
            output.alignment_loss = self.alignment_heads.loss(features, target_features)
            output.loss = output.loss + output.alignment_loss
        return output


__all__ = [
    "VideoMambaForVideoTextPreTraining",
    "VideoMambaForVideoTextRetrieval",
    "VideoMambaTextModel",
    "VideoMambaVideoTextOutput",
    "VideoMambaVideoTextPreTrainedModel",
]
