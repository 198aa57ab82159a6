"""From an official checkpoint to a directory that transformers loads, and back."""

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from .. import (
    VideoMambaConfig,
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaForVideoClassification,
    VideoMambaForVideoTextPreTraining,
    VideoMambaForVideoTextRetrieval,
    VideoMambaModel,
    VideoMambaPreTrainedModel,
    VideoMambaVideoTextConfig,
)
from ..data.unfinished import written_whole
from ..modeling_videomamba_video_text import VideoMambaVideoTextPreTrainedModel
from .checkpoint_file import CheckpointError, CheckpointFile, check_values
from .default_processor import processor_for
from .download import download
from .labels import LABEL_FILES, load_labels
from .model_directory import read_directory
from .official_layout import (
    check_against,
    check_blocks,
    infer_config,
    inflate,
    read_official,
    to_official,
    to_ours,
)
from .relatives import refuse_twins
from .released import NUM_LABELS, REPOSITORY, ReleasedCheckpoint, expected_config
from .video_text_layout import (
    BERT,
    BERT_IN_PRETRAINING,
    VISION,
    infer_video_text_config,
    is_pretrained,
    is_video_text,
    video_text_to_official,
    video_text_to_ours,
)


CLASSES = (VideoMambaModel, VideoMambaForVideoClassification, VideoMambaForImageClassification, VideoMambaForPreTraining)
VIDEO_TEXT_CLASSES = (VideoMambaForVideoTextPreTraining, VideoMambaForVideoTextRetrieval)

MOST_VALUES = 2**28  # of a tensor that is made for another size, a gigabyte in fp32


def convert(
    source: str | Path,
    overrides: dict[str, Any] | None = None,
    labels: str | dict[int, str] | None = None,
    num_frames: int | None = None,
    image_size: int | None = None,
    tubelet_size: int | None = None,
    inflation: str = "center",
    num_labels: int | None = None,
    assume_videomamba: bool = False,
) -> tuple[VideoMambaPreTrainedModel, list[str]]:
    """Loads an official checkpoint into the class that fits it.

    A classifier of videos or images, a model for masked pretraining, or, without any head, a bare model.

    Args:
        source: path of the checkpoint.
        overrides: configuration fields that no tensor tells.
        labels: see [`load_labels`]; or what it returned.
        num_frames, image_size: another number of frames or frame size, which position embeddings are interpolated to. An
            image checkpoint with `num_frames` becomes the start of a video model: temporal embeddings of zero, no head.
        tubelet_size, inflation: for an image checkpoint that becomes a video model, see [`inflate`].
        num_labels: keep the first rows of the head only; the first 400 of a head for Kinetics-710 are Kinetics-400's.
        assume_videomamba: the checkpoint is VideoMamba's, whatever the file says, see [`refuse_twins`].

    Returns:
        The model, and remarks on what was left out or made up.

    Raises:
        CheckpointError: if the file is damaged, or is not a checkpoint that fits; or for an argument that does not fit it.
    """
    file = read_official(source)
    official = file.tensors
    if is_video_text(official):
        if labels is not None or num_labels is not None or tubelet_size is not None:
            raise CheckpointError("--labels, --num-labels and --tubelet-size are not for a video-text checkpoint.")
        return _convert_video_text(file, overrides or {}, num_frames, image_size)
    config = infer_config(official, overrides or {})
    tensors, left_out = to_ours(official)
    remarks = [f"left out, of use in training only: {', '.join(left_out)}"] if left_out else []
    check_blocks(official, "layers.")
    check_values({name: tensor for name, tensor in official.items() if name not in left_out})
    if not assume_videomamba:
        remarks += refuse_twins(file)
    remarks += file.remarks
    with torch.device("meta"):
        expected = to_official(class_for(tensors, config)(config).state_dict(), config)
    check_against(expected, {name: tensor for name, tensor in official.items() if name not in left_out})

    from_image = num_frames is not None and config.num_frames is None
    if tubelet_size is not None and not from_image:
        raise CheckpointError("--tubelet-size is for an image checkpoint that becomes a video model with --num-frames.")
    if num_labels is not None:
        if "classifier.weight" not in tensors:
            raise CheckpointError(f"--num-labels {num_labels}: the checkpoint has no head.")
        if not 1 <= num_labels <= config.num_labels:
            raise CheckpointError(
                f"--num-labels {num_labels}: the checkpoint's head has {config.num_labels} rows, keep 1 or more."
            )
        tensors |= {name: tensors[name][:num_labels].clone() for name in ("classifier.weight", "classifier.bias")}
        config.num_labels = num_labels
    _check_sizes(config, num_frames, image_size, tubelet_size)
    if from_image:
        sizes = {"num_frames": num_frames, "tubelet_size": 1 if tubelet_size is None else tubelet_size}
        try:
            config = VideoMambaConfig.from_dict(config.to_dict() | sizes)
        except StrictDataclassError as error:
            raise CheckpointError(f"--num-frames {num_frames} --tubelet-size {sizes['tubelet_size']}: {error}") from error
        kernel = "videomamba.embeddings.patch_embeddings.projection.weight"
        tensors[kernel] = inflate(tensors[kernel], config.tubelet_size, inflation)
        temporal = torch.zeros(1, config.num_temporal_positions, config.hidden_size)
        tensors["videomamba.embeddings.temporal_position_embeddings"] = temporal
        remarks.append("an image model becomes a video model: temporal position embeddings of zero, the image head left out")
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier.")}

    model_class = class_for(tensors, config)
    if model_class in (VideoMambaForVideoClassification, VideoMambaForImageClassification):
        if labels is not None:
            names = load_labels(labels, config.num_labels) if isinstance(labels, str) else labels
            if len(names) != config.num_labels:
                raise CheckpointError(
                    f"There are {len(names)} labels for the {config.num_labels} rows of the checkpoint's head."
                )
            config.id2label = names
            config.label2id = {name: i for i, name in config.id2label.items()}
        else:
            remarks.append("no --labels: classes are called LABEL_0, LABEL_1, ...")
    else:
        if labels is not None:
            raise CheckpointError("--labels given, but the converted model has no classification head.")
        remarks.append("no classification head: from_pretrained(..., num_labels=N) of a classifier adds a new one")
        if model_class is VideoMambaForPreTraining:
            remarks.append("fine-tuning starts from the final norm stored here, the official code from ones")
        else:
            tensors = {name.removeprefix("videomamba."): tensor for name, tensor in tensors.items()}
    with torch.device("meta"):
        model = model_class(config)
    model.load_state_dict(_apart(tensors), assign=True)
    _resize(model, num_frames, image_size)
    return model.eval(), remarks


def _convert_video_text(
    file: CheckpointFile, overrides: dict[str, Any], num_frames: int | None, image_size: int | None
) -> tuple[VideoMambaVideoTextPreTrainedModel, list[str]]:
    """As [`convert`]: a model of pretraining if it guesses words, else one for retrieval."""
    official = file.tensors
    config = infer_video_text_config(official, overrides)
    tensors, left_out = video_text_to_ours(official)
    check_blocks(official, f"{VISION}layers.")
    check_blocks(official, f"{BERT_IN_PRETRAINING if is_pretrained(official) else BERT}encoder.layer.")
    check_values({name: tensor for name, tensor in official.items() if name not in left_out})
    _check_sizes(config.vision_config, num_frames, image_size)
    model_class = VideoMambaForVideoTextPreTraining if is_pretrained(official) else VideoMambaForVideoTextRetrieval
    with torch.device("meta"):
        model = model_class(config)
        expected = video_text_to_official(model.state_dict())
    check_against(expected, {name: tensor for name, tensor in official.items() if name not in left_out})
    if model_class is VideoMambaForVideoTextPreTraining:
        for head, source in model_class._tied_weights_keys.items():
            if not torch.equal(tensors[head], tensors[source]):
                raise CheckpointError(f"{head} and {source} are one tensor in the model, but differ in the checkpoint.")
    model = model_class(config)
    model.load_state_dict(tensors)
    remarks = [*([f"left out: {' and '.join(_families(left_out))}"] if left_out else []), *file.remarks]
    _resize(model.vision_model, num_frames, image_size)
    return model.eval(), remarks


def _families(names: list[str]) -> list[str]:
    counts = Counter(name.split(".")[0] if name.startswith("clip_teacher.") else name for name in names)
    return [f"{count} tensors of the CLIP teacher" if name == "clip_teacher" else name for name, count in counts.items()]


def _apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors, each in memory of its own: views, and what shares memory with another, cannot be saved and are copied."""
    apart, seen = {}, set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        alone = tensor.is_contiguous() and storage.nbytes() == tensor.nbytes and storage.data_ptr() not in seen
        apart[name] = tensor if alone else tensor.clone(memory_format=torch.contiguous_format)
        seen.add(storage.data_ptr())
    return apart


def _check_sizes(
    config: VideoMambaConfig, num_frames: int | None, image_size: int | None, tubelet_size: int | None = None
) -> None:
    """Raises `CheckpointError` if what is to be made for these sizes would hold an absurd number of values."""
    side = ((image_size or 0) - config.patch_size) // config.stride + 1
    made = {
        f"--num-frames {num_frames}": (num_frames or 0) * config.hidden_size,
        f"--image-size {image_size}": side * side * config.hidden_size,
        f"--tubelet-size {tubelet_size}": (tubelet_size or 0)
        * config.hidden_size
        * config.num_channels
        * config.patch_size**2,
    }
    for what, values in made.items():
        if values > MOST_VALUES:
            raise CheckpointError(f"{what} makes a tensor of {values:,} values: at most {MOST_VALUES:,} are made.")


def _resize(model: VideoMambaPreTrainedModel, num_frames: int | None, image_size: int | None) -> None:
    if num_frames is None and image_size is None:
        return
    try:
        model.resize_position_embeddings(image_size, num_frames)
    except StrictDataclassError as error:
        raise CheckpointError(f"--num-frames {num_frames} --image-size {image_size}: {error}") from error


def class_for(tensors: dict[str, torch.Tensor], config: VideoMambaConfig) -> type[VideoMambaPreTrainedModel]:
    """The class that has a place for all tensors, by our names."""
    if any(name.startswith("alignment_heads.") for name in tensors):
        return VideoMambaForPreTraining
    if "classifier.weight" not in tensors:
        return VideoMambaModel
    return VideoMambaForVideoClassification if config.num_frames else VideoMambaForImageClassification


def convert_released(
    checkpoint: ReleasedCheckpoint, force_download: bool = False, **cache_options
) -> tuple[VideoMambaPreTrainedModel, list[str], Path]:
    """Downloads and converts a released checkpoint; also returns the path of the official file.

    `model.config.official_revision` is the commit of the hub's repository that the file is from. The options are those of
    [`download`].

    Raises:
        DownloadError: see [`download`].
        CheckpointError: if the file is not what the table says.
    """
    file = download(checkpoint, force_download=force_download, **cache_options)
    path = file.path
    has_names = checkpoint.dataset in LABEL_FILES or checkpoint.dataset == "breakfast"
    labels = None
    if has_names and checkpoint.top1 is not None:
        labels = load_labels(checkpoint.dataset, NUM_LABELS[checkpoint.dataset], **cache_options)
    model, remarks = convert(path, labels=labels, assume_videomamba=True)
    expected = expected_config(checkpoint)
    config = getattr(model.config, "vision_config", model.config)
    fields = ["hidden_size", "num_hidden_layers", "num_frames", "image_size"]
    fields += ["num_labels"] if expected.num_labels else []
    found = {name: getattr(config, name) for name in fields} | {"parameters": model.num_parameters()}
    wanted = {name: getattr(expected, name) for name in fields} | {"parameters": checkpoint.parameters}
    if wrong := [f"{name} is {found[name]} instead of {wanted[name]}" for name in found if found[name] != wanted[name]]:
        raise CheckpointError(
            f"{checkpoint.file} is not {checkpoint.id}: {'; '.join(wrong)}. To convert it all the same, give its path: {path}"
        )
    model.config.official_revision = file.revision
    remarks.append(f"from revision {file.revision} of {REPOSITORY}, sha256 {file.sha256 or 'not stated by the hub'}")
    return model, remarks, path


def save(
    model: VideoMambaPreTrainedModel,
    output_dir: str | Path,
    card: str,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    """Writes the model directory, with `card` as its README.md, beside its place first, then moves it there whole.

    Raises:
        OSError: if the directory cannot be written, or is there already and not empty.
    """
    with written_whole(output_dir) as unfinished:
        try:
            model.save_pretrained(unfinished)
        except SafetensorError as error:  # of a full disk
            raise OSError(f"Cannot write {output_dir}: {error}") from error
        processor_for(model.config).save_pretrained(unfinished)
        if tokenizer is not None:
            tokenizer.save_pretrained(unfinished)
        (unfinished / "README.md").write_text(card, encoding="utf-8")


def save_official(directory: str | Path, output_file: str | Path) -> None:
    """Writes the weights of a model directory as an official-layout `.pth`, a state dict under "model".

    Raises:
        CheckpointError: if the directory does not hold a model of this package, whole and as its configuration says.
        OSError: if the file cannot be written, or is there already.
    """
    architecture, shapes = read_directory(directory)
    classes = {model_class.__name__: model_class for model_class in (*CLASSES, *VIDEO_TEXT_CLASSES)}
    if (model_class := classes.get(architecture)) is None:
        raise CheckpointError(f"{directory}: config.json states the architecture {architecture!r}, not one of this package.")
    try:
        config = model_class.config_class.from_pretrained(directory)
        with torch.device("meta"):
            expected = model_class(config).state_dict()
        tied = getattr(model_class, "_tied_weights_keys", None) or {}
        check_against({name: tensor for name, tensor in expected.items() if name in shapes or name not in tied}, shapes)
        model = model_class.from_pretrained(directory, dtype="auto")
    except CheckpointError as error:
        raise CheckpointError(f"{directory} does not hold the weights of its configuration. {error}") from error
    except (StrictDataclassError, RuntimeError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise CheckpointError(f"{directory} does not hold a model that can be loaded: {error}") from error
    tensors = model.state_dict()
    is_video_text = isinstance(model.config, VideoMambaVideoTextConfig)
    official = video_text_to_official(tensors) if is_video_text else to_official(tensors, model.config)
    with written_whole(output_file) as unfinished, unfinished.open("wb") as file:
        try:
            torch.save({"model": official}, file)
        except RuntimeError as error:  # of a full disk: raised on top of the file's own OSError
            raise OSError(f"Cannot write {output_file}: {error.__context__ or error}") from error
