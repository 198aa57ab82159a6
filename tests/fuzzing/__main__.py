"""The command; see the package."""

import argparse
import sys
from collections import Counter
from pathlib import Path

from .outcomes import Outcome
from .workers import KINDS, run_cases


def main(arguments: list[str] | None = None) -> int:
    """Runs the cases and prints the faults and a summary for each kind; 1 if there are faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=sys.modules[__package__].__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("kinds", nargs="*", metavar="kind", help=f"of {', '.join(KINDS)} (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, default=100, help="cases of each kind (default: %(default)s)")
    parser.add_argument("--case", type=int, help="only the case of this number, whatever its outcome")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where to write the input files of faults")
    args = parser.parse_args(arguments)
    if unknown := set(args.kinds) - set(KINDS):
        parser.error(f"unknown kind {', '.join(sorted(unknown))}: choose from {', '.join(KINDS)}")

    has_faults = False
    for kind in args.kinds or KINDS:
        counts = Counter()
        for result in run_cases(kind, args.seed, range(args.number) if args.case is None else [args.case], args.keep):
            counts[result.outcome] += 1
            if result.outcome is Outcome.FAULT or args.case is not None:
                print(result, flush=True)
        has_faults |= counts[Outcome.FAULT] > 0
        print(f"{kind}, seed {args.seed}: " + ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome), flush=True)
    return 1 if has_faults else 0


if __name__ == "__main__":
    sys.exit(main())
