"""Masked pretraining: the tokens of a few visible patches learn to be those of a CLIP model that sees whole frames.

Section 3.3, Fig. 5 and Table 5 of the paper. Source: the reference's `video_sm/engines/engine_for_pretraining_videomamba.py`.
"""

from torch import Tensor

from ..data.masking import mask_patches, of_visible_tokens
from .teachers import ClipTeacher
from .trainer import VideoMambaTrainer


class MaskedPretrainingTrainer(VideoMambaTrainer):
    def __init__(self, *args, teacher: ClipTeacher, mask_type: str, mask_ratio: float, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher = teacher.to(self.args.device)
        self.mask_type, self.mask_ratio = mask_type, mask_ratio

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None) -> Tensor | tuple:
        clips, noise = inputs["pixel_values"], inputs["mask_noise"]
        features, attention = self.teacher(clips, with_attention=self.mask_type == "attention")
        masked = mask_patches(noise, self.mask_type, self.mask_ratio, attention)  # (clips, patches)
        targets = of_visible_tokens(features, masked)  # (clips, layers, 1 + visible patches, width)
        outputs = model(pixel_values=clips, bool_masked_pos=masked, target_features=targets)
        return (outputs.loss, outputs) if return_outputs else outputs.loss
