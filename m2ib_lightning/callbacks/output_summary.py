"""Says at the end of a run what it wrote, and writes the page to look through it."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from m2ib_lightning.callbacks.summary import print_written
from m2ib_lightning.data.datamodule import pair_data
from m2ib_lightning.report.gallery import save_run_gallery
from m2ib_lightning.store import AttributionStore

GALLERY_PAIRS = 1000
"""The most pairs of which a run makes a gallery unasked: what it reads and writes then takes seconds."""


class OutputSummary(Callback):
    """Writes the gallery of a run and lists everything in its folder. It belongs behind the callbacks that write.

    Args:
        folder: The folder of the run, as given by --output.
        gallery: Whether to write `gallery.html`; None does so for up to `GALLERY_PAIRS` pairs.
    """

    def __init__(self, folder: str | Path, gallery: bool | None = None) -> None:
        self.folder, self.gallery = Path(folder), gallery

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the page and the list, in the first process, which has waited for the others."""
        if not trainer.is_global_zero:
            return
        store = AttributionStore(self.folder / "attributions")
        count = len(store)
        wanted = count <= GALLERY_PAIRS if self.gallery is None else self.gallery
        if wanted and count:
            data = pair_data(trainer)
            try:
                save_run_gallery(self.folder, order=() if data is None else data.listed_ids())
            except OSError as problem:  # the results are there; the page can be made at any time
                print(f"No gallery: {problem}. Remedy: make room or correct that, then m2ib gallery {self.folder}")
        print_written(self.folder)
        if count and not wanted and self.gallery is None:
            print(f"For a page to look through the {count:,} pairs: m2ib gallery {self.folder}")
