"""Converts official VideoMamba checkpoints: `videomamba convert`, under the name that transformers gives such scripts."""

import sys

from modeling_videomamba.commands.main import main


if __name__ == "__main__":
    main(["convert", *sys.argv[1:]])
