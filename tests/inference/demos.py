"""What makes the demos, in the process of the tests."""

import importlib
import sys
from unittest.mock import patch


def run(module: str, *args: object) -> float:
    """Takes the place of the function of that name in `examples/demos/demo.py`."""
    with patch.object(sys, "argv", [module, *map(str, args)]):
        importlib.import_module("modeling_videomamba.commands.main" if module == "modeling_videomamba" else module).main()
    return 0.0
