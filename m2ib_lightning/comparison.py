"""Several methods over the same pairs: `Trainer.test` for each with the same writer, beside controls."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import Callback, Trainer

from m2ib_lightning.backbones import Backbone
from m2ib_lightning.callbacks.score_writer import CONTROLS, ScoreWriter
from m2ib_lightning.data import PairDataModule
from m2ib_lightning.errors import UnsuitedModel
from m2ib_lightning.evaluation import Comparison, Protocol, standard_metrics
from m2ib_lightning.files import replacing
from m2ib_lightning.methods import AttributionMethod
from m2ib_lightning.metrics import PairMetric
from m2ib_lightning.precision import Precision, precision_on


def compare(
    methods: Sequence[AttributionMethod] | Mapping[str, AttributionMethod],
    data: PairDataModule,
    folder: str | Path,
    metrics: Sequence[PairMetric] | None = None,
    protocol: Protocol | None = None,
    precision: Precision | None = None,
    progress: Callable[[str], Sequence[Callback]] = lambda label: (),
    accelerator: str = "auto",
) -> Comparison:
    """Explain and score the same pairs by each method, and by random, centre and uniform maps.

    The same call goes on where a killed one stopped; what another comparison has left in the folder is refused. A
    method that cannot explain models of this kind is left out, with a warning, unless there is no other.

    Args:
        methods: The methods, called by their classes, or by labels of yours where they are a mapping. Those that name
            the same model share one.
        data: The pairs; those without truth have no value for the metrics that need it.
        folder: Where everything is written: `pairs.parquet`, and for each method `<method>/attributions`, one
            `AttributionStore`, and `<method>/scores.parquet`.
        metrics: What is measured; `standard_metrics()` by default.
        protocol: How inputs are masked.
        precision: What the methods compute in; bfloat16 on a GPU and float32 elsewhere by default.
        progress: Given a method's label, callbacks that show how far it is.
        accelerator: What the Trainer computes on: "auto", "cpu", "gpu".

    Raises:
        UnsuitedModel: None of the methods can explain the model.
        ValueError: Two methods have one label, the models differ, or the folder holds another comparison.

    Example:
        found = m2ib.compare([m2ib.M2IB(), GradCAM()], m2ib.PairDataModule(scenes=20), "outputs/comparison")
        found.values("M2IB", "image/PointingGame").mean()
    """
    import pandas as pd

    labelled = _with_controls(_labelled(methods))
    folder, measured = Path(folder), list(standard_metrics() if metrics is None else metrics)
    protocol = protocol or Protocol()
    frames, left_out = [], dict[str, UnsuitedModel]()
    for label, method in labelled.items():
        writer = ScoreWriter(folder / label, measured, protocol, controls=False, show=False)
        shown = list(progress(label))
        with _quietly():
            trainer = Trainer(
                accelerator=accelerator,
                devices=1,
                precision=precision or precision_on(accelerator),
                callbacks=[*shown, writer],
                logger=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                enable_progress_bar=bool(shown),
                default_root_dir=folder,
            )
            try:
                trainer.test(method, datamodule=data, verbose=False)
            except UnsuitedModel as problem:
                left_out[label] = problem
                continue
        frames.append(writer.comparison().frame.assign(method=label))
    for label, reason in left_out.items():
        if all(other in left_out or labelled[other].control for other in labelled):
            raise reason
        warnings.warn(f"{label} is left out. {reason}", stacklevel=2)
    whole = pd.concat(frames, ignore_index=True)
    with replacing(folder / "pairs.parquet") as unfinished:
        whole.to_parquet(unfinished)
    controls = [label for label, method in labelled.items() if method.control]
    said = {label: str(reason) for label, reason in left_out.items()}
    return Comparison(whole, measured, folder, protocol, controls, said)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep to itself what a Trainer says of the device, and of workers that are not needed, once for each method."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            for expected in ("LeafSpec", "Total length of"):  # the latter of a method that is done
                warnings.filterwarnings("ignore", f".*{expected}.*")
            yield
    finally:
        log.setLevel(level)


def _labelled(methods: Sequence[AttributionMethod] | Mapping[str, AttributionMethod]) -> dict[str, AttributionMethod]:
    """The methods by what tables and folders call them."""
    if isinstance(methods, Mapping):
        wrong = [label for label in methods if not label or label != Path(label).name or label.startswith(".")]
        if wrong:
            raise ValueError(f"Expected labels that name a folder but got {wrong}. Remedy: leave slashes and dots out.")
        found = dict(methods)
    else:
        names = [type(method).__name__ for method in methods]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ValueError(
                f"Expected methods of different classes but got {' and '.join(twice)} more than once. "
                'Remedy: give labels, {"first": ..., "second": ...}.'
            )
        found = dict(zip(names, methods, strict=True))
    if not found:
        raise ValueError("Expected at least one method but got none. Remedy: for example [M2IB, GradCAM].")
    return found


def _with_controls(methods: Mapping[str, AttributionMethod]) -> dict[str, AttributionMethod]:
    """The methods on one model, behind the controls that are not among them."""
    first = next(iter(methods.values()))
    backbone: Backbone = first.prepare()
    for label, method in methods.items():
        if method.backbone is None and method.backbone_name == first.backbone_name:
            method.backbone = backbone
        if method.prepare().weight_hash != backbone.weight_hash:
            raise ValueError(
                f"Expected one model but {label} explains {method.backbone_name!r} and the first method "
                f"{first.backbone_name!r}. Remedy: compare methods on one model at a time."
            )
    there = {type(method) for method in methods.values()}
    controls = {kind.__name__: kind(backbone) for kind in CONTROLS if kind not in there}
    return {**controls, **methods}
