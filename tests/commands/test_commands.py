"""What holds for every command: its help fits a screen, and an option has two spellings."""

import pytest

from modeling_videomamba.commands import list as list_command
from modeling_videomamba.commands import report
from modeling_videomamba.commands.command_line import run_command
from modeling_videomamba.commands.main import COMMANDS, main, run
from modeling_videomamba.commands.parser import DataclassParser
from modeling_videomamba.training.arguments import DataArguments
from tests.rows import all_rows


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


def test_an_unknown_command_is_one_line_that_names_the_closest(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["fine-tune"])
    assert capsys.readouterr().err == (
        "error: There is no command fine-tune. Did you mean finetune? videomamba --help lists all.\n"
    )


class TestList:
    def test_words_choose(self, capsys):
        list_command.main(["k400", "m", "mask"])
        names = [line.split()[0] for line in capsys.readouterr().out.partition("\n\n")[0].splitlines()[1:]]
        assert "videomamba-m-k400-mask-f16" in names
        assert all(name.startswith("videomamba-m-k400-mask") for name in names)

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
