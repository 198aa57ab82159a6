"""What holds for every command: its help fits a screen, and an option has two spellings."""

import re

import pytest

import modeling_videomamba
from modeling_videomamba.checkpoints.released import ALIASES, find_released, load_released
from modeling_videomamba.commands import list as list_command
from modeling_videomamba.commands import report
from modeling_videomamba.commands.command_line import run_command
from modeling_videomamba.commands.main import COMMANDS, main, overview, run
from modeling_videomamba.commands.parser import DataclassParser, parse_arguments
from modeling_videomamba.training.arguments import DataArguments, VideoMambaTrainingArguments
from tests.rows import all_rows

from .running import videomamba


def help_of(capsys, name: str, option: str) -> list[str]:
    with pytest.raises(SystemExit, match="0"):
        run(name, option)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("columns", [80, 100])
def test_help_fits_a_screen(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))

    def check(name: str) -> None:
        lines = help_of(capsys, name, "--help")
        assert lines[0].startswith(f"usage: videomamba {name}")
        assert len(lines) <= 24, len(lines)

    all_rows(check, COMMANDS)


def test_all_options_are_shown_on_demand_once_each_with_dashes(capsys):
    shown = help_of(capsys, "evaluate", "--help-all")
    options = [line.split()[0] for line in shown if line.startswith("  --")]
    assert {"--window-seconds", "--shuffle-frames", "--num-workers"} <= set(options)
    assert len(options) == len(set(options))
    assert not any("_" in option for option in options)
    assert len(help_of(capsys, "evaluate", "--help")) < len(shown)


@pytest.mark.parametrize("option", ["--num-clips", "--num_clips"])
def test_an_option_has_two_spellings(option):
    [arguments] = DataclassParser(DataArguments).parse_args_into_dataclasses([option, "3"])
    assert arguments.num_clips == 3


@pytest.mark.parametrize("option", ["--num-clips", "--num_clips"])
@pytest.mark.parametrize("added", ["--num-clips", "--num_clips"])
def test_so_has_one_that_is_of_no_dataclass(option, added):
    parser = DataclassParser()
    parser.add_argument(added, type=int)
    assert parser.parse_args([option, "3"]).num_clips == 3


def test_help_tells_defaults_that_say_something(capsys):
    for option in ("--help", "--help-all"):
        shown = " ".join(" ".join(help_of(capsys, "evaluate", option)).split())
        assert re.search(r"--num-clips N [^-]*\(default: 1\)", shown)
        assert "default: False" not in shown


def test_a_recipe_has_a_place_of_its_own_and_the_command_line_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for options, place in ([], "runs/videomamba-ti-ssv2-f8"), (["--output-dir", "mine"], "mine"):
        argv = ["--recipe", "videomamba-ti-ssv2-f8", *options]
        [args] = parse_arguments(
            VideoMambaTrainingArguments, description="", argv=argv, in_recipe=(VideoMambaTrainingArguments,)
        )
        assert args.output_dir == place


def test_an_option_is_not_abbreviated(capsys):
    with pytest.raises(SystemExit, match="2"):
        DataclassParser(DataArguments).parse_args(["--num-cli", "3"])
    assert "There is no option --num-cli. Did you mean --num-clips" in capsys.readouterr().err


def test_the_overview_names_every_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in COMMANDS)
    assert len(printed.splitlines()) <= 30


def test_without_a_command_it_is_shown_and_the_status_is_2(capsys):
    assert videomamba() == 2
    assert capsys.readouterr().out == overview() + "\n"


def test_the_version_is_that_of_the_package(capsys):
    assert videomamba("--version") == 0
    assert capsys.readouterr().out == f"videomamba {modeling_videomamba.__version__}\n"


def test_an_unknown_command_is_one_line_that_names_the_closest(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["fine-tune"])
    assert capsys.readouterr().err == (
        "error: There is no command fine-tune. Did you mean finetune? videomamba --help lists all.\n"
    )


class TestList:
    def listed(self, capsys, *words: str) -> tuple[dict[str, list[str]], list[str]]:
        """The rows below the header, by name, and the aliases."""
        assert videomamba("list", *words) == 0
        table, _, aliases = capsys.readouterr().out.partition("\n\naliases\n")
        rows = [line.split() for line in table.splitlines()[1:]]
        return {row[0]: row[1:] for row in rows}, [line.split()[0] for line in aliases.splitlines()]

    def test_without_words_all_are_listed(self, capsys):
        names, aliases = self.listed(capsys)
        assert names.keys() == load_released().keys()
        assert aliases == list(ALIASES)

    def test_words_choose(self, capsys):
        names, aliases = self.listed(capsys, "k400", "m", "mask")
        assert "videomamba-m-k400-mask-f16" in names
        assert all(name.startswith("videomamba-m-k400-mask") for name in names)
        assert aliases == ["videomamba-m-k400-best"]

    def test_a_letter_is_a_size(self, capsys):
        assert list(self.listed(capsys, "b")[0]) == [name for name in load_released() if "-b-" in name]

    def test_the_numbers_are_the_authors(self, capsys):
        row = find_released("videomamba-m-k400")
        numbers = self.listed(capsys, row.id)[0][row.id]
        assert numbers == [
            *("video-classification", "16", "224", "4x3", str(row.top1), str(row.top5), "74", str(row.gflops_with_scan)),
            row.parent,
        ]

    def test_nothing_found_is_an_error(self, capsys):
        with pytest.raises(SystemExit, match="2"):
            run_command(list_command.main, ["k401"])
        assert capsys.readouterr().err == "error: No released checkpoint has k401 in its name, task or data set.\n"


def test_the_report_has_versions_and_why_a_scan_does_not_run(capsys):
    report.main([])
    printed = capsys.readouterr().out
    assert "\ntorch  " in printed
    assert "selective scan on cpu: " in printed
    assert "\n  not mamba_ssm: it needs CUDA tensors, these are on cpu" in printed
