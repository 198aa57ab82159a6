"""Publishes the released checkpoints on the hub, converted: a repository each in an organisation, and a collection of them.

    videomamba publish my-organisation                           what would be done: repositories, sizes, what is there
    videomamba publish my-organisation --yes                     does it; interrupted, the same command goes on
    videomamba publish my-organisation videomamba-m-k400 --yes   only the checkpoints that are named

Needs a token that may write: `hf auth login`, or the environment variable HF_TOKEN. A repository that holds the checkpoint as
this version of the package converts it is left alone, and so is one that holds anything else, unless --overwrite is given.
One that fails does not stop the others; the exit status is 1 then.
"""

import sys
from collections import Counter

from ..checkpoints.publishing import Publisher
from ..checkpoints.released import ReleasedCheckpoint, find_released, load_released
from ..data.interruption import say_when_interrupted
from .command_line import one_line
from .parser import DataclassParser


STATES = {"new": "to be published", "published": "published already", "other": "holds something else"}


def main(argv: list[str] | None = None) -> None:
    parser = DataclassParser((), description=__doc__)
    parser.add_argument("organisation", help="name of an organisation, or of a user, on the hub")
    parser.add_argument("checkpoints", nargs="*", help="ids or aliases of released checkpoints; all of them if none is given")
    parser.add_argument("--yes", action="store_true", help="publish; only what would be done is printed otherwise")
    parser.add_argument("--overwrite", action="store_true", help="replace files of repositories that hold something else")
    args = parser.parse_args(argv)
    found = [find_released(name) for name in args.checkpoints] or load_released().values()
    checkpoints = list({checkpoint.id: checkpoint for checkpoint in found}.values())
    publisher = Publisher(args.organisation)
    failures = publish(publisher, checkpoints, args.overwrite) if args.yes else preview(publisher, checkpoints, args.overwrite)
    sys.exit(1 if failures else 0)


def preview(publisher: Publisher, checkpoints: list[ReleasedCheckpoint], overwrite: bool) -> int:
    """Prints what publishing would do; returns the number of checkpoints that would fail."""
    outcomes, size, failures = Counter(), 0, 0
    for checkpoint in checkpoints:
        name = f"{publisher.organisation}/{checkpoint.id}"
        try:
            repository = publisher.look_up(checkpoint)
        except Exception as error:
            outcomes["failed"] += 1
            failures += 1
            print(f"{name}: {_failure(error)}", file=sys.stderr)
            continue
        is_uploaded = repository.state == "new" or (repository.state == "other" and overwrite)
        size += repository.size * is_uploaded
        failures += repository.state == "other" and not overwrite
        outcomes[STATES[repository.state]] += 1
        why = f" ({repository.what_differs})" if repository.differences else ""
        print(f"{name:60s} {repository.size / 1e6:6,.0f} MB  {STATES[repository.state]}{why}")
    print(f"\n{_summary(outcomes)}; {size / 1e9:.1f} GB to upload. Nothing was changed: --yes publishes.")
    return failures


def publish(publisher: Publisher, checkpoints: list[ReleasedCheckpoint], overwrite: bool) -> int:
    """Publishes checkpoints, whatever happens to the others, and then their collection; returns the number of failures."""
    say_when_interrupted("; the same command goes on with the checkpoints that are not published yet")
    outcomes, published = Counter(), []
    for checkpoint in checkpoints:
        try:
            outcome = "published" if publisher.publish(checkpoint, overwrite) else STATES["published"]
            published.append(checkpoint)
            print(f"{publisher.organisation}/{checkpoint.id}: {outcome}", flush=True)
        except Exception as error:
            outcome = "failed"
            print(f"{publisher.organisation}/{checkpoint.id}: {_failure(error)}", file=sys.stderr)
        outcomes[outcome] += 1
    if published:
        try:
            print(f"collection: {publisher.collect(published)}")
        except Exception as error:
            outcomes["collection failed"] += 1
            print(f"collection: {_failure(error)}", file=sys.stderr)
    print(f"\n{_summary(outcomes)}")
    return outcomes["failed"] + outcomes["collection failed"]


def _failure(error: Exception) -> str:
    return f"failed: {type(error).__name__}: {one_line(str(error))}"


def _summary(outcomes: Counter) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
