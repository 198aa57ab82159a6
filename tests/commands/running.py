"""The console command, in the process of the tests."""

import sys

from modeling_videomamba.commands.main import main


def videomamba(*argv: object) -> int:
    """The exit status of `videomamba ARGV`."""
    before = sys.argv
    try:
        main([str(word) for word in argv])
    except SystemExit as ending:
        return 1 if isinstance(ending.code, str) else ending.code or 0
    finally:
        sys.argv = before
    return 0
