"""The README says what is so."""

from pathlib import Path

import pytest

from modeling_videomamba.checkpoints.by_name import DEMO_MODELS


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    "benchmark",
    ["cpu", "bulk_classification", "kernel_resources", "data_loading", "masked_pretraining", "pretraining", "small_data"],
)
def test_its_tables_are_the_saved_results(benchmark):
    _, *parts = (ROOT / f"benchmarks/results/{benchmark}.md").read_text().strip().split("\n\n")
    assert len(parts) >= 2  # where the numbers come from, and they
    assert all(part in README for part in parts)


@pytest.mark.parametrize(("model", "column"), [("videomamba-demo", "top-1"), ("videomamba-retrieval-demo", "R@1")])
def test_its_demos_are_those_of_the_cards(model, column):
    card = (DEMO_MODELS / model / "README.md").read_text()
    [table] = [part for part in card.split("\n\n") if part.startswith(f"| | {column} |")]
    assert table in README


def test_continuous_integration_runs_its_test_command():
    assert '```bash\npip install ".[test]" && pytest\n```' in README
    lines = (ROOT / ".ci/run").read_text().splitlines()
    install = next(i for i, line in enumerate(lines) if line.startswith('pip install --quiet ".[test]"'))
    assert lines[install + 1] == "pytest"
