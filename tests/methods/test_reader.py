"""A reader's loss is the fit's own, training it lowers the loss of pairs that it has not seen, and it is kept whole."""

import pytest
import torch
import yaml
from torch.nn import functional as F
from torch.utils.data import DataLoader

from m2ib_lightning import AttributionStore, load_backbone
from m2ib_lightning.bottleneck import NoiseBank, gaussian_capacity
from m2ib_lightning.cli import main
from m2ib_lightning.methods import M2IB
from m2ib_lightning.methods.reader import FILE, MaskReader, Size
from m2ib_lightning.methods.reader_training import ReaderTraining, loss_of
from tests.checkpoints import random_clip
from tests.methods.made import assert_same_maps, quiet_trainer, scene_pairs

TOWERS = ("image", "text")


@pytest.fixture(scope="module")
def embedded():
    return load_backbone("embedded")


def training(embedded, **arguments) -> ReaderTraining:
    """An untrained one of little size, the same each time."""
    torch.manual_seed(0)
    return ReaderTraining(M2IB(embedded), width=32, blocks=1, **arguments)


def trained(embedded, pairs, epochs: int) -> ReaderTraining:
    """One after some epochs over a batch of pairs."""
    module = training(embedded, lr=3e-3)
    quiet_trainer(max_epochs=epochs, gradient_clip_val=1.0).fit(module, DataLoader(pairs, len(pairs), collate_fn=list))
    return module


def held_out_loss(module: ReaderTraining, pairs) -> float:
    """Of pairs that come after those trained on, with noise that was not seen."""
    fit = module.method.new_fit(module.method.prepare().preprocess_pairs(pairs))
    fit.noise = NoiseBank(10**6, 4, antithetic=True)
    return float(loss_of(module.reader.eval(), fit)[1]["loss/total"].mean())


@pytest.fixture
def saved(embedded, tmp_path):
    """A reader of no training, in its folder."""
    module = training(embedded)
    module.reader.save(tmp_path)
    return tmp_path


def test_the_readers_loss_is_the_fits_own_for_the_same_masks_written_out(embedded):
    module, pairs = training(embedded), scene_pairs(3)
    fit = module.method.new_fit(embedded.preprocess_pairs(pairs))
    values = loss_of(module.reader, fit)[1]
    expected = torch.zeros(3)
    for m, beta in (("image", 3.0), ("text", 0.1)):
        bottleneck, tower, hidden = fit.bottleneck(m), embedded.tower(m), fit.hidden[m]
        alpha = module.reader(m, hidden, fit.clean[m], fit.target(m)).detach()
        is_open = hidden.valid.clone()
        if m == "image":
            is_open[:, 0] = False
        capacity = gaussian_capacity((hidden.states - bottleneck.mean) / bottleneck.std, alpha)
        compression = torch.stack([c[o].mean() for c, o in zip(capacity, is_open, strict=True)])
        noise = NoiseBank(0, 2, antithetic=True)(0, m, tower.length, tower.width, alpha.device)
        embedding = tower.suffix(bottleneck(noise, torch.sigmoid(alpha)), hidden, fit.towers[m].layer)
        relevance = F.cosine_similarity(embedding, fit.clean["text" if m == "image" else "image"], dim=-1).mean(0)
        expected = expected + beta * compression - relevance
    torch.testing.assert_close(values["loss/total"], expected.detach(), rtol=1e-4, atol=1e-5)


def test_its_gradient_is_that_of_the_mean_loss_in_the_readers_weights(embedded):
    module, pairs = training(embedded), scene_pairs(2)
    fit = module.method.new_fit(embedded.preprocess_pairs(pairs))
    weight = module.reader.towers["image"].leave.bias

    def loss() -> float:
        return float(loss_of(module.reader, fit)[1]["loss/total"].double().mean())

    loss_of(module.reader, fit)[0].backward()
    direction = torch.sign(weight.grad)
    slopes = []
    for size in (0.05, -0.05):
        weight.data += size * direction
        slopes.append(loss())
        weight.data -= size * direction
    # Central differences in float32: a few per cent.
    assert float(weight.grad.abs().sum()) == pytest.approx((slopes[0] - slopes[1]) / 0.1, rel=0.05)


def test_training_lowers_the_loss_of_pairs_that_were_not_seen(embedded):
    pairs = scene_pairs(40)
    before = held_out_loss(training(embedded), pairs[32:])
    assert held_out_loss(trained(embedded, pairs[:32], 8), pairs[32:]) < before - 0.1


def test_pairs_that_are_held_out_are_not_trained_on(embedded):
    module, pairs = training(embedded), scene_pairs(2)
    assert module.hold_out(pairs) == pairs
    assert module.training_step(pairs, 0) is None


def test_what_is_read_again_from_its_file_gives_the_same_maps_in_no_step_and_in_any_batch(embedded, saved):
    pairs = scene_pairs(3)
    method = M2IB(embedded, reader=str(saved), steps=0)
    together = method.attribute(embedded.preprocess_pairs(pairs))
    again = M2IB(embedded, reader=str(saved / FILE), steps=0).attribute(embedded.preprocess_pairs(pairs[2:]))
    assert_same_maps(again[0], together[2])
    assert together[0].steps == 0 and not together[0].history
    reader = training(embedded).reader.eval().requires_grad_(False)
    fit = method.new_fit(embedded.preprocess_pairs(pairs))
    for m in TOWERS:
        torch.testing.assert_close(fit.bottleneck(m).alpha.data, fit.read_masks(reader, m).detach(), rtol=0, atol=0)


def test_steps_begin_at_the_masks_that_were_read(embedded, saved):
    pairs = embedded.preprocess_pairs(scene_pairs(2))
    method = M2IB(embedded, reader=str(saved), steps=1)
    fit = method.new_fit(pairs)
    read = fit.bottleneck("image").alpha.detach().clone()
    fit.step(method.new_optimizer(fit.parameters()))
    assert float((fit.bottleneck("image").alpha - read).abs().max()) <= 1.01  # Adam's first step is the rate
    fit.restart()
    torch.testing.assert_close(fit.bottleneck("image").alpha.detach(), read)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"image_layer": 2}, "image_layer 3 and not 2"),
        ({"image_beta": 1.0}, r"image_beta 3\.0 and not 1\.0"),
        ({"prior": "unit", "image_layer": 3, "text_layer": "embeddings"}, "another prior of the image"),
    ],
)
def test_it_is_refused_with_another_setting(embedded, saved, arguments, said):
    with pytest.raises(ValueError, match=f"trained for {said}.*Remedy"):
        M2IB(embedded, reader=str(saved), **arguments).prepare()


def test_it_is_refused_with_another_model(saved, tmp_path):
    other = load_backbone(str(random_clip(tmp_path / "clip")))
    with pytest.raises(ValueError, match=r"trained for weights '.*' and not '.*Remedy"):
        M2IB(other, reader=str(saved), steps=0).prepare()


def test_what_is_no_reader_and_what_is_cut_short_is_refused_in_one_line(saved, tmp_path):
    (tmp_path / "cut.safetensors").write_bytes((saved / FILE).read_bytes()[:1000])
    for path in (tmp_path / "nowhere", tmp_path / "cut.safetensors"):
        with pytest.raises(ValueError, match="Expected `reader` to be a folder that `m2ib train-reader` wrote") as said:
            M2IB(reader=str(path))
        assert "\n" not in str(said.value)


def test_no_steps_need_a_reader_and_its_width_fits_its_heads(embedded):
    with pytest.raises(ValueError, match="`steps` to be at least 1"):
        M2IB(embedded, steps=0)
    with pytest.raises(ValueError, match="multiple of 32"):
        ReaderTraining(M2IB(embedded), width=40)


def test_its_size_and_setting_are_in_its_file(embedded, saved):
    reader, method = MaskReader.load(saved), M2IB(embedded)
    method.prepare()
    assert reader.size == Size(32, 1) and reader.setting == method.setting


@pytest.mark.slow
def test_the_verb_trains_goes_on_and_its_configuration_explains(tmp_path, capsys):
    folder = tmp_path / "reader"
    words = ["train-reader", "--network.width", "32", "--network.blocks", "1", "--data.scenes", "12", "--output"]
    quick = ["--data.batch_size", "4", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    main([*words, str(folder), *quick, "--trainer.max_epochs", "1"])
    first = MaskReader.load(folder).state_dict()
    main([*words, str(folder), *quick, "--trainer.max_epochs", "2"])
    said = capsys.readouterr().out
    assert "4 pairs that it was not trained on" in said and "m2ib predict --config" in said
    moved = [float((w - first[name]).abs().max()) for name, w in MaskReader.load(folder).state_dict().items()]
    assert max(moved) > 1e-5
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]["steps"] == 0
    main(["predict", "--config", str(folder / "config.yaml"), "--data.scenes", "2", "--output", str(tmp_path / "maps")])
    assert [a.steps for a in AttributionStore(tmp_path / "maps" / "attributions")] == [0, 0]
    with pytest.raises(SystemExit):
        main([*words, str(folder), *quick, "--trainer.max_epochs", "3", "--model.image_beta", "1"])
