"""How commands read their options: from a recipe, a YAML file of the same names, and from the command line, which wins."""

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path

from transformers import HfArgumentParser

from ..closest_names import did_you_mean
from ..training.arguments import VideoMambaTrainingArguments
from ..training.recipe import read_recipe
from .command_line import one_line


class OneLineErrors:
    """For an `argparse.ArgumentParser`: errors are one line, and that of an unknown option names the closest ones."""

    def error(self, message: str) -> None:
        self.exit(2, f"error: {one_line(message)}\n")

    def parse_known_args(self, args: list[str] | None = None, namespace: argparse.Namespace | None = None) -> tuple:
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            option = next((text for text in unknown if text.startswith("--")), None)
            if option is None:
                self.error(f"Unexpected argument {unknown[0]!r}: --help shows what there is.")
            option = option.split("=")[0]
            options = [action.option_strings[0] for action in self._actions if action.option_strings]
            self.error(f"There is no option {option}.{did_you_mean(option, options)} --help lists all options.")
        return namespace, unknown


class ArgumentParser(OneLineErrors, argparse.ArgumentParser):
    """With the script's docstring as it is written."""

    def __init__(
        self, description: str | None = None, formatter_class: type = argparse.RawDescriptionHelpFormatter, **options
    ):
        super().__init__(description=description, formatter_class=formatter_class, **options)


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and the description as it was written."""


class DataclassParser(OneLineErrors, HfArgumentParser):
    """Whose errors are one line each."""


def parse_arguments(
    *classes: type, description: str, argv: list[str] | None = None, in_recipe: tuple[type, ...] | None = None
) -> tuple:
    """An instance of each of the `classes`, from a recipe (`--recipe NAME`, or a YAML file alone) and the command line.

    A run goes into runs/RECIPE, if it is not told another place. A run that is shorter than its recipe's warms up in
    proportion. With `in_recipe`, only fields of these classes are taken from the recipe, and its other keys, which are meant
    for another script, are left out. Without, every key must be a field of one of the `classes`.

    Raises:
        FileNotFoundError: if there is no such recipe.
        ValueError: if the recipe or a value is wrong.
    """
    argv = sys.argv[1:] if argv is None else argv
    if len(argv) == 1 and argv[0].endswith((".yaml", ".yml")):
        argv = ["--recipe", *argv]
    early = DataclassParser((), add_help=False, allow_abbrev=False)
    early.add_argument("--recipe", help=VideoMambaTrainingArguments.__dataclass_fields__["recipe"].metadata["help"])
    recipe = argparse.ArgumentParser.parse_known_args(early, argv)[0].recipe
    names = {field.name for cls in classes for field in fields(cls)}
    parser = DataclassParser(
        classes,
        usage="%(prog)s [--recipe NAME] [--option value ...]",
        description=description,
        formatter_class=Help,
        parents=[] if "recipe" in names else [early],
        allow_abbrev=False,
    )
    values = {"output_dir": f"runs/{Path(recipe).stem}"} | read_recipe(recipe) if recipe else {}
    if in_recipe is not None:
        known = {field.name for cls in in_recipe for field in fields(cls)}
        values = {name: value for name, value in values.items() if name in known}
    for name in values:
        if name not in names:
            raise ValueError(f"The recipe {recipe} has an unknown key, {name}.{did_you_mean(name, names)}")
    if {"warmup_epochs", "num_train_epochs"} <= values.keys():
        from_recipe, said = _said(parser, _as_options(values)), _said(parser, argv)
        if "warmup_epochs" not in said and "num_train_epochs" in said:
            part_of_recipe = said["num_train_epochs"] / from_recipe["num_train_epochs"]
            values["warmup_epochs"] = from_recipe["warmup_epochs"] * min(part_of_recipe, 1)
    try:
        return parser.parse_args_into_dataclasses(_as_options(values) + argv, look_for_args_file=False)[: len(classes)]
    except ValueError as error:  # the checks of transformers' own arguments speak to users, too
        raise ValueError(str(error)) from error


def _as_options(recipe: dict) -> list[str]:
    options = []
    for name, value in recipe.items():
        if value is not None:
            values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
            options += [f"--{name}", *map(str, values)]
    return options


def _said(parser: argparse.ArgumentParser, argv: list[str]) -> dict:
    """What the command line itself says, without defaults."""
    unsaid = argparse.Namespace(**{action.dest: argparse.SUPPRESS for action in parser._actions})
    said = parser.parse_known_args(argv, unsaid)[0]
    return {name: value for name, value in vars(said).items() if value is not argparse.SUPPRESS}
