"""The house: imports between the folders run one way, and an installation needs nothing of a checkout."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import ROOT


PACKAGE = ROOT / "modeling_videomamba"
FOLDERS = {  # what each folder of the package may import, besides itself and the flat files
    "data": set(),
    "checkpoints": {"data"},
    "training": {"checkpoints", "data"},
    "inference": {"checkpoints", "data"},
    "commands": {"inference", "training", "checkpoints", "data"},
}
FLAT = sorted(path for path in PACKAGE.glob("*.py") if path.name not in ("__init__.py", "__main__.py"))
CHECKOUT = {"benchmarks", "conversion", "examples", "tests"}  # packages that no wheel has
IMPORT_NAMES = {"pillow": "PIL"}  # where it is not the name of the package
BROUGHT_BY_TRANSFORMERS = {"huggingface_hub", "safetensors", "tqdm", "yaml"}
WITH_THE_BASE_INSTALL = ("main", "classify", "convert", "list", "publish", "report")  # commands


class Import(NamedTuple):
    """An import statement; `module` is the whole name, such as `modeling_videomamba.data.clips`, of relative ones too."""

    line: int
    module: str
    names: tuple[str, ...]
    level: int  # dots
    at_import: bool  # not inside a function

    def __str__(self):
        return f"line {self.line} imports {self.module}"


def imports(path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, (), 0, id(node) not in inside)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield Import(node.lineno, module, tuple(alias.name for alias in node.names), node.level, id(node) not in inside)


def imported_files(path: Path) -> Iterator[tuple[Import, Path]]:
    """What a file imports of the package. For `from . import name`, `name` may be a module or not."""
    for statement in imports(path):
        for module in (statement.module, *(f"{statement.module}.{name}" for name in statement.names)):
            place = ROOT.joinpath(*module.split("."))
            for file in (place.with_suffix(".py"), place / "__init__.py"):
                if file.is_relative_to(PACKAGE) and file.is_file():
                    yield statement, file


def folder(path: Path) -> str | None:
    """The folder of the package that a file is in; `None` for flat files."""
    first, *rest = path.relative_to(PACKAGE).parts
    return first if rest else None


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_folder_has_its_place():
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == FOLDERS.keys()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_imports_only_what_is_below_it(name):
    wrong = [
        f"{relative(path)}, {statement}"
        for path in sorted((PACKAGE / name).rglob("*.py"))
        for statement, file in imported_files(path)
        if folder(file) not in {None, name, *FOLDERS[name]}
    ]
    assert wrong == []


def test_flat_files_import_flat_files_by_name():
    """The hub's copier finds the files of a model by the pattern `from .sibling import name`."""
    wrong = []
    for path in FLAT:
        for statement in imports(path):
            is_ours = statement.level > 0 or statement.module.split(".")[0] == PACKAGE.name
            sibling = PACKAGE / f"{statement.module.split('.')[-1]}.py"
            if is_ours and not (statement.level == 1 and statement.module.count(".") == 1 and sibling in FLAT):
                wrong.append(f"{relative(path)}, {statement}")
    assert wrong == []


def test_the_package_imports_nothing_of_a_checkout():
    wrong = [
        f"{relative(path)}, {statement}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for statement in imports(path)
        if statement.module.split(".")[0] in CHECKOUT
    ]
    assert wrong == []


def test_folders_import_each_other_relatively():
    wrong = [
        f"{relative(path)}, {statement}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for statement in imports(path)
        if statement.level == 0 and statement.module.split(".")[0] == PACKAGE.name
    ]
    assert wrong == []


def test_nothing_changes_where_python_looks_for_modules():
    wrong = []
    for top in (PACKAGE.name, "benchmarks", "conversion", "examples"):
        for path in sorted((ROOT / top).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            if re.search(r"\bsys\s*\.\s*path\b|from sys import .*\bpath\b|\bsite\.addsitedir\b", text):
                wrong.append(relative(path))
    assert wrong == []


def imported_at_import(*files: Path) -> dict[Path, list[Import]]:
    """All files of the package that importing some of them brings along, and what each of these imports then."""
    found, waiting = {}, list(files)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found[path] = [statement for statement in imports(path) if statement.at_import]
            waiting += [parent for parent in (path.parent / "__init__.py",) if parent.is_file()]
            waiting += [file for statement, file in imported_files(path) if statement.at_import]
    return found


def foreign(found: dict[Path, list[Import]]) -> list[tuple[str, str]]:
    """The packages that files import, and where."""
    return [
        (statement.module.split(".")[0], f"{relative(path)}, {statement}")
        for path, statements in found.items()
        for statement in statements
        if statement.level == 0
    ]


def test_what_the_base_install_runs_imports_only_what_it_brings():
    """Loading a model, and the commands that need no extra: other packages are imported by the functions that need them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    packages = [re.match(r"[\w-]+", requirement)[0] for requirement in project["dependencies"]]
    allowed = {IMPORT_NAMES.get(package, package) for package in packages} | BROUGHT_BY_TRANSFORMERS | sys.stdlib_module_names
    commands = [PACKAGE / "commands" / f"{name}.py" for name in WITH_THE_BASE_INSTALL]
    found = imported_at_import(PACKAGE / "__init__.py", *filter(Path.is_file, commands))
    assert len(found) > len(FLAT) / 2
    assert [where for package, where in foreign(found) if package not in allowed] == []


def test_importing_the_package_brings_no_backend_of_the_scan():
    """These take seconds to import, and not every process scans."""
    found = imported_at_import(PACKAGE / "__init__.py")
    slow = {"numba", "llvmlite", "triton", "mamba_ssm", "causal_conv1d", "datasets", "matplotlib", "timm", "peft"}
    assert len(found) > len(FLAT) / 3
    assert [where for package, where in foreign(found) if package in slow] == []
