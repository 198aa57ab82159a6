"""Tells checkpoints of other models apart from VideoMamba's, so that none is converted as if it were one.

Most have names of their own. Two have not: the tensors of Vision Mamba (Vim) have the names, shapes and 2-D patch kernel of
VideoMamba's image models, those of VideoMambaPro the names and shapes of all of VideoMamba's. But Vim puts the class token in
the middle of the patches and halves the sum of the two directions, and VideoMambaPro changes the matrix A inside its scan:
converted, they would load without an error and compute something else. Hence these are told by whatever else a file says: the
arguments of the training that wrote it, its name, and values that show how training started.

Source: hustvl/Vim, `vim/models_mamba.py` and `mamba-1p1p1/mamba_ssm/modules/mamba_simple.py`; hotfinda/VideoMambaPro, its
README and `mamba/mamba_ssm/modules/mamba_simple.py`.
"""

import re
from collections.abc import Collection

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from .checkpoint_file import CheckpointError, CheckpointFile
from .released import load_released


VIM = "Vision Mamba (Vim)"
PRO = "VideoMambaPro"

# model -> a name that only its tensors have, prefixes stripped. The first that fits names the model.
NAMES = {
    VIM: r"cls_token_(head|tail)|layers\.\d+\.mixer\.gamma|rope\.",
    "VMamba": r"(.+\.)?(A_logs|x_proj_weight)",
    "MambaVision": r"levels\.\d+\.blocks\.|patch_embed\.conv_down\.",
    "Mamba-2": r"layers\.\d+\.mixer\.dt_bias",
    "Mamba, the language model": r"embeddings?\.weight|lm_head\.weight",
    "TimeSformer": r"timesformer\.|.*\.temporal_(attn|attention|dense|fc)\.",
    "VideoMAE": r"videomae\.|encoder_to_decoder\.|blocks\.\d+\.attn\.q_bias",
    "ViViT": r"vivit\.",
    "CLIP": r"visual\.|text_model\.encoder\.",
    "BERT": r"bert\.|embeddings\.word_embeddings\.",
    "a vision transformer (ViT, DeiT, DINO)": r"(vit|deit)\.|blocks\.\d+\.attn\.",
}
OURS = r"(videomamba|vision_model)\.embeddings\.|embeddings\.patch_embeddings\."  # what save_pretrained of this package writes

VIM_ARGUMENTS = ("if_random_cls_token_position", "if_random_token_rank")  # of Vim's training script alone
VIM_FILE = r"(?<![a-z])vim[-_]?(t|s|b|ti|tiny|small|base)(?![a-z])|mid(dle)?_?cls_?tok"
PRO_FILE = r"videomamba[-_]?pro"

DIFFERENCES = {
    VIM: "its class token is in the middle of the patches and its directions are averaged",
    PRO: "its scan has another matrix A",
}
UNPROVEN = (
    "beware: nothing in the file says whose image model it is. Those of Vision Mamba (Vim) have the same names and shapes, "
    "but compute something else. If hustvl/Vim trained it, do not use this conversion; --verify cannot tell either"
)


def refuse_by_names(names: Collection[str]) -> None:
    """Raises `CheckpointError` if one of the names, which VideoMamba has not, belongs to a model that is well known."""
    for name in names:
        if re.match(OURS, name):
            raise CheckpointError(
                f"Not an official checkpoint, but weights that this package wrote: they have {name}. from_pretrained loads "
                "their directory; --to-official writes them in the official layout."
            )
    for model, pattern in NAMES.items():
        if (name := next((name for name in names if re.match(pattern, name)), None)) is not None:
            raise CheckpointError(f"Not a checkpoint of VideoMamba, but of {model}: it has {name}.")


def refuse_twins(file: CheckpointFile) -> list[str]:
    """Refuses a checkpoint of a model whose tensors have VideoMamba's names, as far as anything tells.

    Args:
        file: a checkpoint that fits VideoMamba, its tensors by official names. The name of a released file counts for
            VideoMamba, `vim_*` and `videomambapro_*` against it.

    Returns:
        A remark if it may be either's: an image model of which nothing is known.

    Raises:
        CheckpointError: naming the model and what tells it.
    """
    model, evidence = _twin(file)
    if model is not None:
        raise CheckpointError(
            f"{file.path} is a checkpoint of {model}, not of VideoMamba: {evidence}. Its tensors have the same names and "
            f"shapes, but {DIFFERENCES[model]}, so converted it would compute something else. If it is VideoMamba's all the "
            "same, say so with --assume-videomamba."
        )
    known = _trained_model(file).startswith("videomamba") or file.path.name in {row.file for row in load_released().values()}
    return [UNPROVEN] if _could_be_vim(file.tensors) and not known else []


def _twin(file: CheckpointFile) -> tuple[str | None, str]:
    """The other model that the checkpoint is of, and what tells so; `None` if nothing does."""
    tensors, name, trained = file.tensors, file.path.name.lower(), _trained_model(file)
    for model, start in ((VIM, "vim_"), (PRO, "videomambapro")):
        if trained.startswith(start):
            return model, f"it was trained with --model {trained}"
    if re.search(PRO_FILE, name):
        return PRO, "the name of the file says so"
    if _has_masked_diagonal(tensors):
        return PRO, "the diagonals of all A_b_log are 0"
    if trained.startswith("videomamba") or not _could_be_vim(tensors):
        return None, ""
    if told := [argument for argument in VIM_ARGUMENTS if argument in file.arguments]:
        return VIM, f"the arguments of its training have {told[0]}"
    if re.search(VIM_FILE, name):
        return VIM, "the name of the file says so"
    if _has_forward_steps_alone(tensors):
        return VIM, "the forward time steps started small and the backward ones did not"
    if _has_middle_cls(tensors["pos_embed"][0]):
        return VIM, "the middle row of pos_embed is unlike its neighbours, and the first is not"
    return None, ""


def _trained_model(file: CheckpointFile) -> str:
    """`--model` of the training that wrote the file, in lower case; empty if the file does not say it."""
    model = file.arguments.get("model")
    return model.lower() if isinstance(model, str) else ""


def _could_be_vim(tensors: dict[str, Tensor]) -> bool:
    """Whether the tensors are those of a bidirectional image model with RMSNorm, as all of Vim's."""
    is_image = tensors["patch_embed.proj.weight"].ndim == 4
    return is_image and "layers.0.mixer.D_b" in tensors and "layers.0.norm.bias" not in tensors


def _has_masked_diagonal(tensors: dict[str, Tensor]) -> bool:
    """Whether all `A_b_log` are exactly 0 on their diagonals, VideoMambaPro's mask. VideoMamba's start at log(1), log(2)..."""
    diagonals = [tensor.diagonal() for name, tensor in tensors.items() if name.endswith(".mixer.A_b_log") and tensor.ndim == 2]
    return any(len(diagonal) > 1 for diagonal in diagonals) and not any(diagonal.any() for diagonal in diagonals)


def _has_forward_steps_alone(tensors: dict[str, Tensor]) -> bool:
    """Whether time steps are small in the forward direction only.

    Vim's forward ones start between 0.001 and 0.1, a bias of -4.6 on average, its backward ones at softplus(0) = 0.7. In
    VideoMamba both directions start alike.
    """
    forward = [tensor for name, tensor in tensors.items() if name.endswith(".mixer.dt_proj.bias")]
    backward = [tensor for name, tensor in tensors.items() if name.endswith(".mixer.dt_proj_b.bias")]
    if not forward or not backward:
        return False
    means = [torch.cat([tensor.flatten().double() for tensor in direction]).mean().item() for direction in (forward, backward)]
    return means[0] < -2 and means[1] - means[0] > 2


def _has_middle_cls(positions: Tensor) -> bool:
    """Whether the position embeddings `(1 + patches, hidden)` of a trained model have the class token's in the middle.

    Those of neighbouring patches are alike after training, the class token's is like none.
    """
    likeness = cosine_similarity(positions[1:].double(), positions[:-1].double(), dim=-1)  # (patches,), of row i with i + 1
    middle, usual = len(likeness) // 2, likeness.median().item()
    if len(likeness) < 4 or usual < 0.3:  # few, or not trained
        return False
    return max(likeness[middle - 1 : middle + 1].tolist()) < usual / 2 < likeness[0].item()
