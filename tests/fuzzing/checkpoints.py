"""Damaged official checkpoints: what `convert` makes of them. The right result is exactly what the undamaged file gives."""

import functools
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from numpy.random import Generator
from safetensors.torch import load_file, save
from torch import Tensor

from modeling_videomamba.checkpoints.converter import convert

from ..conftest import FIXTURES
from .mutations import damage
from .outcomes import Case, ClearError, Fault, attempt


SOURCES = [
    *["pth_checkpoints/raw_state_dict.pth", "pth_checkpoints/module.pth", "pth_checkpoints/model_only.pth"],
    *["pth_checkpoints/train_loop.pth", "pth_checkpoints/checkpoint.safetensors", "video_cls_t8_s64/checkpoint.safetensors"],
    *["video_cls_layernorm/checkpoint.safetensors", "video_cls_unidirectional/checkpoint.safetensors"],
    *["image_cls_base/checkpoint.safetensors", "pretrain_k1/checkpoint.safetensors", "umt_full/checkpoint.safetensors"],
]
CODE_WAS_RUN = "code was run"  # the name of a file
LEFT_OUT = ["distill_head.weight", "pool_norm.bias"]  # names that are read over: of heads that only trainings have
READ_OVER = ("clip_teacher.", "text_encoder.bert.embeddings.position_ids")
SIZES_TELL = (
    "pos_embed",
    "temporal_pos_embedding",
    "patch_embed.proj.weight",
    "_embeddings.weight",
)  # another model, as valid


class Converted(NamedTuple):
    architecture: str
    config: dict
    tensors: dict[str, Tensor]


class RunsCode:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return (open, (str(self.path), "w"))


def prepare() -> None:
    for source in SOURCES:
        reference(source)


@functools.cache
def tensors_of(source: str) -> dict[str, Tensor]:
    """A checkpoint's tensors by official name, those left out that no conversion looks at."""
    path = FIXTURES / source
    content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=False)
    content = content.get("model", content.get("module", content))
    return {name: tensor for name, tensor in content.items() if not name.startswith(READ_OVER)}


@functools.cache
def reference(source: str) -> Converted:
    """What the undamaged file gives."""
    return _convert(FIXTURES / source)


def make_case(random: Generator, folder: Path) -> Case:
    source = SOURCES[random.integers(len(SOURCES))]
    make = [_damaged_file] * 4 + [_altered_tensor] * 5 + [_altered_names] * 5 + [_altered_structure, _with_code]
    damaged = make[random.integers(len(make))](random, source, folder)
    path = folder / f"checkpoint{damaged.suffix}"
    path.write_bytes(damaged.content)
    return Case(f"{source}: {damaged.mutation}", lambda: check(path, source, damaged))


class _Damaged(NamedTuple):
    mutation: str
    content: bytes
    suffix: str
    must_fail: bool = False
    dtype: torch.dtype = torch.float32
    names: tuple[str, ...] = ()  # of the tensors in it, of which an error may speak in place of the file


def check(path: Path, source: str, damaged: _Damaged) -> ClearError | None:
    """Converts the file, and compares with the undamaged one."""
    answer = attempt(lambda: _convert(path), mentions=[str(path), *tensors_of(source), *filter(None, damaged.names)])
    if (path.parent / CODE_WAS_RUN).exists():
        raise Fault("code in the file was run")
    if isinstance(answer, ClearError):
        return answer
    if damaged.must_fail:
        raise Fault("it is converted")
    expected = reference(source)
    if answer.architecture != expected.architecture:
        raise Fault(f"it becomes a {answer.architecture} instead of a {expected.architecture}, in silence")
    if other := [name for name in expected.config if answer.config.get(name) != expected.config[name]]:
        raise Fault(f"another {', '.join(other)}, in silence")
    if answer.tensors.keys() != expected.tensors.keys():
        raise Fault(f"other tensors: {sorted(answer.tensors.keys() ^ expected.tensors.keys())[:5]}")
    for name, tensor in expected.tensors.items():
        if not torch.equal(tensor.to(damaged.dtype).float(), answer.tensors[name].float()):
            raise Fault(f"{name} is another, in silence")
    return None


def _convert(path: Path) -> Converted:
    model, _ = convert(path)
    config = {name: value for name, value in model.config.to_dict().items() if name != "dtype"}
    return Converted(type(model).__name__, config, model.state_dict())


def _as_pth(content: object, in_zip: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=in_zip)
    return file.getvalue()


def _damaged_file(random: Generator, source: str, folder: Path) -> _Damaged:
    """Bytes, of which a `.safetensors` has a checksum for none, so only those of its header; or the records of an archive."""
    content, suffix = (FIXTURES / source).read_bytes(), Path(source).suffix
    if suffix == ".safetensors":
        header = 8 + int.from_bytes(content[:8], "little")
        mutation, damaged = damage(random, content[:header])
        return _Damaged(f"header: {mutation}", damaged + content[header:], suffix)
    if random.random() < 0.7:
        return _Damaged(*damage(random, content), suffix)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    i, how = int(random.integers(len(records))), int(random.integers(3))
    name, record = records[i]
    records[i : i + 1] = [[], [(name, record[: len(record) // 2])], [(f"{name}x", record)]][how]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name_and_record in records:
            archive.writestr(*name_and_record)
    return _Damaged(f"record {name} {['removed', 'cut', 'renamed'][how]}", file.getvalue(), suffix)


def _written(
    random: Generator,
    mutation: str,
    tensors: dict[str, Tensor],
    must_fail: bool,
    dtype: torch.dtype = torch.float32,
) -> _Damaged:
    """Tensors in one of the formats that hold them."""
    names = tuple(tensors)
    if random.random() < 0.5 and all(_fits_safetensors(tensor) for tensor in tensors.values()):
        content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        return _Damaged(f"{mutation}, in a .safetensors", content, ".safetensors", must_fail, dtype, names)
    in_zip = random.random() < 0.8
    content = _as_pth({"model": tensors} if random.random() < 0.5 else tensors, in_zip)
    return _Damaged(f"{mutation}, in a {'' if in_zip else 'legacy '}.pth", content, ".pth", must_fail, dtype, names)


def _fits_safetensors(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized and tensor.numel() < 1e6


def _altered_tensor(random: Generator, source: str, folder: Path) -> _Damaged:
    tensors = dict(tensors_of(source))
    name = list(tensors)[random.integers(len(tensors))]
    tensor = tensors[name].clone()
    alterations: dict[str, Callable[[], Tensor]] = {
        "nan in": lambda: _with_value(random, tensor, float("nan")),
        "infinity in": lambda: _with_value(random, tensor, float("inf")),
        "int64": lambda: (tensor * 1000).long(),
        "bool": lambda: tensor > 0,
        "uint8": lambda: (tensor * 100).to(torch.uint8),
        "complex": lambda: torch.complex(tensor, tensor),
        "fp8": lambda: tensor.to(torch.float8_e4m3fn),
        "sparse": lambda: tensor.to_sparse(),
        "quantised": lambda: torch.quantize_per_tensor(tensor, 0.01, 0, torch.qint8),
        "on the meta device": lambda: tensor.to("meta"),
        "expanded to 10^12 in": lambda: torch.zeros(1).expand(10**12),
        "widened": lambda: tensor[..., :1].expand(*tensor.shape[:-1], 10**9) if tensor.ndim else torch.zeros(2),
        "flat": lambda: tensor.flatten()[None, None, None, None, None],
        "without dimensions": lambda: torch.tensor(0.5)[()] if tensor.ndim else tensor[None],
        "empty": lambda: tensor[:0] if tensor.ndim else torch.empty(0),
    }
    if not name.endswith(SIZES_TELL) and tensor.ndim:
        axis = int(random.integers(tensor.ndim))
        alterations["one longer"] = lambda: torch.cat([tensor, tensor.narrow(axis, 0, 1)], axis)
        alterations["one shorter"] = lambda: tensor.narrow(axis, 0, tensor.shape[axis] - 1)
    if random.random() < 0.1:
        dtype = [torch.float16, torch.bfloat16, torch.float64][random.integers(3)]
        return _written(random, f"all in {dtype}", {name: x.to(dtype) for name, x in tensors.items()}, False, dtype)
    how = list(alterations)[random.integers(len(alterations))]
    tensors[name] = alterations[how]()
    return _written(random, f"{how} {name}", tensors, must_fail=True)


def _with_value(random: Generator, tensor: Tensor, value: float) -> Tensor:
    tensor.view(-1)[random.integers(tensor.numel())] = value
    return tensor


def _altered_names(random: Generator, source: str, folder: Path) -> _Damaged:
    """Keys missing, added, renamed, doubled or prefixed."""
    tensors = dict(tensors_of(source))
    name = list(tensors)[random.integers(len(tensors))]
    tensor = tensors[name]
    how = int(random.integers(8))
    if how == 0:
        del tensors[name]
        return _written(random, f"without {name}", tensors, True)
    if how == 1:
        new = [name + "x", name.upper(), f"x.{name}", name.replace(".", "_") + "_", "", "layers", name + "\n"][
            random.integers(7)
        ]
        return _written(random, f"{name} called {new!r}", {new if old == name else old: x for old, x in tensors.items()}, True)
    if how == 2:
        extra = ["x", "layers.0.mixer.A_c_log", "layers.-1.norm.weight", "layers.00.norm.weight", "head.extra"][
            random.integers(5)
        ]
        return _written(random, f"{extra} added", tensors | {extra: tensor.clone()}, True)
    if how == 3:
        extra = LEFT_OUT[random.integers(len(LEFT_OUT))]
        return _written(random, f"{extra} added", tensors | {extra: tensor.clone()}, False)
    if how == 4:
        index = [10, 10_000, 10**9, 10**20][random.integers(4)]
        return _written(random, f"a layer {index}", tensors | {f"layers.{index}.norm.weight": tensor.clone()}, True)
    if how == 5:
        extra = ["backbone.", "encoder.", "module.", "model."][random.integers(4)] + name
        return _written(random, f"{extra} beside {name}", tensors | {extra: tensor + 1}, True)
    prefix = ["backbone.", "encoder.", "module.", "model.", "_orig_mod."][random.integers(5)]
    return _written(random, f"prefix {prefix}", {prefix + old: x for old, x in tensors.items()}, False)


def _altered_structure(random: Generator, source: str, folder: Path) -> _Damaged:
    tensors = tensors_of(source)
    some = next(iter(tensors.values()))
    wrong = [None, 3, "text", [], {}, list(tensors.values()), some, {"model": None}, {"model": {}}, {"model": some}, {1: some}]
    wrong += [tensors | {"epoch": 3}, tensors | {3: some}, {"model": [tensors]}]
    whole = [{"model": {"model": tensors}}, {"module": tensors, "epoch": 3}, {"state_dict": tensors}, {"model_ema": tensors}]
    i = int(random.integers(len(wrong) + len(whole)))
    return _Damaged(f"structure {i}", _as_pth([*wrong, *whole][i], random.random() < 0.7), ".pth", i < len(wrong))


def _with_code(random: Generator, source: str, folder: Path) -> _Damaged:
    tensors, code = tensors_of(source), RunsCode(folder / CODE_WAS_RUN)
    content = [code, {"model": tensors, "args": code}, tensors | {"x": code}, {"model": code}][random.integers(4)]
    suffix = [".pth", ".pt", ".bin", ".safetensors"][random.integers(4)]
    return _Damaged("code", _as_pth(content, random.random() < 0.5), suffix, True)
