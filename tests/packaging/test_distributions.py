"""What is built for users is whole: a wheel with the package, and a source distribution with all that git tracks."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

import modeling_videomamba
from tests.conftest import ROOT


pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="compares with what git tracks")

GENERATED = {"PKG-INFO", "setup.cfg"}  # by setuptools in the source distribution, besides the folder *.egg-info


def build(hook: str, tree: Path) -> Path:
    """Calls the build backend, as `python -m build` does."""
    script = f"from setuptools import build_meta; build_meta.{hook}('built')"
    subprocess.run([sys.executable, "-c", script], cwd=tree, check=True, capture_output=True)
    [built] = (tree / "built").iterdir()
    return built


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {name for name in names.split("\0") if name and (ROOT / name).exists()}


@pytest.fixture(scope="module")
def unpacked(tracked, tmp_path_factory) -> Path:
    """The source distribution of a fresh checkout, unpacked."""
    checkout, place = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("unpacked")
    for name in tracked:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    with tarfile.open(build("build_sdist", checkout)) as archive:
        archive.extractall(place, filter="data")
    [folder] = place.iterdir()
    return folder


@pytest.fixture(scope="module")
def wheel(unpacked) -> zipfile.ZipFile:
    with zipfile.ZipFile(build("build_wheel", unpacked)) as file:
        yield file


@pytest.fixture(scope="module")
def metadata(wheel) -> Message:
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return message_from_bytes(wheel.read(name))


def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel, tracked):
    files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert files == {name for name in tracked if name.startswith("modeling_videomamba/")}


def test_the_wheel_is_small(wheel):
    assert sum(file.compress_size for file in wheel.infolist()) < 10e6  # bytes


def test_the_source_distribution_has_every_file_that_git_tracks_and_no_other(unpacked, tracked):
    files = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    files = {name for name in files if not re.match(r"built/|build/|[^/]+\.egg-info/", name)}
    assert files - GENERATED == tracked


def test_the_version_is_the_package_s(metadata, unpacked):
    assert metadata["Version"] == modeling_videomamba.__version__
    assert unpacked.name == f"modeling_videomamba-{modeling_videomamba.__version__}"


def test_the_metadata_says_what_an_index_shows(metadata):
    assert metadata["License-Expression"] == "Apache-2.0"
    assert len(metadata.get_all("Project-URL")) >= 3
    assert metadata["Keywords"].split(",")
    classifiers = metadata.get_all("Classifier")
    for start in ("Development Status", "Intended Audience", "Programming Language :: Python :: 3.11", "Topic", "Typing"):
        assert any(classifier.startswith(start) for classifier in classifiers), start


def test_the_console_command_is_installed(wheel):
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt")]
    assert "videomamba = modeling_videomamba.commands.main:main" in wheel.read(name).decode()


def test_an_extra_of_another_is_one_that_exists():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    requirements = [requirement for packages in extras.values() for requirement in packages]
    named = re.findall(rf"{project['name']}\[(.+?)\]", " ".join(requirements))
    assert named
    assert {extra for names in named for extra in names.split(",")} <= extras.keys()
