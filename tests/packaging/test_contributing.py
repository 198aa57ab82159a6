"""What contributors and continuous integration are told to run exists."""

import re
import shutil
import subprocess

import pytest

from modeling_videomamba.commands.main import COMMANDS
from tests.conftest import ROOT


@pytest.fixture(params=[".ci/run", "CONTRIBUTING.md"])
def text(request) -> str:
    return (ROOT / request.param).read_text(encoding="utf-8")


def test_every_path_that_is_named_exists(text):
    paths = set(
        re.findall(r"(?<![\w$/.])(?:tests|benchmarks|conversion|examples|model_cards|modeling_videomamba)/[\w/.*-]*", text)
    )
    assert paths
    assert [path for path in sorted(paths) if not list(ROOT.glob(path.rstrip("/")))] == []


def test_every_module_that_is_run_exists(text):
    modules = [module for module in re.findall(r"python3? -m ([\w.]+)", text) if module not in ("venv", "build", "twine")]
    missing = [
        module
        for module in modules
        if not (place := ROOT / module.replace(".", "/")).with_suffix(".py").is_file()
        and not (place / "__main__.py").is_file()
    ]
    assert missing == []


def test_every_command_that_is_run_exists(text):
    commands = re.findall(r"videomamba ([a-z]+(?:-[a-z]+)*)", text)
    assert commands
    assert set(commands) <= COMMANDS.keys()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_script_of_continuous_integration_is_well_formed():
    subprocess.run(["bash", "-n", ROOT / ".ci/run"], check=True)
