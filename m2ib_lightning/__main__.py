"""`python -m m2ib_lightning` is `m2ib`."""

from m2ib_lightning.cli import main

if __name__ == "__main__":
    main()
