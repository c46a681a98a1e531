"""Checkpoints of a fit: whole or as they were, and never run as a program when they are read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from m2ib_lightning.files import replacing
from m2ib_lightning.store.parts import unwritten


class CheckpointFiles(TorchCheckpointIO):
    """Reads and writes checkpoints for the Trainer.

    Lightning writes to the folder for temporary files and moves from there, which copies where that is another file
    system: a disk that fills, or a kill, then leaves a broken checkpoint under the name of the whole one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint beside its place, and under its name when all of it is on the disk.

        Raises:
            StoreError: The disk is full or the folder cannot be written; the checkpoint of before is still there.
        """
        path, whole = Path(path), io.BytesIO()
        torch.save(checkpoint, whole)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as unfinished:
                unfinished.write_bytes(whole.getbuffer())
        except OSError as problem:
            raise unwritten(
                path, "a checkpoint", f"the same command with --ckpt_path {path} goes on", problem
            ) from problem

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint: tensors and plain values alone, whatever is asked for; objects are not made.

        Raises:
            ValueError: It does not exist, is damaged, or is none.
        """
        try:
            found = super().load_checkpoint(path, map_location, weights_only=True)
            if not isinstance(found, dict) or not {"state_dict", "callbacks", "loops"} <= set(found):
                raise ValueError("no checkpoint of a Trainer")
            return found
        except FileNotFoundError as problem:
            raise ValueError(
                f"Expected a checkpoint but {path} does not exist. Remedy: correct --ckpt_path."
            ) from problem
        except Exception as problem:  # of pickle, of zip files, of torch
            reason = " ".join(str(problem).split())[:80]
            raise ValueError(
                f"Expected a checkpoint of `m2ib fit` but {path} is damaged or holds something else, which was not run "
                f"({type(problem).__name__}: {reason}). Remedy: name OUTPUT/checkpoints/last.ckpt, or begin anew."
            ) from problem
