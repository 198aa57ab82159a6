"""Lists the released checkpoints, and what their authors claim.

    videomamba list
    videomamba list k400 m           those whose id, task or data set has these words

The name of a checkpoint works wherever transformers takes one, and as --model of every command. An alias is a shorter name.
Views are clips x crops of the authors' test, accuracies are theirs, in percent. GFLOPs are those of one view with the scan.
"""

from ..checkpoints.released import ALIASES, ReleasedCheckpoint, load_released
from .parser import DataclassParser


HEADER = ("name", "task", "frames", "pixels", "views", "top-1", "top-5", "M params", "GFLOPs", "starts from")
ROW = "{:36} {:20} {:>6} {:>6} {:>5} {:>5} {:>5} {:>8} {:>6}  {}"


def main(argv: list[str] | None = None) -> None:
    parser = DataclassParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="parts of a name, all of which it has")
    words = parser.parse_args(argv).words
    rows = [row for row in load_released().values() if has_words(row, words)]
    if not rows:
        raise ValueError(f"No released checkpoint has {' and '.join(words)} in its name, task or data set.")
    print(ROW.format(*HEADER))
    for row in rows:
        print(ROW.format(*cells(row)).rstrip())
    ids = {row.id for row in rows}
    if aliases := {alias: name for alias, name in ALIASES.items() if name in ids}:
        print("\naliases")
        for alias, name in aliases.items():
            print(f"  {alias:34} {name}")


def has_words(row: ReleasedCheckpoint, words: list[str]) -> bool:
    """Whether each word is a part of the id between dashes, or in the task or the data set."""
    return all(word in row.id.split("-") or (word in f"{row.id} {row.task} {row.dataset}" and len(word) > 2) for word in words)


def cells(row: ReleasedCheckpoint) -> tuple[object, ...]:
    views = f"{row.clips}x{row.crops}" if row.clips else ""
    millions = f"{row.parameters / 1e6:.0f}" if row.parameters else ""
    claims = [row.top1, row.top5, millions, row.gflops_with_scan]
    numbers = ["" if value is None else value for value in claims]
    return row.id, row.task, row.frames or 1, row.resolution, views, *numbers, row.parent or "scratch"
