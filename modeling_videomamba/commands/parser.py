"""How commands read their options: from a recipe, a YAML file of the same names, and from the command line, which wins.

Every option is understood with dashes and with underscores, `--num-clips` and `--num-clips`. `--help` shows the options that
most people need and fits on a screen; `--help-all` shows all.
"""

import argparse
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from transformers import HfArgumentParser

from ..closest_names import did_you_mean
from .command_line import one_line


WIDEST = 100  # characters of a line of help
OPTIONS_END = 30  # where the texts on options begin
OF_EVERY_TRAINING = (
    "output_dir",
    "recipe",
    "num_train_epochs",
    "learning_rate",
    "per_device_train_batch_size",
    "bf16",
)  # options
LONGEST_CHOICES = 30  # characters of a list of choices that takes the place of a word


class Help(argparse.RawDescriptionHelpFormatter):
    """One spelling of each option, and its default where it says something."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=OPTIONS_END, width=_width())

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        option = spelling_of(action)
        takes_nothing = action.nargs == 0 or (action.nargs == "?" and action.const is True)  # a flag
        return option if takes_nothing else f"{option} {self._format_args(action, self._placeholder(action))}"

    def _placeholder(self, action: argparse.Action) -> str:
        return {int: "N", float: "X"}.get(action.type, action.dest.rsplit("_", 1)[-1].upper())

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str) -> Callable[[int], tuple[str, ...]]:
        metavar = action.metavar or default_metavar
        if action.choices is not None and action.metavar is None:
            listed = f"{{{','.join(map(str, action.choices))}}}"
            metavar = listed if len(listed) <= LONGEST_CHOICES else metavar
        return lambda length: metavar if isinstance(metavar, tuple) else (metavar,) * length

    def _get_help_string(self, action: argparse.Action) -> str:
        help = action.help or ""
        says_nothing = action.default in (None, False, "", argparse.SUPPRESS) or not action.option_strings
        return help if says_nothing or "(default" in help else f"{help} (default: %(default)s)"


class DataclassParser(HfArgumentParser):
    """For the fields of dataclasses, and for what [`add_argument`] adds. An error is one line.

    Args:
        classes: dataclasses whose fields become options.
        description: the docstring of a command: a sentence, examples, and what `--help-all` shows besides.
        essential: names of the options that `--help` shows; all if there are none.
    """

    def __init__(
        self, classes: tuple[type, ...] | type = (), description: str | None = None, essential: tuple[str, ...] = (), **options
    ):
        self.essential = essential
        has_help = options.pop("add_help", True)
        super().__init__(classes, description=description, formatter_class=Help, allow_abbrev=False, add_help=False, **options)
        if has_help:
            self.add_argument("-h", "--help", action=ShowHelp, help="show this")
            if essential:
                self.add_argument("--help-all", action=ShowHelp, help="show all options")

    def add_argument(self, *names: str, **options) -> argparse.Action:
        spellings = [other for name in names for other in (name, _dashed(name), _underscored(name))]
        return super().add_argument(*dict.fromkeys(spellings), **options)

    def error(self, message: str) -> None:
        message = re.sub(r"--[\w-]+(?:/--[\w-]+)+", lambda found: _dashed(found[0].split("/")[0]), message)  # one spelling
        self.exit(2, f"error: {one_line(message)}\n")

    def parse_known_args(self, args: list[str] | None = None, namespace: argparse.Namespace | None = None) -> tuple:
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            option = next((text for text in unknown if text.startswith("--")), None)
            if option is None:
                self.error(f"Unexpected argument {unknown[0]!r}: --help shows what there is.")
            option = option.split("=")[0]
            options = [spelling_of(action) for action in self._actions if action.option_strings]
            self.error(f"There is no option {option}.{did_you_mean(option, options)} {self._help_option} lists all options.")
        return namespace, unknown

    def format_help(self, everything: bool = False) -> str:
        """What `--help` shows, or with `everything`, `--help-all`."""
        everything = everything or not self.essential
        positionals = [self._positional(action) for action in self._actions if not action.option_strings]
        kept = {action: action.help for action in self._actions}, self.description, self.usage
        self.usage = " ".join(["%(prog)s", *positionals, "[options]"])
        try:
            for action in self._actions:
                if action.option_strings and not self._is_shown(action, everything):
                    action.help = argparse.SUPPRESS
                elif not everything:
                    action.help = _shorten(action)
            if not everything:
                self.description = "\n\n".join((self.description or "").strip().split("\n\n")[:2])
            return super().format_help()
        finally:
            helps, self.description, self.usage = kept
            for action, help in helps.items():
                action.help = help

    def _is_shown(self, action: argparse.Action, whole: bool) -> bool:
        if action.dest.startswith("no_") and action.nargs == 0:  # the opposite of a flag, which HfArgumentParser adds
            return False
        return whole or action.dest in self.essential or "--help-all" in action.option_strings

    def _positional(self, action: argparse.Action) -> str:
        name = action.metavar or action.dest.upper()
        return {"?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} ..."}.get(action.nargs, name)

    @property
    def _help_option(self) -> str:
        return "--help-all" if self.essential else "--help"


class ShowHelp(argparse.Action):
    def __init__(self, option_strings: list[str], dest: str, help: str):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: DataclassParser, namespace: object, values: object, option_string: str | None = None) -> None:
        print(parser.format_help(everything="all" in (option_string or "")), end="")
        parser.exit()


def spelling_of(action: argparse.Action) -> str:
    """The one that is shown: the long option, with dashes."""
    return max(action.option_strings, key=lambda option: (option.startswith("--"), "_" not in option, len(option)))


def _shorten(action: argparse.Action) -> str:
    """The beginning of a text, on one line beside the option, and the default."""
    text = (action.help or "") % vars(action)
    default = Help("")._get_help_string(action).removeprefix(action.help or "") % vars(action)
    room = max(_width() - OPTIONS_END - 2 - len(default), 20)
    return (textwrap.shorten(text, room, placeholder=" ...") + default).replace("%", "%%")


def parse_arguments(
    *classes: type,
    description: str,
    argv: list[str] | None = None,
    essential: tuple[str, ...] = (),
    in_recipe: tuple[type, ...] | None = None,
) -> tuple:
    """An instance of each of the `classes`, from a recipe (`--recipe NAME`, or a YAML file alone) and the command line.

    A run goes into runs/RECIPE, if it is not told another place. A run that is shorter than its recipe's warms up in
    proportion. With `in_recipe`, only fields of these classes are taken from the recipe, and its other keys, which are meant
    for another command, are left out. Without, every key must be a field of one of the `classes`. For `description` and
    `essential` see [`DataclassParser`].

    Raises:
        FileNotFoundError: if there is no such recipe.
        ValueError: if the recipe or a value is wrong.
    """
    from ..training.arguments import VideoMambaTrainingArguments
    from ..training.recipe import read_recipe

    argv = sys.argv[1:] if argv is None else argv
    if len(argv) == 1 and argv[0].endswith((".yaml", ".yml")):
        argv = ["--recipe", *argv]
    early = DataclassParser(add_help=False)
    early.add_argument("--recipe", help=VideoMambaTrainingArguments.__dataclass_fields__["recipe"].metadata["help"])
    recipe = argparse.ArgumentParser.parse_known_args(early, argv)[0].recipe
    names = {field.name for cls in classes for field in fields(cls)}
    parents = [] if "recipe" in names else [early]
    parser = DataclassParser(classes, description, essential, parents=parents)
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


def _width() -> int:
    return min(shutil.get_terminal_size().columns, WIDEST) - 2


def _dashed(option: str) -> str:
    return f"--{option[2:].replace('_', '-')}" if re.match(r"--\w", option) else option


def _underscored(option: str) -> str:
    return f"--{option[2:].replace('-', '_')}" if re.match(r"--\w", option) else option
