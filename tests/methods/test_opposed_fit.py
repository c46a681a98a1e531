"""Maps against a difference, from which what speaks for the opposite is taken off."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from m2ib_lightning.backbones import Backbone, load_backbone
from m2ib_lightning.data import PairDataModule, Scene, make_scene
from m2ib_lightning.methods import M2IB
from m2ib_lightning.methods.opposed_fit import OpposedFit
from m2ib_lightning.phrases import explain_phrases, explain_regions
from m2ib_lightning.targets import Against, AgainstAlike, OtherModality, WithoutRegion, put
from m2ib_lightning.types import MODALITIES, Pair, PairBatch


@pytest.fixture(scope="module")
def embedded() -> Backbone:
    return load_backbone("embedded")


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(60_000 + i, kind="attribute") for i in range(3)]


@pytest.fixture(scope="module")
def foils(scenes) -> list[str]:
    said = [[item.colour for item in scene.objects[:2]] for scene in scenes]
    return [scene.text.replace(own, other, 1) for scene, (own, other) in zip(scenes, said, strict=True)]


@pytest.fixture(scope="module")
def foiled(embedded, scenes, foils) -> PairBatch:
    pairs = [Pair(str(i), scene.image, scene.text) for i, scene in enumerate(scenes)]
    return Against(foils).aim(embedded, embedded.preprocess_pairs(pairs))


def plain(batch: PairBatch, opposed: bool = False) -> PairBatch:
    """The batch against the same targets, or what is opposed to them, with nothing taken off."""
    return batch._replace(targets=batch.opposed if opposed else batch.targets, opposed=None)


def assert_same(found, expected) -> None:
    assert [a.id for a in found] == [a.id for a in expected]
    for a, b in zip(found, expected, strict=True):
        for m in MODALITIES:
            np.testing.assert_allclose(a.map_of(m), b.map_of(m), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("setting", [{}, {"tolerance": 0.02, "patience": 1}])
def test_a_map_is_the_nats_for_a_foil_less_those_for_its_opposite(embedded, foiled, setting):
    method = M2IB(embedded, **setting)
    found, toward, away = (method.attribute(batch) for batch in (foiled, plain(foiled), plain(foiled, True)))
    for a, b, c in zip(found, toward, away, strict=True):
        assert a.steps == b.steps and a.score == b.score
        np.testing.assert_array_equal(a.history["image/relevance"], b.history["image/relevance"])
        if not setting:  # else one fit may have ended before the other
            expected = np.clip(b.image_map - c.image_map, 0, None)
            np.testing.assert_allclose(a.image_map, expected, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(a.text_map, b.text_map, rtol=1e-4, atol=1e-3)  # it is the text that is changed


@pytest.mark.parametrize("modality", MODALITIES)
def test_one_modality_alone_is_as_with_the_other(embedded, foiled, modality):
    both = M2IB(embedded, steps=4).attribute(foiled)
    alone = M2IB(embedded, steps=4, modalities=[modality]).attribute(foiled)
    for a, b in zip(alone, both, strict=True):
        np.testing.assert_allclose(a.map_of(modality), b.map_of(modality), rtol=1e-4, atol=1e-3)


def test_what_comes_before_the_bottleneck_is_computed_once(embedded, foiled, monkeypatch):
    calls, prefix = [], embedded.image.prefix
    monkeypatch.setattr(embedded.image, "prefix", lambda *given: calls.append(1) or prefix(*given))
    M2IB(embedded, steps=1).new_fit(foiled)
    assert len(calls) == 1


def test_less_of_the_map_lies_on_the_object_of_the_other_colour(embedded, scenes, foiled):
    method = M2IB(embedded, modalities=["image"])

    def on_twin(a, scene):
        side = len(scene.labels) // len(a.image_map)
        spread = np.kron(a.image_map, np.ones((side, side)))
        return spread[scene.labels == 1].sum() / spread.sum()

    less, whole = (
        np.mean([on_twin(*each) for each in zip(method.attribute(batch), scenes, strict=True)])
        for batch in (foiled, plain(foiled))
    )
    assert less < 0.6 * whole


def test_a_pair_without_a_foil_beside_one_with_is_explained_as_it_is_alone(embedded, foiled):
    method, bare = M2IB(embedded, steps=4), foiled._replace(targets=None, weights=None, opposed=None)
    mixed = put(OtherModality().aim(embedded, bare), [1], foiled.keep([1]))
    usual, (against,) = method.attribute(bare), method.attribute(foiled.keep([1]))
    assert_same(method.attribute(mixed), [usual[0], against, usual[2]])
    fit = method.new_fit(mixed)  # all of them at once, as a Trainer fits them
    assert isinstance(fit, OpposedFit)
    optimizer = method.new_optimizer(fit.parameters())
    for _ in range(method.steps):
        fit.step(optimizer)
    assert_same(method.results(fit), [usual[0], against, usual[2]])


@pytest.mark.slow
def test_a_pair_against_a_caption_beside_one_against_a_picture_is_explained_as_it_is_alone(embedded, scenes, foils):
    foil = make_scene(60_050).image
    pairs = [Pair(str(i), scene.image, scene.text) for i, scene in enumerate(scenes[:2])]
    batch, method = embedded.preprocess_pairs(pairs), M2IB(embedded, steps=4)
    apart = [
        Against(foils[:1]).aim(embedded, batch.keep([0])),
        Against([foil], "image").aim(embedded, batch.keep([1])),
    ]
    both = put(OtherModality().aim(embedded, batch), [0], apart[0])
    both = put(both, [1], apart[1])
    assert_same(method.attribute(both), [method.attribute(one)[0] for one in apart])


@pytest.mark.parametrize("tolerance", [None, 0.02])
def test_a_pair_that_stops_is_explained_as_it_is_alone(embedded, foiled, tolerance):
    method = M2IB(embedded, tolerance=tolerance, patience=1, steps=12)
    together = method.attribute(foiled)
    assert_same(together, [method.attribute(foiled.keep([row]))[0] for row in range(3)])
    fit = method.new_fit(foiled)  # those that have stopped stay in the batch and are held
    optimizer = method.new_optimizer(fit.parameters())
    for _ in range(method.steps):
        fit.step(optimizer)
    assert_same(method.results(fit), together)
    assert tolerance is None or len({a.steps for a in together}) > 1


def test_the_opposite_of_a_pair_that_is_done_is_done_too(embedded, foiled):
    method = M2IB(embedded, modalities=["image"])
    fit = method.new_fit(foiled)
    optimizer = method.new_optimizer(fit.parameters())
    fit.step(optimizer)
    fit.stopping.running[0] = False
    fit.step(optimizer)
    before = fit.opposite.bottleneck("image").alpha.detach().clone()
    fit.step(optimizer)
    moved = (fit.opposite.bottleneck("image").alpha - before).abs().amax((1, 2)) > 0
    assert moved.tolist() == [False, True, True]


def test_masks_opened_again_come_to_the_same_maps(embedded, foiled):
    method = M2IB(embedded, steps=3)
    fit = method.new_fit(foiled)
    for _ in range(2):
        optimizer = method.new_optimizer(fit.parameters())
        for _ in range(method.steps):
            fit.step(optimizer)
        found = method.results(fit)
        fit.restart()
    assert_same(found, method.attribute(foiled))


def test_a_fit_goes_on_from_a_checkpoint_with_both_masks(embedded, foiled):
    method = M2IB(embedded, steps=4)

    def made(steps, fit, optimizer):
        for _ in range(steps):
            fit.step(optimizer)
        return fit, optimizer

    fits = [method.new_fit(foiled) for _ in range(3)]
    optimizers = [method.new_optimizer(fit.parameters()) for fit in fits]
    made(2, fits[0], optimizers[0])
    fits[1].load_state_dict(fits[0].state_dict())
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    made(2, fits[1], optimizers[1]), made(4, fits[2], optimizers[2])
    for a, b in zip(method.results(fits[1]), method.results(fits[2]), strict=True):
        np.testing.assert_array_equal(a.image_map, b.image_map)
        np.testing.assert_array_equal(a.text_map, b.text_map)


def test_a_trainer_gives_the_same_maps(embedded, scenes, foils, foiled, tmp_path):
    for i, scene in enumerate(scenes):
        scene.image.save(tmp_path / f"{i}.png")
    rows = [f"{i},{i}.png,{scene.text},{foil}" for i, (scene, foil) in enumerate(zip(scenes, foils, strict=True))]
    (tmp_path / "pairs.csv").write_text("\n".join(["id,image,text,against", *rows]))
    method = M2IB("embedded")
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = pl.Trainer(accelerator="cpu", max_epochs=3, **quiet)
    trainer.fit(method, PairDataModule(source=str(tmp_path / "pairs.csv"), batch_size=2))
    assert_same(method.attributions(), M2IB(embedded, steps=3).attribute(foiled))


def test_with_keep_the_map_is_that_of_the_masks_that_leave_so_much(embedded, foiled):
    fit = M2IB(embedded, keep=0.9).new_fit(foiled)
    assert not isinstance(fit, OpposedFit)


def test_a_word_is_contested_where_what_could_stand_in_its_place_is_there_too(embedded, scenes):
    alone = make_scene(60_100, objects=("crab", "tree", "key"))
    pairs = [Pair(str(i), scene.image, scene.text) for i, scene in enumerate([*scenes, alone])]
    pairs[-1] = pairs[-1]._replace(text="a crab")
    spans = [*(scene.spans[0] for scene in scenes), (2, 6)]
    aimed = AgainstAlike(spans).aim(embedded, embedded.preprocess_pairs(pairs))
    assert aimed.opposed["image"].any(-1).tolist() == [True, True, True, False]


def test_the_words_for_a_region_are_less_those_for_the_rest_of_the_picture(embedded):
    scene = make_scene(60_200, kind="two_of_four")
    batch = embedded.preprocess_pairs([Pair("a", scene.image, scene.text)])
    target = WithoutRegion([scene.labels == 0])
    ((region,),) = explain_regions(M2IB(embedded, modalities=["text"]), batch, [[scene.labels == 0]])
    half = M2IB(embedded, modalities=["text"], noise_samples=1)  # nothing else is explained: each has its half
    aimed = target.aim(embedded, batch)
    torch.testing.assert_close(aimed.opposed["text"], -aimed.targets["text"])
    maps = [half.attribute(plain(aimed, opposed))[0].text_map for opposed in (False, True)]
    np.testing.assert_allclose(region.text_map, np.clip(maps[0] - maps[1], 0, None), rtol=1e-4, atol=1e-3)
    own, other = (
        sum(v for v, (a, b) in zip(region.text_map, batch.spans[0], strict=True) if start <= a < b <= end)
        for start, end in scene.spans
    )
    assert own > 10 * other


def test_of_a_region_that_speaks_against_its_text_the_rest_of_the_picture_is_opposed(embedded):
    seen = []

    class Watched(M2IB):
        def attribute(self, batch):
            seen.append(batch)
            return super().attribute(batch)

    scene = make_scene(60_200, kind="two_of_four")
    batch = embedded.preprocess_pairs([Pair("a", scene.image, scene.text)])
    for index in (0, 2):  # one that is named, and one that is not
        ((region,),) = explain_regions(
            Watched(embedded, modalities=["text"], steps=1), batch, [[scene.labels == index]]
        )
        assert (region.effect > 0) == (index == 0)
        torch.testing.assert_close(seen[-1].opposed["text"], -seen[-1].targets["text"])
        along = seen[-1].targets["text"][0] @ torch.nn.functional.normalize(embedded.embed("text", batch)[0], dim=0)
        assert along == pytest.approx(abs(region.effect), abs=1e-5)


def test_phrases_that_are_contested_and_others_come_back_in_their_order(embedded, scenes):
    method = M2IB(embedded, modalities=["image"], steps=3)
    alone = make_scene(60_100, objects=("crab", "tree", "key"))
    pairs = [Pair("a", alone.image, "a crab"), Pair("b", scenes[0].image, scenes[0].text)]
    batch, spans = embedded.preprocess_pairs(pairs), [[(2, 6)], [scenes[0].spans[0]]]
    together = explain_phrases(method, batch, spans)
    for row in range(2):
        (apart,) = explain_phrases(method, batch.keep([row]), [spans[row]])
        np.testing.assert_allclose(together[row][0].image_map, apart[0].image_map, rtol=1e-4, atol=1e-3)
