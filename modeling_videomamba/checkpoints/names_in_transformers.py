"""Our names wherever transformers takes the name of a model.

transformers finds every file of a model through one function, `transformers.utils.hub.cached_files`, and asks the hub about a
model through one object, which `transformers.utils.hub.hf_api()` returns. [`teach_names`] steps in at these two places: a name
of ours becomes the directory of [`by_name.directory_of`], and every other name goes through untouched. So all Auto classes,
pipelines, processors and tokenizers take the names, in whatever order the two packages are imported, and saved models know
nothing of it.
"""

import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.utils import hub


LIKE_OURS = re.compile(r"video-?mamba[-_][^/\\]*", re.IGNORECASE)  # repositories on the hub have an owner before a slash
_reloaded: set[str] = set()  # downloaded again in this process, since one load asks for several files


def teach_names() -> None:
    """Makes transformers know our names. A second call, such as of another copy of this package, changes nothing."""
    if hasattr(hub.cached_files, "knows_videomamba"):
        return
    find_files = hub.cached_files

    @functools.wraps(find_files)
    def cached_files(path_or_repo_id: str | os.PathLike, *args, **kwargs) -> list[str] | None:
        if is_ours(path_or_repo_id):
            path_or_repo_id = _directory_of(path_or_repo_id, kwargs)
        return find_files(path_or_repo_id, *args, **kwargs)

    cached_files.knows_videomamba = True
    hub.cached_files = cached_files
    api = hub.hf_api()
    for method, answer in ANSWERS.items():
        if hasattr(api, method):
            setattr(api, method, _answering(answer, getattr(api, method)))


def is_ours(name: object) -> bool:
    """Whether it can only be a name of ours: it looks like one, and there is no directory of that name."""
    return isinstance(name, str) and LIKE_OURS.fullmatch(name) is not None and not os.path.isdir(name)


def _directory_of(name: str, options: dict[str, Any]) -> str:
    """
    Raises:
        OSError: if there is no such name, or the model is not in the cache and cannot be downloaded and converted. (What is
            not an `OSError` transformers replaces by an error of its own.)
    """
    from .by_name import directory_of

    if options.get("revision") not in (None, "main"):
        raise OSError(f"{name} has one revision only, got revision={options['revision']!r}.")
    force = bool(options.get("force_download")) and name not in _reloaded
    try:
        directory = directory_of(name, options.get("cache_dir"), force, bool(options.get("local_files_only")))
    except ValueError as error:
        raise OSError(str(error)) from error
    if force:
        _reloaded.add(name)
    return str(directory)


def _answering(answer: Callable, ask_hub: Callable) -> Callable:
    @functools.wraps(ask_hub)
    def method(repo_id: str, *args, **kwargs) -> Any:
        return answer(repo_id, *args, **kwargs) if is_ours(repo_id) else ask_hub(repo_id, *args, **kwargs)

    return method


def _resolve_revision(name: str, revision: str | None = None, **_) -> str | None:
    return revision


def _model_info(name: str, **_) -> Any:
    """What tells a pipeline its task."""
    from huggingface_hub import ModelInfo

    from .by_name import task_of

    return ModelInfo(id=name, pipeline_tag=task_of(name), library_name="transformers")


def _list_repo_files(name: str, **_) -> list[str]:
    return sorted(path.name for path in Path(_directory_of(name, {})).iterdir())


ANSWERS = {
    "resolve_revision": _resolve_revision,
    "model_info": _model_info,
    "list_repo_files": _list_repo_files,
    "list_repo_tree": lambda name, *_, **__: [],  # asked for folders of chat templates
    "repo_exists": lambda name, **_: True,
}
