"""The page in the browser: drop a picture, type a caption, see why. `m2ib app` or `python -m m2ib_lightning.app`."""
