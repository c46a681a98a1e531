"""The page without the command's name; the same file is the `app.py` of a Hugging Face Space."""

import sys

from m2ib_lightning.cli import main

if __name__ == "__main__":
    main(["app", *sys.argv[1:]])
