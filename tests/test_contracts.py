"""Each wrong term, metric, method and backbone is one line that names it; those of the package pass."""

import copy
import traceback

import numpy as np
import pytest
import torch

from m2ib_lightning import explain, load_backbone
from m2ib_lightning.backbones.clip import CLIPBackbone
from m2ib_lightning.backbones.towers import ClsImageTower, EosTextTower
from m2ib_lightning.cli import main
from m2ib_lightning.contracts import ContractError, check_backbone
from m2ib_lightning.data import make_scene
from m2ib_lightning.evaluation import Evaluator
from m2ib_lightning.losses import Compression, JointTerm, LossTerm, Relevance
from m2ib_lightning.methods import M2IB, AttributionMethod, Baseline, RandomMap
from m2ib_lightning.metrics import PairMetric
from tests.checkpoints import CHECKPOINTS
from tests.evaluation.scenes import scene_pairs

FAST = {"steps": 2, "noise_samples": 2}


@pytest.fixture(scope="module")
def embedded():
    return load_backbone("embedded")


def line(problem: ContractError, name: str) -> str:
    """The message, if it is one line of the house that names the class and where it stands."""
    said = str(problem)
    assert said.startswith("Expected ") and " but got " in said and "Remedy: " in said and "\n" not in said
    assert name in said
    return said


def term(value, kind=LossTerm) -> LossTerm:
    class MyTerm(kind):
        def forward(self, *towers):
            return value(*towers)

    return MyTerm()


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (lambda t: t.capacity, "shape (1, 65, 128) of torch.float32"),
        (lambda t: t.capacity.mean(), "shape () of torch.float32"),
        (lambda t: t.capacity.mean((1, 2))[:, None], "shape (1, 1) of torch.float32"),
        (lambda t: t.capacity.mean((1, 2)) > 0, "shape (1,) of torch.bool"),
        (lambda t: float(t.capacity.mean()), "a float"),
        (lambda t: None, "None"),
        (lambda t: t.capacity.mean((1, 2)) * torch.nan, "nan or inf for every pair"),
        (lambda t: t.capacity.mean((1, 2)).detach(), "detached ones"),
        (lambda t: torch.tensor([t.capacity.mean().item()]), "detached ones"),
        (lambda t: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda t: t.capactiy.mean((1, 2)), "AttributeError: 'Bottlenecked' object has no attribute 'capactiy'"),
    ],
)
def test_a_wrong_loss_term_is_one_line_at_the_first_step(value, got, embedded):
    with pytest.raises(ContractError) as caught:
        explain(
            make_scene(0).image, "a cat", embedded, modalities=["image"], **FAST,
            loss_terms=[Compression(), Relevance(), term(value)],
        )  # fmt: skip
    said = line(caught.value, "MyTerm")
    assert f"but got {got} at " in said and "test_contracts.py:" in said


def test_a_joint_term_is_held_to_the_same(embedded):
    with pytest.raises(ContractError, match=r"MyTerm to return .* mask of the image and the text but got shape"):
        wrong = term(lambda image, text: image.lambda_ + text.lambda_.mean(), JointTerm)
        explain(make_scene(0).image, "a cat", embedded, loss_terms=[wrong], **FAST)


def test_each_tower_that_a_term_looks_at_is_checked(embedded):
    with pytest.raises(ContractError, match=r"mask of the text but got shape \(1, \d, \d+\)"):
        wrong = term(lambda t: t.lambda_.mean((1, 2)) if t.modality == "image" else t.lambda_)
        explain(make_scene(0).image, "a cat", embedded, loss_terms=[Relevance(), wrong], **FAST)
    with pytest.raises(ContractError, match=r"mask of the text but got nan or inf for every pair"):
        wrong = term(lambda t: t.lambda_.mean((1, 2)) * (1 if t.modality == "image" else torch.nan))
        explain(make_scene(0).image, "a cat", embedded, loss_terms=[Relevance(), wrong], **FAST)


def test_a_tower_of_which_a_term_says_nothing_gets_zeros(embedded):
    def of_the_image(tower):
        return tower.lambda_.mean((1, 2)) if tower.modality == "image" else torch.zeros(len(tower.alpha))

    (a,) = explain(make_scene(0).image, "a cat", embedded, loss_terms=[Relevance(), term(of_the_image)], **FAST)
    assert a.history["image/myterm"][0] > 0.9 and a.history["text/myterm"][0] == 0


def test_nan_of_one_pair_or_of_a_later_step_is_that_pairs_verdict(embedded):
    steps = []

    def sometimes(tower):
        steps.append(1)
        value = tower.lambda_.mean((1, 2))
        return torch.where(torch.tensor([len(steps) == 3, True]), torch.nan, value) if len(steps) > 2 else value

    pictures = [make_scene(0).image, make_scene(1).image]
    found = explain(
        pictures, "a cat", embedded, modalities=["image"], loss_terms=[Relevance(), term(sometimes)], steps=4,
        noise_samples=1, antithetic=False,
    )  # fmt: skip
    assert [a.verdicts["image"] for a in found] == ["not_finite", "not_finite"] and len(steps) == 3


def test_a_shape_that_is_wrong_at_a_later_step_is_said_too(embedded):
    steps = []

    def sometimes(tower):
        steps.append(1)
        return tower.lambda_.mean((1, 2))[None] if len(steps) == 3 else tower.lambda_.mean((1, 2))

    with pytest.raises(ContractError, match=r"MyTerm to return \(B,\) = \(1,\) .* but got shape \(1, 1\)"):
        terms = [Relevance(), term(sometimes)]
        explain(make_scene(0).image, "a cat", embedded, modalities=["image"], loss_terms=terms, steps=9)


def test_nan_of_one_pair_at_the_first_step_is_no_fault_of_the_term(embedded):
    broken = term(lambda t: t.lambda_.mean((1, 2)) * torch.tensor([torch.nan, 1.0])[-len(t.alpha) :])
    pictures = [make_scene(0).image, make_scene(1).image]
    found = explain(pictures, "a cat", embedded, modalities=["image"], loss_terms=[Relevance(), broken], **FAST)
    assert [a.image_map is None for a in found] == [True, False] and found[0].verdict == "not_finite"


def test_the_error_shows_the_frame_of_the_class_and_none_of_the_package(embedded):
    def inner(tower):
        raise LookupError("nothing there")

    with pytest.raises(ContractError) as caught:
        explain(make_scene(0).image, "a cat", embedded, loss_terms=[term(inner)], **FAST)
    own = traceback.extract_tb(caught.value.__cause__.__traceback__)
    assert [frame.name for frame in own] == ["forward", "inner"]
    ours = traceback.extract_tb(caught.value.__traceback__)
    assert [frame.name for frame in ours][1:] == ["shown"] and len(ours) == 2


def test_the_command_line_says_it_in_one_line_and_leaves_with_2(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_terms_of_contract.py").write_text(
        "from m2ib_lightning.losses import LossTerm\n\n\nclass MyTerm(LossTerm):\n"
        "    def forward(self, tower):\n        return tower.capacity.sum(-1)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    arguments = ["--data.scenes=1", "--output=out", "--trainer.enable_progress_bar=false", "--model.steps=1"]
    with pytest.raises(SystemExit) as stopped:
        main(["predict", "--model.loss_terms+=my_terms_of_contract.MyTerm", *arguments])
    assert stopped.value.code == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert said.startswith("m2ib: error: Expected MyTerm to return (B,) = (1,) finite values")
    assert "but got shape (1, 65) of torch.float32 at my_terms_of_contract.py:5. Remedy: " in said


def metric(function, **said) -> PairMetric:
    return type("MyMetric", (PairMetric,), {"takes": ("saliency", "truth"), "function": function} | said)()


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (lambda saliency, truth: saliency * truth, "shape (96, 96)"),
        (lambda saliency, truth: saliency.mean(-1), "shape (96,)"),
        (lambda saliency, truth: float(saliency.mean()), "a float"),
        (lambda saliency, truth: saliency.nothing, "AttributeError: 'Tensor' object has no attribute 'nothing'"),
        (lambda saliency: saliency.mean(), "TypeError: "),
    ],
)
def test_a_wrong_metric_is_one_line(function, got, embedded):
    with pytest.raises(ContractError) as caught:
        Evaluator(RandomMap(embedded), [metric(function)]).explain(scene_pairs(1))
    assert f"but got {got}" in line(caught.value, "MyMetric")


def test_a_metric_that_takes_what_is_not_there_is_refused_when_it_is_made():
    with pytest.raises(ContractError, match=r"MyMetric to take parts of Evidence but got 'salience'.* saliency"):
        metric(lambda salience: salience.mean(), takes=("salience",))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (lambda found: None, "a list of 2 Attributions but got None"),
        (lambda found: found[:1], "a list of 2 Attributions but got 1"),
        (lambda found: [a.image_map for a in found], "a list of 2 Attributions but got a ndarray"),
        (
            lambda found: [changed(a, text_map=a.text_map[:-1]) for a in found],
            "but got {'tokens': 4, 'special': 4, 'spans': 4, 'text_map': 3}",
        ),
        (
            lambda found: [changed(a, tokens=a.tokens[1:]) for a in found],
            "but got {'tokens': 3, 'special': 4, 'spans': 4, 'text_map': 4}",
        ),
        (lambda found: [changed(a, image_map=a.image_map.ravel()) for a in found], "(gh, gw) but got shape (64,)"),
    ],
)
def test_a_wrong_method_is_one_line(given, wanted, embedded):
    class MyMethod(AttributionMethod):
        unit = "1"

        def attribute(self, batch):
            return given(RandomMap(embedded).attribute(batch))

    with pytest.raises(ContractError) as caught:
        explain([make_scene(0).image] * 2, "a cat", embedded, MyMethod)
    assert wanted in line(caught.value, "MyMethod") and "test_contracts.py:" in str(caught.value)


def changed(a, **fields):
    for name, value in fields.items():
        setattr(a, name, value)
    return a


@pytest.mark.parametrize(
    ("maps", "got"),
    [
        (lambda o: torch.rand(len(o.inputs), 3, 3), "maps (b, gh, gw) = (1, 8, 8) but got shape (1, 3, 3)"),
        (lambda o: np.ones((1, 8, 8)), "maps (b, gh, gw) = (1, 8, 8) but got a ndarray"),
        (lambda o: o.nothing, "a value but got AttributeError"),
    ],
)
def test_wrong_maps_of_a_baseline_are_one_line(maps, got, embedded):
    class MyBaseline(Baseline):
        unit = "1"

        def relevance(self, objective):
            return maps(objective)

    with pytest.raises(ContractError) as caught:
        explain(make_scene(0).image, "a cat", embedded, MyBaseline)
    assert got in line(caught.value, "MyBaseline")


class Swapped(CLIPBackbone):
    def towers(self, model):
        return super().towers(model)[::-1]


class OneTower(CLIPBackbone):
    def towers(self, model):
        return super().towers(model)[0]


class NoProjection(CLIPBackbone):
    def towers(self, model):
        image, text = super().towers(model)
        image.projection = torch.nn.Linear(image.width, 5)
        return image, text


class Summed(ClsImageTower):
    def suffix(self, states, hidden, layer):
        return super().suffix(states, hidden, layer).sum(0)


class NoSpecial(ClsImageTower):
    def embeddings(self, batch):
        hidden = super().embeddings(batch)
        return hidden._replace(special=torch.zeros_like(hidden.special))


class Flat(ClsImageTower):
    def embeddings(self, batch):
        hidden = super().embeddings(batch)
        return hidden._replace(valid=hidden.valid[0])


class Failing(ClsImageTower):
    def embeddings(self, batch):
        raise KeyError("pixels")


class OneTokenLess(EosTextTower):
    def embeddings(self, batch):
        hidden = super().embeddings(batch)
        kept = {name: getattr(hidden, name)[:, :-1] for name in ("states", "valid", "special")}
        return hidden._replace(**kept, read=hidden.read - 1)


class ShortTexts(CLIPBackbone):
    def towers(self, model):
        return super().towers(model)[0], OneTokenLess(model.text_model, model.text_projection, largest_id=False)


def with_image_tower(tower: type[ClsImageTower]) -> type[CLIPBackbone]:
    class Mine(CLIPBackbone):
        def towers(self, model):
            return tower(model.vision_model, model.visual_projection, self.image_size), super().towers(model)[1]

    return Mine


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Swapped, "Expected Swapped to have the image tower as `image` but got EosTextTower with the grid None"),
        (OneTower, "Expected OneTower to return two Towers but got a ClsImageTower"),
        (NoProjection, "Expected NoProjection to return embeddings of one width but got [5, "),
        (with_image_tower(Summed), "Expected Summed to return embeddings (K, B, E) = (1, 1, E) but got shape (1, "),
        (with_image_tower(NoSpecial), "Expected NoSpecial to return 8 x 8 patches but got 65 that are not special"),
        (with_image_tower(Flat), "'valid': (65,)"),
        (ShortTexts, " states, one per token, but got "),
        (with_image_tower(Failing), "Expected Failing to return a value but got KeyError: 'pixels' at "),
    ],
)
def test_a_wrong_backbone_is_one_line_before_anything_is_explained(kind, said, embedded):
    with pytest.raises(ContractError) as caught:
        explain(make_scene(0).image, "a cat", kind(copy.deepcopy(embedded.model), embedded.processor, "mine"), **FAST)
    assert said in line(caught.value, "")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_are_refused_with_the_remedy(dtype, embedded):
    mine = CLIPBackbone(copy.deepcopy(embedded.model).to(dtype), embedded.processor, "mine")
    with pytest.raises(ContractError, match=f"float32 weights but got {dtype} in .* Remedy: `model.float\\(\\)`"):
        explain(make_scene(0).image, "a cat", mine)


@pytest.mark.parametrize("which", ["visual_projection", "text_projection"])
def test_a_projection_of_zeros_is_refused(which, embedded):
    model = copy.deepcopy(embedded.model)
    torch.nn.init.zeros_(getattr(model, which).weight)
    with pytest.raises(ContractError, match="embeddings that say something but got only zeros"):
        explain(make_scene(0).image, "a cat", CLIPBackbone(model, embedded.processor, "mine"))


@pytest.mark.parametrize("family", sorted(CHECKPOINTS))
def test_every_family_of_the_package_keeps_the_contract(family, tmp_path):
    backbone = load_backbone(str(CHECKPOINTS[family](tmp_path)))
    check_backbone(backbone)
    assert backbone.kept_contract


def test_a_model_is_read_once_for_its_contract(embedded, monkeypatch):
    mine = CLIPBackbone(embedded.model, embedded.processor, "mine")
    M2IB(mine, prior="unit").prepare()
    monkeypatch.setattr(CLIPBackbone, "read", lambda *given: pytest.fail("read again"))
    M2IB(mine, prior="unit").prepare()
