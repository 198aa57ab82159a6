"""README and docs say what is so."""

import re

import pytest

from modeling_videomamba.checkpoints.by_name import DEMO_MODELS
from modeling_videomamba.checkpoints.released import load_released
from tests.conftest import ROOT


README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
DOCS = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def tables(text: str) -> list[list[list[str]]]:
    """The cells of every table, row by row, without the rule under the header."""
    blocks = re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE)
    return [[[cell.strip() for cell in row.strip("|").split("|")] for row in block.splitlines()] for block in blocks]


@pytest.mark.parametrize(
    "benchmark",
    ["cpu", "bulk_classification", "kernel_resources", "data_loading", "masked_pretraining", "pretraining", "small_data"],
)
def test_measured_tables_are_the_saved_results(benchmark):
    _, *parts = (ROOT / f"benchmarks/results/{benchmark}.md").read_text().strip().split("\n\n")
    assert len(parts) >= 2  # where the numbers come from, and they
    assert all(part in DOCS for part in parts)


@pytest.mark.parametrize(("model", "column"), [("videomamba-demo", "top-1"), ("videomamba-retrieval-demo", "R@1")])
def test_tables_of_the_demo_models_are_those_of_their_cards(model, column):
    card = (DEMO_MODELS / model / "README.md").read_text()
    [table] = [part for part in card.split("\n\n") if part.startswith(f"| | {column} |")]
    assert table in DOCS


def test_accuracies_in_the_readme_are_those_of_the_table_of_checkpoints():
    [table] = [table for table in tables(README.read_text()) if "trained on" in table[0]]
    claims = {row.id: row.top1 for row in load_released().values()}
    for _, _, ids, *values in table[2:]:
        name = ids.strip("`")
        expected = [claims[name.replace("{ti,s,m}", size)] for size in ("ti", "s", "m")]
        masked = re.sub(r"\{ti,s,m\}-(\w+?)(?=-|$)", r"m-\1-mask", name)
        assert values == [*map(str, expected), str(claims.get(masked, "–"))], name


def test_speeds_in_the_readme_are_those_of_the_benchmark():
    [table] = [table for table in tables(README.read_text()) if "TimeSformer-Ti / Ti" in table[0]]
    results = (ROOT / "benchmarks/results/cpu.md").read_text()
    [measured] = [rows for rows in tables(results) if "TimeSformer-Ti / Ti" in rows[0]]
    columns = [measured[0].index(name) for name in table[0]]
    assert table[2:] == [[row[column] for column in columns] for row in measured[2:]]


def test_links_between_pages_and_files_lead_somewhere():
    missing = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not re.match(r"https?:", target) and not (page.parent / target).exists()
    ]
    assert missing == []


def test_the_readme_is_short():
    assert len(README.read_bytes()) <= 9000


def test_continuous_integration_runs_the_test_command_of_the_readme():
    assert '```bash\npip install ".[test]" && pytest\n```' in README.read_text()
    lines = (ROOT / ".ci/run").read_text().splitlines()
    install = next(i for i, line in enumerate(lines) if line.startswith('pip install --quiet ".[test]"'))
    assert lines[install + 1] == "pytest"
