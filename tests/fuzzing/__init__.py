"""Seeded fuzzing: damaged videos, lists, configurations and checkpoints, each of which must give a right result or one clear
error.

    python -m tests.fuzzing videos --seed 7 --number 1000 --keep faults

The input of case i depends only on its kind, the seed and i. `--case i` repeats it, `--keep` writes it down.
"""
