"""Writes model_cards/<id>/README.md for every released checkpoint, from the tables of the package.

python conversion/make_model_cards.py
python conversion/make_model_cards.py --check      writes nothing, and fails if a card is not what the tables make
"""

import argparse
import sys
from pathlib import Path

from modeling_videomamba.checkpoints.model_card import outdated_cards, write_cards


CARDS = Path(__file__).resolve().parents[1] / "model_cards"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare")
    if not parser.parse_args().check:
        write_cards(CARDS)
    elif outdated := outdated_cards(CARDS):
        names = "\n".join(f"  {path}" for path in outdated)
        sys.exit(f"error: these cards are not what the tables make; run conversion/make_model_cards.py:\n{names}")


if __name__ == "__main__":
    main()
