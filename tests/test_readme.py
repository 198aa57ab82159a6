"""The README says what is so."""

from pathlib import Path


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_its_table_is_the_saved_result():
    _, provenance, table = (ROOT / "benchmarks/results/scan_cpu.md").read_text().strip().split("\n\n")
    assert table in README
    assert provenance in README


def test_continuous_integration_runs_its_test_command():
    assert '```bash\npip install ".[test]" && pytest\n```' in README
    lines = (ROOT / ".ci/run").read_text().splitlines()
    install = next(i for i, line in enumerate(lines) if line.startswith('pip install --quiet ".[test]"'))
    assert lines[install + 1] == "pytest"
