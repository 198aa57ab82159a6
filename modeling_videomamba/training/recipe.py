"""Recipes: YAML files with the options of a training run, by name or by path."""

from pathlib import Path

import yaml

from ..closest_names import did_you_mean


RECIPES = Path(__file__).with_name("recipes")


def read_recipe(name: str, parents: tuple[Path, ...] = ()) -> dict:
    """The values of a recipe by name or path, those of its `base`, a name or a path from where the recipe is, included.

    Raises:
        FileNotFoundError: if there is no such recipe.
        ValueError: naming the file and, where YAML can tell, the line that is wrong.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        names = [path.stem for path in RECIPES.glob("*.yaml")]
        raise FileNotFoundError(
            f"There is no recipe {path}.{did_you_mean(name, names)} There are {len(names)} of them in {RECIPES}."
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ValueError(f"{path}, line {mark.line + 1}: this is not YAML, {error.problem}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ValueError(f"{path} is not a recipe: expected lines of `option: value`, got {values!r:.50}.")
    if (base := values.pop("base", None)) is None:
        return values
    if path in parents:
        raise ValueError(f"The recipe {path} is its own base: {' -> '.join(map(str, (*parents, path)))}.")
    base = str(path.parent / base) if base.endswith((".yaml", ".yml")) else base
    return read_recipe(base, (*parents, path)) | values
