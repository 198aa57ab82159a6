"""Many copies of the code in one process: each version has operators of its own, and none takes another's."""

import ast
import importlib
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from modeling_videomamba import VideoMambaForVideoClassification, VideoMambaForVideoTextRetrieval, operators
from tests.conftest import small_config, small_video_text_config


PACKAGE = Path(operators.__file__).parent
TWICE = {  # changes that double what the scan returns, and its gradients
    "scan_operators.py": [
        ("return load(backend).scan(Dir", "return _twice(load(backend).scan)(Dir"),
        ("# The scan\n", "def _twice(f):\n    return lambda *args: (lambda y, *rest: (2 * y, *rest))(*f(*args))\n"),
        ("scan_backward(grad, y, starts, directions)", "scan_backward(2 * grad, y, starts, directions)"),
    ],
}


def double(folder: Path) -> None:
    for name, changes in TWICE.items():
        source = (folder / name).read_text()
        for before, after in changes:
            assert source.count(before) == 1, (name, before)
            source = source.replace(before, after)
        (folder / name).write_text(source)


@pytest.fixture
def copy_of(tmp_path, monkeypatch):
    """Imports a copy of the code under another name, and returns its `scan_operators`."""

    def import_copy(name: str, change=lambda folder: None, package: str | None = None) -> types.ModuleType:
        folder = tmp_path / name
        shutil.copytree(PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__", "__init__.py"))
        change(folder)
        module = types.ModuleType(package or name)
        module.__path__ = [str(folder)]
        for known in [key for key in sys.modules if key.split(".")[0] == module.__name__]:
            monkeypatch.delitem(sys.modules, known)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return importlib.import_module(f"{module.__name__}.scan_operators")

    return import_copy


def namespace(scan: types.ModuleType) -> str:
    return scan.scan_operator.overload.namespace


@pytest.fixture
def direction():
    torch.manual_seed(0)
    shapes = {"u": (2, 9, 4), "delta": (2, 9, 4), "A": (4, 3), "B": (2, 9, 3), "C": (2, 9, 3), "D": (4,), "delta_bias": (4,)}
    return [(-torch.rand(shape) if name == "A" else torch.randn(shape)).requires_grad_() for name, shape in shapes.items()]


def scanned(scan, direction):
    """Outputs and gradients, in eager, compiled and exported."""

    class Scan(torch.nn.Module):
        def forward(self, *direction):
            return scan.scan([[x] for x in direction], None, [False], True, False, "torch")[0]

    compiled = torch.compile(Scan(), fullgraph=True, backend="aot_eager")
    results = []
    for run in (Scan(), compiled, torch.export.export(Scan(), tuple(direction)).module()):
        y = run(*direction)
        results.append([y, *torch.autograd.grad(y.square().sum(), direction)])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])
    return results[0]


def test_the_package_can_be_imported_again(monkeypatch):
    from transformers import AutoConfig

    before = importlib.import_module("modeling_videomamba")
    importlib.reload(before)
    for name in [name for name in sys.modules if name.split(".")[0] == "modeling_videomamba"]:
        monkeypatch.delitem(sys.modules, name)
    again = importlib.import_module("modeling_videomamba")
    model = again.VideoMambaForVideoClassification(again.VideoMambaConfig(**small_config().to_diff_dict()))
    assert again.VideoMambaConfig is not before.VideoMambaConfig
    assert type(AutoConfig.for_model("videomamba")) is again.VideoMambaConfig
    clip = torch.randn(1, 4, 3, 32, 32)
    try:
        before.VideoMambaForVideoClassification(small_config())(clip).logits.sum().backward()
        model(clip).logits.sum().backward()
    finally:
        for config in (before.VideoMambaConfig, before.VideoMambaVideoTextConfig):
            AutoConfig.register(config.model_type, config, exist_ok=True)


class TestCopies:
    def test_of_another_version_keep_to_themselves_whoever_comes_first(self, copy_of, direction):
        here = importlib.import_module("modeling_videomamba.scan_operators")
        expected = scanned(here, direction)
        other = copy_of("changed", double)
        twice = [2 * expected[0], *(4 * grad for grad in expected[1:])]
        torch.testing.assert_close(scanned(other, direction), twice)
        torch.testing.assert_close(scanned(here, direction), expected)
        torch.testing.assert_close(scanned(other, direction), twice)
        equal = copy_of("equal")
        torch.testing.assert_close(scanned(equal, direction), expected)
        torch.testing.assert_close(scanned(other, direction), twice)
        assert len({namespace(scan) for scan in (here, other, equal)}) == 3

    def test_that_are_equal_share_one_registration(self, copy_of):
        first, second = copy_of("first"), copy_of("second")
        assert first.scan_operator is second.scan_operator
        assert namespace(first).startswith("modeling_videomamba_")

    def test_only_the_installed_package_has_the_name_that_saved_programs_know(self, copy_of):
        scan = importlib.import_module("modeling_videomamba.scan_operators")
        assert scan.scan_operator.overload is torch.ops.modeling_videomamba.selective_scan.default
        assert namespace(copy_of("vendored")) != "modeling_videomamba"

    def test_the_package_again(self, copy_of):
        """As after a reload: unchanged, it finds its operators; changed, it gets new ones, and the old ones stay."""
        before = importlib.import_module("modeling_videomamba.scan_operators")
        assert copy_of("unchanged", package="modeling_videomamba").scan_operator is before.scan_operator
        changed = copy_of("edited", double, package="modeling_videomamba")
        assert namespace(changed) != "modeling_videomamba"
        assert torch.ops.modeling_videomamba.selective_scan.default is before.scan_operator.overload

    def test_whose_sources_cannot_be_read_share_nothing(self, copy_of):
        def hide(folder):
            source = (folder / "operators.py").read_text()
            (folder / "operators.py").write_text(source.replace("__loader__.get_data(", "__loader__.no_such_method("))

        first, second = copy_of("frozen", hide), copy_of("frozen_too", hide)
        assert len({namespace(first), namespace(second), "modeling_videomamba"}) == 3


def test_the_digest_covers_all_that_operators_are_made_of():
    def siblings(path):
        nodes = ast.walk(ast.parse(path.read_text()))
        return {f"{node.module}.py" for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 1}

    found = {path.name for path in PACKAGE.glob("*.py") if "custom_operator(" in path.read_text()}
    while (more := {name for known in found for name in siblings(PACKAGE / known)}) - found:
        found |= more
    assert sorted(found) == sorted(operators.SOURCES)


REMOTE = """
import sys
import torch
from transformers import AutoModel, AutoModelForVideoClassification
torch.manual_seed(0)
clip, text = torch.randn(2, 4, 3, 32, 32), torch.tensor([[2, 7, 9, 3], [2, 5, 6, 3]])

def load(name):
    if name == "package":
        sys.path.insert(0, {root!r})
        from modeling_videomamba import VideoMambaForVideoClassification
        model = VideoMambaForVideoClassification.from_pretrained("a")
    else:
        auto = AutoModel if name == "video_text" else AutoModelForVideoClassification
        model = auto.from_pretrained(name, trust_remote_code=True)
        assert type(model).__module__.startswith("transformers_modules."), type(model)
    for module in model.modules():
        if hasattr(module, "scan_implementation"):
            module.scan_implementation = {implementation!r}
    return model.eval()

def scores(name, model):
    return model(text, clip).logits_per_video if name == "video_text" else model(clip).logits

def use(name, model):
    model.zero_grad()
    output = scores(name, model)
    output.square().sum().backward()
    return {{"output": output.detach()}} | {{n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}}

def check(name, model, expected):
    for key, value in use(name, model).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=1e-4 * expected[key].abs().max().item(), msg=key)

models, expected = {{}}, {{}}
for name in {names!r}:
    models[name] = load(name)
    expected[name] = use(name, models[name])
    for other in models:
        check(other, models[other], expected[other])
for name in {compiled!r}:
    model = models[name]
    compiled = torch.compile(model, fullgraph=True, backend={backend!r})
    check(name, compiled, {{f"_orig_mod.{{n}}" if n != "output" else n: x for n, x in expected[name].items()}})
    with torch.no_grad():
        exported = torch.export.export(model, (clip,)).module()
    torch.testing.assert_close(exported(clip).logits, expected[name]["output"], rtol=1e-4, atol=1e-5)
torch.save(expected, "results.pt")
"""


@pytest.mark.parametrize(
    ("names", "compiled", "implementation", "backend"),
    [
        (["a", "changed", "video_text", "package"], ["a"], "torch", "aot_eager"),
        *(
            pytest.param(
                names, [name for name in names if name != "video_text"], implementation, "inductor", marks=pytest.mark.slow
            )
            for implementation in ("torch", "numba")
            for names in (["changed", "a", "b"], ["video_text", "b", "changed"], ["b", "package"])
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else value,
)
def test_checkpoints_as_remote_code_beside_each_other(tmp_path, monkeypatch, names, compiled, implementation, backend):
    torch.manual_seed(0)
    config = small_config(hidden_size=16, num_hidden_layers=1, initializer_range=0.3)
    model, other = VideoMambaForVideoClassification(config), VideoMambaForVideoClassification(config)
    for name, saved in {"a": model, "changed": model, "b": other}.items():
        saved.save_pretrained(tmp_path / name)
    double(tmp_path / "changed")
    VideoMambaForVideoTextRetrieval(small_video_text_config()).save_pretrained(tmp_path / "video_text")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    script = REMOTE.format(
        root=str(PACKAGE.parent), names=names, compiled=compiled, implementation=implementation, backend=backend
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", script]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr

    torch.manual_seed(0)
    clip = torch.randn(2, 4, 3, 32, 32)
    results = torch.load(tmp_path / "results.pt")
    assert results.keys() == set(names)
    alone = {"a": (model, 1), "package": (model, 1), "b": (other, 1), "changed": (model, 2)}
    for name in results.keys() & alone.keys():
        model_alone, factor = alone[name]
        with torch.no_grad():
            for layer in model_alone.videomamba.layers:
                layer.mixer.out_proj.weight.mul_(factor)
            torch.testing.assert_close(results[name]["output"], model_alone.eval()(clip).logits, rtol=1e-3, atol=1e-4)
            for layer in model_alone.videomamba.layers:
                layer.mixer.out_proj.weight.div_(factor)
