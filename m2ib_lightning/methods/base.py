"""The contract of an attribution method."""

from __future__ import annotations

import functools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, TypedDict

import lightning.pytorch as pl
import torch

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.backbones import Backbone, load_backbone
from m2ib_lightning.contracts import called, check_attributions, check_backbone
from m2ib_lightning.data.datamodule import pair_data
from m2ib_lightning.data.loading import Reader, ReadPairs
from m2ib_lightning.types import MODALITIES, BadPair, Modality, Pair, PairBatch


class Explained(TypedDict):
    """A batch as `test_step` hands it on, so that it is preprocessed once.

    Attributes:
        inputs: The pairs as the model reads them.
        attributions: What the method said of them, in their order.
        seconds: What preprocessing and explaining all of them took.
    """

    inputs: PairBatch
    attributions: list[Attribution]
    seconds: float


class AttributionMethod(pl.LightningModule, ABC):
    """A way of explaining pairs with a frozen model. A further method implements `attribute`, in one file.

    What the constructor of a method takes is recorded here (Lightning's `save_hyperparameters`) and goes into the
    `settings` of every result, so a further method need not say it again.

    Args:
        backbone: "embedded", a folder with a checkpoint, a Hugging Face hub name, or a loaded backbone.
        modalities: What to explain: "image", "text" or both.

    Attributes:
        unit: What the maps' values are measured in, such as "nats", "cos" or "1".
        control: Whether the method knows nothing of the pair, so that what a metric gives it is given for nothing.
        unrecorded: Arguments that are left out of the settings, since no result depends on them or they are no values.
        on_error: What `predict_step` does with a pair that the model cannot read: "stop", or "record" it as a
            `BadPair`. Under a Trainer it is what the `PairDataModule` says.

    Raises:
        ValueError: `modalities` names something else, nothing, or something twice.
    """

    unit: str
    control: ClassVar[bool] = False
    unrecorded: ClassVar[tuple[str, ...]] = ("backbone",)
    on_error: Literal["record", "stop"] = "stop"

    def __init__(
        self,
        backbone: str | Backbone = "embedded",
        modalities: Sequence[Modality] = MODALITIES,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=list(self.unrecorded), logger=False)
        if not modalities or len(set(modalities)) != len(modalities) or not set(modalities) <= set(MODALITIES):
            raise ValueError(
                f"Expected `modalities` to be one or both of 'image' and 'text' but got {list(modalities)}. "
                "Remedy: name each once."
            )
        self.modalities = tuple(m for m in MODALITIES if m in modalities)
        self.backbone = backbone if isinstance(backbone, Backbone) else None
        self.backbone_name = backbone.name if isinstance(backbone, Backbone) else backbone
        # Checkpoints hold what was fitted and not the backbone.
        self.strict_loading = False
        # Under resumption a process may have nothing left to do while others do.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def prepare(self) -> Backbone:
        """Load the backbone unless it is there, and check it and the method's arguments against it.

        Raises:
            ContractError: The model breaks the contract of `Backbone`.
            ValueError: There is no such model, or an argument does not fit it.
        """
        if self.backbone is None:
            self.backbone = load_backbone(self.backbone_name)
        check_backbone(self.backbone)
        return self.backbone

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Hold what `attribute` of a class gives against its contract."""
        super().__init_subclass__(**keywords)
        if "attribute" in cls.__dict__:
            cls.attribute = _checked(cls.attribute)  # type: ignore[assignment, method-assign]

    @abstractmethod
    def attribute(self, batch: PairBatch) -> list[Attribution]:
        """Explain a batch of pairs.

        A pair's result does not depend on the others of the batch. Gradients may be off when this is called.
        """

    def explain(self, batch: PairBatch) -> list[Attribution]:
        """Explain a batch of pairs, with the phrases and regions and against the foils that are asked of each.

        Raises:
            ValueError: A region is not in its picture, or the method does not explain what is asked for.
        """
        from m2ib_lightning.phrases import explain_parts  # it is made of methods

        return explain_parts(self, batch)

    @property
    def settings(self) -> dict[str, Any]:
        """What a result is made with; goes into each one."""
        assert self.backbone is not None
        # LightningCLI gives the arguments as the configuration has them, beside the class's name.
        given = self.hparams.get("init_args", self.hparams)
        return {
            "method": type(self).__name__,
            "backbone": self.backbone_name,
            "weights": self.backbone.weight_hash,
            **{name: value for name, value in given.items() if name not in self.unrecorded and name[0] != "_"},
            "modalities": list(self.modalities),
        }

    def setup(self, stage: str) -> None:
        """Called by the Trainer before anything is computed.

        Raises:
            ValueError: The Trainer would turn weights to half precision; masks move by gradients near 1e-6.
        """
        if (precision := str(self.trainer.precision)) in ("16-true", "bf16-true"):
            raise ValueError(
                f"Expected weights in float32 but got --trainer.precision {precision}. "
                f"Remedy: --trainer.precision {precision.replace('true', 'mixed')}."
            )
        self.prepare().to(self.trainer.strategy.root_device)
        if (data := pair_data(self.trainer)) is not None:
            self.on_error, data.backbone = data.on_error, self.backbone

    def predict_step(self, batch: Sequence[Pair | BadPair] | ReadPairs, batch_idx: int) -> list[Attribution | BadPair]:
        """Explain the pairs of a batch as they come from a `PairDataModule`; the bad ones stay, in their places.

        Raises:
            ValueError: The model cannot read a pair and `on_error` is "stop".
        """
        if not isinstance(batch, ReadPairs):
            batch = Reader(self.prepare(), record=self.on_error == "record")(batch).to(self.prepare().device)
        found = iter(self.explain(batch.inputs) if batch.inputs else [])
        return [batch.bad[pair.id] if pair.id in batch.bad else next(found) for pair in batch]

    def test_step(self, batch: Sequence[Pair], batch_idx: int) -> Explained:
        """Explain the pairs of a batch for the callback that scores them.

        Raises:
            ValueError: The model cannot read a pair.
        """
        start = time.perf_counter()
        inputs = self.prepare().preprocess_pairs(batch)
        attributions = self.explain(inputs)
        return Explained(inputs=inputs, attributions=attributions, seconds=time.perf_counter() - start)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the backbone out."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith("backbone.")}


def as_attributions(
    batch: PairBatch,
    *,
    image: Sequence[torch.Tensor] | None,
    text: Sequence[torch.Tensor] | None,
    special: torch.Tensor,
    score: torch.Tensor,
    unit: str,
    settings: dict[str, Any],
    **each: Sequence[Any],
) -> list[Attribution]:
    """One result per pair of a batch.

    Args:
        batch: The pairs that were explained.
        image: Per pair (gh, gw), or None.
        text: Per pair (L,), padding included, or None.
        special: (B, L) bool of the text's tokens.
        score: (B,) clean cosine similarity.
        unit: The unit of the maps' values.
        settings: What all were made with.
        each: Further fields of `Attribution`, a value per pair.
    """
    results, is_special, scores = [], special.cpu().numpy(), score.tolist()
    for i, tokens in enumerate(batch.tokens):
        pair, length = batch.pairs[i], len(tokens)
        results.append(
            Attribution(
                id=pair.id,
                text=pair.text,
                source=pair.source,
                image_map=None if image is None else image[i].float().cpu().numpy(),
                text_map=None if text is None else text[i][:length].float().cpu().numpy(),
                tokens=list(tokens),
                special=is_special[i, :length],
                spans=list(batch.spans[i]),
                score=scores[i],
                unit=unit,
                view=batch.views[i],
                truncated=batch.truncated[i],
                settings=settings,
                **{name: values[i] for name, values in each.items()},
            )
        )
    return results


def _checked(attribute: Callable[[Any, PairBatch], list[Attribution]]) -> Callable[[Any, PairBatch], list[Attribution]]:
    @functools.wraps(attribute)
    def checked(self: AttributionMethod, batch: PairBatch) -> list[Attribution]:
        found = called(self, attribute, self, batch)
        check_attributions(self, found, batch)
        return found

    return checked
