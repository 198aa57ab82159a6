"""What video-text training compares: videos with all texts of a batch, and with those that are hardest to tell apart."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.nn.functional import all_gather


def similarities(video_embeds: Tensor, text_embeds: Tensor) -> Tensor:
    """Cosines of videos and texts `(videos, texts)`, averaged over the vectors of a video.

    Args:
        video_embeds (`Tensor` of shape `(videos, frames, projection_dim)`): of unit length; one vector a frame, or a video.
        text_embeds (`Tensor` of shape `(texts, projection_dim)`): of unit length.
    """
    return video_embeds.mean(dim=1) @ text_embeds.T


def gather(tensor: Tensor) -> Tensor:
    """The tensors of all processes in one, `(processes * batch, ...)`; gradients find their way back to each process."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return tensor
    return torch.cat(all_gather(tensor.contiguous()))


def contrastive_loss(video_embeds: Tensor, text_embeds: Tensor, temperature: Tensor, pair_ids: Tensor) -> Tensor:
    """Cross-entropy of each video among all texts, and of each text among all videos, of all processes.

    Each process takes the rows of its own videos and texts, which must be equally many everywhere. The mean of the losses and
    of the gradients over processes, as `DistributedDataParallel` makes it, is that of one process with the joined batch.

    Args:
        video_embeds, text_embeds: see [`similarities`]; the i-th text belongs to the i-th video.
        temperature (`Tensor` of shape `()`): what cosines are divided by.
        pair_ids (`Tensor` of shape `(batch,)`): pairs of the same id share their targets: captions of one video are no
            negatives for each other.
    """
    all_ids = gather(pair_ids)
    targets = (pair_ids[:, None] == all_ids).to(video_embeds.dtype)  # (batch, pairs of all processes)
    targets = targets / targets.sum(dim=1, keepdim=True)
    by_video = similarities(video_embeds, gather(text_embeds)) / temperature  # (batch, all texts)
    by_text = similarities(gather(video_embeds), text_embeds).T / temperature  # (batch, all videos)
    return (F.cross_entropy(by_video.float(), targets.float()) + F.cross_entropy(by_text.float(), targets.float())) / 2


@torch.no_grad()
def hard_negatives(logits: Tensor, pair_ids: Tensor) -> tuple[Tensor, Tensor]:
    """For each row one other column, drawn with its softmax probability.

    Args:
        logits (`Tensor` of shape `(batch, batch)`): similarities over the temperature, of this process's own pairs.
        pair_ids (`Tensor` of shape `(batch,)`): columns of a row's own id are never drawn.

    Returns:
        The rows that have a negative, and a column for each: `(rows,)` both. A row lacks one if all pairs have its id.
    """
    negative = pair_ids[:, None] != pair_ids  # (batch, batch)
    rows = negative.any(dim=1).nonzero()[:, 0]
    # probabilities among the negatives, so that none vanishes beside that of the pair itself
    weights = logits.float().masked_fill(~negative, float("-inf"))[rows].softmax(dim=1)
    columns = weights.multinomial(1)[:, 0] if len(rows) else rows
    return rows, columns
