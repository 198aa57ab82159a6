"""Reads the tensors of a checkpoint file, and refuses a file that is damaged, is something else, or would run code."""

import argparse
import pickle
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


# What a download leaves in place of a checkpoint, by its first bytes in lower case, and what to do.
NOT_CHECKPOINTS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file it points to: run `git lfs pull`, or download the file",
    b"<": "a web page or XML, not a checkpoint: the download got an error page, so download it again",
    b"{": "JSON text, not a checkpoint",
    b"\x1f\x8b": "gzip-compressed: decompress it first",
    b"\xfd7zxz": "xz-compressed: decompress it first",
    b"gguf": "a GGUF file, not a PyTorch or safetensors checkpoint",
    b"\x89hdf": "an HDF5 file, not a PyTorch or safetensors checkpoint",
}
NO_CHECKSUMS = (
    "the file is in PyTorch's format from before 1.6, which has no checksums: damage to the stored values cannot be noticed"
)


class CheckpointError(ValueError):
    """A file that is not what it should be; the message names the offending key or value."""


@dataclass(frozen=True)
class CheckpointFile:
    """The state dict of a file, and what else the file says.

    Attributes:
        path: where it was read from.
        tensors: by the names in the file; dense CPU tensors of any dtype.
        arguments: of the training loop that wrote the file; empty if it holds none.
        remarks: what a reader of the file should know.
    """

    path: Path
    tensors: dict[str, Tensor]
    arguments: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def read_file(path: str | Path) -> CheckpointFile:
    """The state dict of a safetensors file or a PyTorch file, told apart by content.

    A PyTorch file holds a bare state dict, one under "model" or "module", or a whole training loop. Its checksums are
    verified, and nothing in it is executed: only tensors, containers and the `argparse.Namespace` that the official training
    loop stores are unpickled.

    Raises:
        CheckpointError: if the file is missing, damaged, not a checkpoint, would execute code, or holds anything but dense
            tensors whose values are all in the file.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(
            f"{path} is a directory, not a checkpoint file. A model directory of transformers needs no conversion: "
            "from_pretrained loads it, and --to-official writes its weights in the official layout."
        )
    if not path.exists():
        raise CheckpointError(f"No such checkpoint file: {path}")
    if not path.is_file():
        raise CheckpointError(f"{path} is not a regular file.")
    try:
        content, remarks = _load(path)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        reason = _first_line(str(error).split("WeightsUnpickler error:")[-1])
        raise CheckpointError(
            f"Refused to load {path}: it holds more than tensors, or is damaged ({reason}). Nothing was run."
        ) from error
    except Exception as error:  # safetensors, zip and torch raise errors of their own for a damaged file
        reason = f"{type(error).__name__}: {_first_line(str(error))}"
        raise CheckpointError(f"{path} is not a readable checkpoint ({reason})") from error

    state_dict, where = content, "at the top"
    if isinstance(content, dict):
        for key in ("model", "module"):
            if key in content:
                state_dict, where = content[key], f"under {key!r}"
                break
    arguments = content.get("args") if isinstance(content, dict) else None
    arguments = vars(arguments) if isinstance(arguments, argparse.Namespace) else {}
    _check_state_dict(path, state_dict, where)
    return CheckpointFile(path, dict(state_dict), arguments, remarks)


def _load(path: Path) -> tuple[Any, list[str]]:
    """What the file holds, and remarks."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise CheckpointError(f"{path} is empty: it has 0 bytes.")
    if zipfile.is_zipfile(path):
        _check_archive(path)
        return _unpickle(path), []
    if head.startswith(b"PK\x03\x04"):
        raise CheckpointError(f"{path} is a truncated PyTorch archive: its end is missing. Copy or download it again.")
    if head[8:9] == b"{":  # after the length of the header in 8 bytes
        return load_file(path), []
    for start, what in NOT_CHECKPOINTS.items():
        if head.lstrip().lower().startswith(start):
            raise CheckpointError(f"{path} is {what}.")
    if path.suffix == ".safetensors" or not head.startswith(b"\x80"):  # the first byte of a pickle
        raise CheckpointError(f"{path} is neither a PyTorch checkpoint nor a safetensors file, or its beginning is damaged.")
    return _unpickle(path), [NO_CHECKSUMS]


def _unpickle(path: Path) -> Any:
    """Not mapped from the file: then PyTorch would not compare the size of a part with that of its tensor.

    Nor from the path, by whose suffix PyTorch would take it for a safetensors file.
    """
    with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("ignore")  # of old pickle protocols and storages
        return torch.load(file, map_location="cpu", weights_only=True, mmap=False)


def _check_archive(path: Path) -> None:
    """Verifies the checksums of a PyTorch archive, which `torch.load` does not, a megabyte at a time."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.filename.split("/")[1:2] == ["code"] for entry in entries):
            raise CheckpointError(f"{path} is a TorchScript program, not a checkpoint: save model.state_dict() instead.")
        if not any(entry.filename.endswith("/data.pkl") for entry in entries):
            raise CheckpointError(f"{path} is a zip archive, but not one that torch.save wrote: it has no data.pkl.")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise CheckpointError(f"{path} is a compressed zip archive, which torch.save does not write.")
        if (damaged := archive.testzip()) is not None:
            raise CheckpointError(
                f"{path} is damaged: the checksum of its part {damaged} does not hold. Copy or download it again. (If it "
                "was saved under set_crc32_options(False) of torch.serialization: save it again without that.)"
            )


def _check_state_dict(path: Path, state_dict: Any, where: str) -> None:
    if not isinstance(state_dict, dict):
        raise CheckpointError(
            f"{path} holds no state dict, neither at the top nor under 'model' or 'module': {where} is a "
            f"{type(state_dict).__name__}."
        )
    if not state_dict:
        raise CheckpointError(f"{path} holds no state dict: the one {where} is empty.")
    if not any(isinstance(value, Tensor) for value in state_dict.values()):
        keys = some([str(key) for key in state_dict])
        raise CheckpointError(f"{path} holds no state dict, neither at the top nor under 'model' or 'module', but {keys}.")
    for name, value in state_dict.items():
        if not isinstance(name, str) or not name:
            raise CheckpointError(f"{path}: the key {name!r} of the state dict {where} is not a name.")
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: {name} is not a tensor but of type {type(value).__name__}.")
        if problem := _problem(value):
            raise CheckpointError(f"{path}: {name} {problem}.")


def _problem(tensor: Tensor) -> str | None:
    """Why these cannot be weights whose values are in the file; `None` if they can be."""
    if tensor.device.type != "cpu":
        return f"is on the device {tensor.device.type!r}: its values are not in the file"
    if tensor.is_nested:
        return "is a nested tensor, not a dense one"
    if tensor.layout != torch.strided:
        return f"is sparse ({tensor.layout}), not a dense tensor"
    if tensor.is_quantized:
        return f"is quantised ({tensor.dtype}): dequantise it before saving"
    if tensor.numel() == 0:
        return f"has shape {tuple(tensor.shape)}, so no values"
    stored = tensor.untyped_storage().nbytes()
    if tensor.numel() * tensor.element_size() > stored:
        return (
            f"has shape {tuple(tensor.shape)}, but the file stores {stored:,} bytes for it: a view that repeats values; call "
            ".contiguous() before saving"
        )
    return None


def check_values(tensors: dict[str, Tensor]) -> None:
    """Checks that tensors are finite floating-point numbers.

    Raises:
        CheckpointError: naming the tensors that are not.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(f"{name} has dtype {dtype}: weights are float32, bfloat16, float16 or float64.")
    counts = {name: tensor.numel() - int(tensor.isfinite().sum()) for name, tensor in tensors.items()}
    if not_finite := [f"{name} ({count:,} of {tensors[name].numel():,})" for name, count in counts.items() if count]:
        raise CheckpointError(
            f"Weights that are not finite (NaN or infinity): {some(not_finite)}. The file is damaged or its training diverged."
        )


def some(names: list[str], most: int = 5) -> str:
    """The first of the names, and how many more there are."""
    rest = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(name if name and name.isprintable() else repr(name) for name in names[:most]) + rest


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0]
