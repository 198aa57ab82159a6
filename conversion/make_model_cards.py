"""Writes model_cards/<id>/README.md for every released checkpoint, from the tables beside this script.

python conversion/make_model_cards.py
python conversion/make_model_cards.py --check         writes nothing, and fails if a card is not what the tables make
"""

import argparse
import shutil
import sys
from pathlib import Path

from modeling_videomamba.checkpoints.model_card import released_model_card
from modeling_videomamba.checkpoints.released import load_released


ROOT = Path(__file__).resolve().parents[1]
CARDS = ROOT / "model_cards"


def write_cards(directory: Path = CARDS) -> None:
    """Writes all cards, and removes the folders of unknown ids."""
    released = load_released()
    for folder in directory.glob("*/"):
        if folder.name not in released:
            shutil.rmtree(folder)
    for checkpoint in released.values():
        (directory / checkpoint.id).mkdir(parents=True, exist_ok=True)
        (directory / checkpoint.id / "README.md").write_text(released_model_card(checkpoint), encoding="utf-8", newline="\n")


def outdated_cards(directory: Path = CARDS) -> list[Path]:
    """Cards that differ from what the tables make, are missing, or belong to no checkpoint."""
    expected = {directory / name / "README.md": released_model_card(row) for name, row in load_released().items()}
    found = {path: path.read_text(encoding="utf-8") for path in directory.glob("*/README.md")}
    return sorted(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare")
    if not parser.parse_args().check:
        write_cards()
    elif outdated := outdated_cards():
        names = "\n".join(f"  {path.relative_to(ROOT)}" for path in outdated)
        sys.exit(f"error: these cards are not what the tables make; run conversion/make_model_cards.py:\n{names}")


if __name__ == "__main__":
    main()
