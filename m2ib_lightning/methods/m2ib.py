"""M2IB: attribution by a multi-modal information bottleneck (Wang, Rudner, Wilson, NeurIPS 2023)."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import nn

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.backbones import Backbone
from m2ib_lightning.backbones.suffixes import Suffixes
from m2ib_lightning.bottleneck import INITIAL_ALPHA, NoiseBank, ReadOut
from m2ib_lightning.checks import check_at_least, check_choice
from m2ib_lightning.losses import Compression, JointTerm, LossTerm, MovingTerm, Relevance
from m2ib_lightning.methods.base import AttributionMethod, as_attributions
from m2ib_lightning.methods.captured import (
    GRAPHS_KEPT,
    CapturedSteps,
    fill_batch,
    pad_texts,
    shape_of,
)
from m2ib_lightning.methods.embed_alone import embed_alone
from m2ib_lightning.methods.mask_fit import MaskFit, TowerSetting
from m2ib_lightning.methods.mismatched import match_scores
from m2ib_lightning.methods.objective import gradients
from m2ib_lightning.methods.opposed_fit import OpposedFit
from m2ib_lightning.methods.priors import default_layer, find_priors
from m2ib_lightning.methods.reader import MaskReader
from m2ib_lightning.methods.stopping import CONVERGED, DIVERGED, REASONS
from m2ib_lightning.prior import Prior
from m2ib_lightning.types import MODALITIES, Layer, Modality, Pair, PairBatch
from m2ib_lightning.verdict import check_thresholds

RELEASED: dict[str, Any] = {
    "image_beta": 0.1,
    "text_beta": 0.1,
    "steps": 10,
    "noise_samples": 10,
    "lr": 1.0,
    "initial_alpha": 5.0,
    "prior": "unit",
    "read_out": "bottleneck",
    "antithetic": False,
}
"""Arguments that make the setting of the paper's released code: `M2IB(**RELEASED)`."""


BETAS = {"image_beta": 3.0, "text_beta": 0.1}
"""What a nat costs against similarity in the calibrated setting."""


class M2IB(AttributionMethod):
    """Explains a pair by the least information that its image and its text must keep to agree.

    Noise is mixed into the hidden states of one layer of each tower through a mask per token and channel. The masks
    are fitted, in a few steps, to let through as little as possible (compression, in nats) while the noisy embedding
    still agrees with the clean one of the other modality (relevance, cosine). What a token had to let through is its
    attribution.

    The defaults are the calibrated setting; `RELEASED` is the paper's.

    Args:
        backbone: "embedded", a folder with a checkpoint, a Hugging Face hub name, or a loaded backbone.
        modalities: What to explain: "image", "text" or both, in one fit.
        image_layer: Block after which the image bottleneck sits, 0-based, or "embeddings"; by default about 3/8 of the
            depth with a measured prior and 3/4 (the released default) with the unit prior.
        text_layer: The same of the text; "embeddings" by default with a measured prior, since EOS reads the words in
            the first blocks, and 3/4 of the depth with the unit prior.
        image_beta: Weight of compression against relevance for the image, >= 0.
        text_beta: Weight of compression against relevance for the text, >= 0.
        keep: Instead of betas, the share of a pair's clean similarity that is to be left through each bottleneck, in
            (0, 1]: each pair is compressed as far as that allows. The beta of each step stands in the history as
            "image/beta" and "text/beta". A similarity below 0 may fall by (1 - keep) of its size.
        steps: Optimisation steps, >= 1, or >= 0 with a `reader`. Under `fit` this is the Trainer's `max_epochs`. Six
            with `lr` 1.5 and `initial_alpha` 3 take 0.6 of the time and give nearly the same maps, but fall short with
            `keep`.
        noise_samples: Noise samples a step, >= 1; the paper has 10. 2 antithetic ones give the same maps.
        lr: Learning rate, > 0: about how far a mask's logit moves in a step.
        initial_alpha: Logit that the masks start from. From 5, as in the paper, the first steps close all masks alike,
            since there is hardly any noise yet that could tell them apart.
        reader: A folder that `m2ib train-reader` wrote for this model and setting. Masks then start from what it reads
            off a pair, and with 0 steps that is the result, for about the cost of one step; how much similarity it
            leaves is not measured then.
        optimizer: Made with the masks and given `lr`.
        prior: What noise is drawn from: "unit", N(0, 1) as in the paper; "measured", the mean and standard deviation
            of each channel over composed scenes; or a file that `m2ib calibrate` wrote.
        read_out: The token that the head reads (CLS, EOS) at a block: masked like any other ("bottleneck", as in the
            paper), held at its mean over data ("mean"), or left as it is ("clean").
        loss_terms: What is minimised; compression and relevance by default.
        tolerance: A pair is done when its loss has not fallen by more than this for `patience` steps; null for never.
        patience: Such steps that a pair is given, >= 1.
        noise_chunk: Noise samples computed at once, to bound memory; by default what keeps the device busy. It changes
            no result, and is halved where memory runs out.
        antithetic: Whether half of the noise samples are the other half negated.
        compile: Whether blocks of the towers go through `torch.compile`, which takes a minute once and seconds from its
            cache; for many pairs on a GPU. On a processor it is slower after that as well.
        graphs: Whether a GPU, from the second batch of a shape on, replays a clean pass and a step that were recorded
            once, and so waits for nothing between their kernels. Texts and batches are padded to a few sizes for it.
            Fits with `keep`, a `reader`, terms that move or maps less their opposite are computed step by step, as on a
            processor.
        seed: Seed of the noise.
        thresholds: Where the verdict on a map begins to speak against it, for example {"image_left": 0.7}; see
            `verdict.Thresholds` for their names and defaults.

    Raises:
        ValueError: An argument is out of its range.
    """

    unit = "nats"
    unrecorded = ("backbone", "optimizer", "loss_terms", "noise_chunk", "compile", "graphs")

    def __init__(
        self,
        backbone: str | Backbone = "embedded",
        modalities: Sequence[Modality] = MODALITIES,
        image_layer: int | Literal["embeddings"] | None = None,
        text_layer: int | Literal["embeddings"] | None = None,
        image_beta: float = BETAS["image_beta"],
        text_beta: float = BETAS["text_beta"],
        keep: float | None = None,
        steps: int = 10,
        noise_samples: int = 2,
        lr: float = 1.0,
        initial_alpha: float = INITIAL_ALPHA,
        reader: str | None = None,
        optimizer: OptimizerCallable = torch.optim.Adam,
        prior: str = "measured",
        read_out: ReadOut = "mean",
        loss_terms: list[LossTerm] | None = None,
        tolerance: float | None = 1e-3,
        patience: int = 3,
        noise_chunk: int | None = None,
        antithetic: bool = True,
        compile: bool = False,
        graphs: bool = True,
        seed: int = 0,
        thresholds: dict[str, float] | None = None,
    ) -> None:
        super().__init__(backbone, modalities)
        # A step is several backward passes, one for each chunk of noise.
        self.automatic_optimization = False
        check_at_least("steps", steps, 1 if reader is None else 0)
        check_at_least("noise_samples", noise_samples, 1)
        check_at_least("image_beta", image_beta, 0)
        check_at_least("text_beta", text_beta, 0)
        check_at_least("tolerance", 0 if tolerance is None else tolerance, 0)
        check_at_least("patience", patience, 1)
        check_at_least("noise_chunk", 1 if noise_chunk is None else noise_chunk, 1)
        if not lr > 0:
            raise ValueError(f"Expected `lr` to be above 0 but got {lr}. Remedy: the paper's is 1.")
        check_choice("read_out", read_out, get_args(ReadOut))
        check_thresholds(thresholds)
        self.layers: dict[Modality, Layer | None] = {"image": image_layer, "text": text_layer}
        self.betas: dict[Modality, float] = {"image": image_beta, "text": text_beta}
        self.keep = keep
        self.steps, self.noise_samples, self.lr, self.optimizer = steps, noise_samples, lr, optimizer
        self.initial_alpha = initial_alpha
        self.reader = None if reader is None else MaskReader.load(reader)
        self.prior, self.read_out = prior, read_out
        self.loss_terms = nn.ModuleList(loss_terms if loss_terms is not None else [Compression(), Relevance()])
        _check_terms(self._terms, self.modalities)
        _check_keep(keep, self.betas, self._terms)
        self.tolerance, self.patience, self.noise_chunk = tolerance, patience, noise_chunk
        self.noise, self.compile_towers = NoiseBank(seed, noise_samples, antithetic), compile
        self.fits = nn.ModuleList()
        self.graphs = graphs
        self._seen: set[Hashable] = set()
        self._captured: dict[Hashable, CapturedSteps] = {}
        self.towers: dict[Modality, TowerSetting] = {}

    @torch.inference_mode(False)  # what is made here takes part in gradients
    def prepare(self, priors: Mapping[Modality, Prior] | None = None) -> Backbone:
        """Load the backbone, settle the layers and find the priors, unless that is done.

        Args:
            priors: Of the towers at their layers, where they were measured already; by default what `prior` names.
        """
        backbone = super().prepare()
        if not self.towers:
            layers: dict[Modality, Layer] = {}
            for modality in self.modalities:
                tower, layer = backbone.tower(modality), self.layers[modality]
                layers[modality] = default_layer(modality, tower.depth, self.prior) if layer is None else layer
                tower.check_layer(layers[modality], f"{modality}_layer")
            found = priors or find_priors(backbone, self.prior, layers)
            for term in self._terms:
                term.prepare(partial(embed_alone, backbone))
            suffixes = Suffixes(backbone, self.compile_towers)
            for m in self.modalities:
                self.towers[m] = TowerSetting(
                    layers[m], self.betas[m], found[m], self.read_out, self.initial_alpha, partial(suffixes, m)
                )
            if self.reader is not None:
                self.reader.check(self.setting, {m: tower.prior for m, tower in self.towers.items()})
                self.reader.to(backbone.device)
        return backbone

    @property
    def setting(self) -> dict[str, Any]:
        """What masks are the best for; a reader of masks is of one such setting."""
        found: dict[str, Any] = {"weights": self.prepare().weight_hash, "read_out": self.read_out}
        for modality, tower in self.towers.items():
            found |= {f"{modality}_layer": tower.layer, f"{modality}_beta": tower.beta}
        return found | {"loss_terms": [f"{type(term).__name__} {term.weight:g}" for term in self._terms]}

    def new_fit(self, batch: PairBatch) -> MaskFit:
        """Fresh masks for a batch of pairs."""
        return (OpposedFit if any(self._opposed(batch)) else MaskFit)(
            self.prepare(),
            batch,
            self.towers,
            self._terms,
            self.noise,
            self.tolerance,
            self.patience,
            self.noise_chunk,
            self.keep,
            self.reader,
        )

    @property
    def _terms(self) -> list[LossTerm]:
        return [term for term in self.loss_terms if isinstance(term, LossTerm)]

    def new_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser of the masks, at the method's learning rate."""
        optimizer = self.optimizer(parameters)
        for group in optimizer.param_groups:
            group["lr"] = self.lr
        return optimizer

    def attribute(self, batch: PairBatch) -> list[Attribution]:
        """Fit the masks of a batch of pairs and read off what they let through. Pairs that are done leave the batch."""
        opposed = self._opposed(batch)
        if any(opposed) and not all(opposed):
            return self._attribute_apart(batch, opposed)
        with gradients():
            replayed = None if any(opposed) else self._replayed_fit(batch)
            if replayed is not None:
                return self.results(replayed)[: len(batch.tokens)]
            fit = self.new_fit(batch)
            optimizer = self.new_optimizer(fit.parameters())
            results: dict[int, Attribution] = {}
            rows = list(range(fit.pairs))
            # To ask a GPU which pairs still run is to wait for it; those that have stopped meanwhile are held.
            every = 5 if self.prepare().device.type == "cuda" else 1
            for step in range(1, self.steps + 1):
                fit.step(optimizer)
                if step % every or step == self.steps:
                    continue
                running = fit.stopping.running.tolist()
                if all(running):
                    continue
                done = zip(rows, self.results(fit), running, strict=True)
                results |= {row: attribution for row, attribution, runs in done if not runs}
                rows = [row for row, runs in zip(rows, running, strict=True) if runs]
                if not rows:
                    break
                fit.drop_stopped(optimizer)
            if rows:
                results |= dict(zip(rows, self.results(fit), strict=True))
            return [results[row] for row in sorted(results)]

    def _attribute_apart(self, batch: PairBatch, opposed: Sequence[bool]) -> list[Attribution]:
        """The pairs whose maps are less those of the opposite, and then the others, which cost half as much."""
        found: dict[int, Attribution] = {}
        for wanted in (True, False):
            rows = [row for row, is_opposed in enumerate(opposed) if is_opposed == wanted]
            found |= dict(zip(rows, self.attribute(batch.keep(rows)), strict=True))
        return [found[row] for row in range(len(opposed))]

    def _opposed(self, batch: PairBatch) -> list[bool]:
        """Of each pair, whether what speaks for another direction is taken off a map that is explained here."""
        self.prepare()
        asked = [of.any(-1) for m, of in (batch.opposed or {}).items() if m in self.towers and self.keep is None]
        return torch.stack(asked).any(0).tolist() if asked else []

    def _replays(self) -> bool:
        """Whether steps may be a CUDA graph: on a GPU, with fixed weights and masks that open alike."""
        moving = any(isinstance(term, MovingTerm) for term in self._terms)
        asked = self.graphs and self.keep is None and self.reader is None and not moving
        return asked and self.prepare().device.type == "cuda"

    def _replayed_fit(self, batch: PairBatch) -> MaskFit | None:
        """The fit of a batch, perhaps filled up, after all its steps, made by a graph; None where there is none."""
        if not self._replays():
            return None
        text = self.prepare().text
        whole = fill_batch(batch if text.reads_padding else pad_texts(batch, text.length))
        shape = shape_of(self.prepare(), whole)
        if shape not in self._seen:  # what comes once is not worth a record
            self._seen.add(shape)
            return None
        try:
            return self._captured_steps(shape, whole).run(whole, self.steps)
        except (RuntimeError, torch.AcceleratorError) as problem:
            self.graphs = False
            self._captured.clear()
            warnings.warn(f"A step cannot be a CUDA graph ({problem}); going on without.", stacklevel=2)
            return None

    def _captured_steps(self, shape: Hashable, batch: PairBatch) -> CapturedSteps:
        """The steps of fits of a batch's shape; those of the shape that was used the longest ago are forgotten."""
        steps = self._captured.pop(shape, None)
        if steps is None:
            if len(self._captured) >= GRAPHS_KEPT:
                self._captured.pop(next(iter(self._captured)))
            fit = self.new_fit(batch)
            steps = CapturedSteps(fit, self.new_optimizer(fit.parameters()))
        self._captured[shape] = steps
        return steps

    def results(self, fit: MaskFit, running: str = "max_steps") -> list[Attribution]:
        """Attributions from the masks as they are now.

        Args:
            fit: After one step or more, or with masks that a reader found.
            running: Stop reason of the pairs that have not stopped by themselves.
        """
        updates, reasons = fit.stopping.updates.tolist(), fit.stopping.reason.tolist()
        # A loss that stopped its pair was computed and is shown; one that is not finite is not.
        shown = [n + (reason in (CONVERGED, DIVERGED)) for n, reason in zip(updates, reasons, strict=True)]
        names = fit.history[0] if fit.history else ()
        history = {name: torch.stack([v[name] for v in fit.history]).cpu().numpy() for name in names}
        count = len(shown)
        # Along another target than the other modality it is no similarity, and stands in the history alone.
        held, through = fit.held(), {f"{m}_score": [float("nan")] * count for m in MODALITIES}
        if fit.batch.targets is None:
            found_last = {m: history[name][-1] for m in MODALITIES if (name := f"{m}/relevance") in history}
            found_last |= {m: masks.relevance.cpu().numpy() for m, masks in held.items()}
            through |= {f"{m}_score": left.tolist() for m, left in found_last.items()}
        found = as_attributions(
            fit.batch,
            image=fit.maps("image", held.get("image")),
            text=fit.maps("text", held.get("text")),
            special=fit.hidden["text"].special,
            score=fit.score,
            unit=self.unit,
            settings=self.settings,
            **through,
            history=[{name: values[: shown[i], i] for name, values in history.items()} for i in range(count)],
            steps=updates,
            stop_reason=[REASONS[reason] if reason else running for reason in reasons],
            **match_scores(fit.backbone, fit.clean["image"], fit.clean["text"]),
        )
        # Masks of a loss that is not finite mean nothing.
        return [replace(a, image_map=None, text_map=None) if a.stop_reason == "non_finite" else a for a in found]

    @property
    def settings(self) -> dict[str, Any]:
        """What a result is made with."""
        layers = {f"{modality}_layer": setting.layer for modality, setting in self.towers.items()}
        terms = [type(term).__name__ for term in self.loss_terms]
        made = super().settings | layers | {"steps": self.steps, "loss_terms": terms}
        return {name: value for name, value in made.items() if self.keep is None or name not in BETAS}

    # What follows is the same fit under a Trainer: an epoch is a step of every pair's masks.

    def configure_model(self) -> None:
        """Under `fit`, make the masks of every batch; what comes before the bottleneck is computed here, once."""
        if self.trainer.training and not self.fits:
            backbone, epochs = self.prepare(), self.trainer.max_epochs
            self.steps = epochs if epochs and epochs > 0 else self.steps
            self.trainer.fit_loop.setup_data()
            batches = cast(Iterable[Sequence[Pair]], self.trainer.train_dataloader)
            from m2ib_lightning.phrases import aimed  # it is made of methods

            self.fits.extend(self.new_fit(aimed(backbone, backbone.preprocess_pairs(pairs))) for pairs in batches)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimiser for all masks; those that are not in a batch have no gradient and are passed over."""
        return self.new_optimizer(self.fits.parameters())

    def training_step(self, batch: Sequence[Pair], batch_idx: int) -> None:
        """One step of the masks of one batch of pairs."""
        fit, optimizer = self.mask_fits[batch_idx], self.optimizers()
        assert not isinstance(optimizer, list)
        values = fit.step(optimizer, self.manual_backward)
        # Loggers count optimisation steps of a pair, not of the Trainer, which makes one for every batch.
        self.log("step", float(self.current_epoch + 1), on_step=False, on_epoch=True, batch_size=1)
        for name, value in values.items():
            shown = name == "loss/total"
            self.log(name, value.mean(), on_step=False, on_epoch=True, prog_bar=shown, batch_size=len(batch))
        statistics = fit.statistics()
        running = statistics.pop("pairs/running")
        self.log("pairs/running", running, on_step=False, on_epoch=True, batch_size=1, reduce_fx="sum")
        self.log_dict(statistics, on_step=False, on_epoch=True, batch_size=len(batch))

    def on_train_end(self) -> None:
        """Find what is kept while masks and model are still on the accelerator."""
        for fit in self.mask_fits:
            if fit.history:
                fit.held()

    def on_train_epoch_end(self) -> None:
        """End the fit when every pair is done."""
        if not any(fit.stopping.running.any() for fit in self.mask_fits):
            self.trainer.should_stop = True

    @property
    def mask_fits(self) -> list[MaskFit]:
        """The fits of all batches, in the order of the data."""
        return [fit for fit in self.fits if isinstance(fit, MaskFit)]

    def attributions(self) -> list[Attribution]:
        """The results of a fit, in the order of the data.

        Raises:
            RuntimeError: Nothing has been fitted.
        """
        if not self.fits or not all(fit.history for fit in self.mask_fits):
            raise RuntimeError("Expected a finished fit but there is none. Remedy: call Trainer.fit first.")
        from m2ib_lightning.phrases import add_parts

        reason = _stop_reason(self.trainer)
        found = [(fit.batch, self.results(fit, reason)) for fit in self.mask_fits]
        if reason == "interrupted":  # whoever stops a fit does not wait for more of them
            return [a for _, results in found for a in results]
        return [a for batch, results in found for a in add_parts(self, batch, results)]


def _check_terms(terms: Sequence[LossTerm], modalities: Sequence[Modality]) -> None:
    """Refuse terms that cannot be told apart or that look at a tower which is not explained."""
    names = [term.name for term in terms]
    for term in terms:
        if names.count(term.name) > 1:
            raise ValueError(
                f"Expected loss terms of different names but got {term.name!r} more than once. "
                "Remedy: leave one out, or give a class of your own another `name`."
            )
        if isinstance(term, JointTerm) and len(modalities) < 2:
            raise ValueError(
                f"Expected both modalities for {type(term).__name__} but got {list(modalities)}. "
                "Remedy: explain both, or leave the term out."
            )


def _check_keep(keep: float | None, betas: Mapping[Modality, float], terms: Sequence[LossTerm]) -> None:
    """Refuse a share that is none, two ways to say the same thing, or a loss in which nothing can be traded."""
    if keep is None:
        return
    if not 0 < keep <= 1:
        raise ValueError(f"Expected `keep` to be above 0 and at most 1 but got {keep}. Remedy: 0.9.")
    said = {name: beta for m, beta in betas.items() if beta != BETAS[name := f"{m}_beta"]}
    if said:
        raise ValueError(f"Expected `keep` or betas but got keep={keep} and {said}. Remedy: leave one of them out.")
    if "relevance" not in [term.name for term in terms] or not any(term.weighed_by_beta for term in terms):
        raise ValueError(
            f"Expected Relevance and Compression among `loss_terms` with keep={keep} but got "
            f"{', '.join(type(term).__name__ for term in terms)}. Remedy: add them, or say betas instead."
        )


def _stop_reason(trainer: Any) -> str:
    """Why the Trainer stopped, in one word."""
    if trainer.interrupted:
        return "interrupted"
    stopper = trainer.early_stopping_callback
    return {
        "STOPPING_THRESHOLD": "converged",
        "PATIENCE_EXHAUSTED": "converged",
        "DIVERGENCE_THRESHOLD": "diverged",
        "NON_FINITE_METRIC": "non_finite",
    }.get(stopper.stopping_reason.name if stopper else "", "max_steps")
