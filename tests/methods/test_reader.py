"""A reader learns the masks of fits, comes near those of pairs that it has not seen, and is kept whole."""

import pytest
import torch
import yaml
from torch.nn import functional as F
from torch.utils.data import DataLoader

from m2ib_lightning import AttributionStore, load_backbone
from m2ib_lightning.bottleneck import NoiseBank
from m2ib_lightning.cli import main
from m2ib_lightning.methods import M2IB
from m2ib_lightning.methods.reader import FILE, MaskReader, Size
from m2ib_lightning.methods.reader_training import ReaderTraining, distances, fitted
from tests.checkpoints import random_clip
from tests.made import failure
from tests.methods.made import assert_same_maps, quiet_trainer, scene_pairs

TOWERS = ("image", "text")


@pytest.fixture(scope="module")
def embedded():
    return load_backbone("embedded")


def training(embedded, folder, **arguments) -> ReaderTraining:
    """An untrained one of little size, the same each time."""
    torch.manual_seed(0)
    return ReaderTraining(M2IB(embedded, steps=4, initial_alpha=1.0), folder, width=32, blocks=1, **arguments)


def far(module: ReaderTraining, pairs) -> float:
    """From the masks of fits of these pairs."""
    known = fitted(module.method, pairs)
    return sum(v.item() for m in TOWERS for v in distances(module.reader.eval(), m, known[m]).values())


@pytest.fixture
def saved(embedded, tmp_path):
    """A reader of no training, in its folder."""
    module = training(embedded, tmp_path)
    module.reader.save(tmp_path)
    return tmp_path


def test_the_pull_is_the_slope_of_the_similarity_in_masks_that_are_alike(embedded):
    pairs = scene_pairs(2)
    fit = M2IB(embedded).new_fit(embedded.preprocess_pairs(pairs))

    def similarity(modality: str, lambda_: float) -> torch.Tensor:
        tower, hidden, bottleneck = embedded.tower(modality), fit.hidden[modality], fit.bottleneck(modality)
        noise = NoiseBank(0, 2, antithetic=True)(0, modality, tower.length, tower.width, bottleneck.x.device)
        z = bottleneck(noise, torch.full_like(bottleneck.x, lambda_))
        embedding = tower.suffix(z, hidden, fit.towers[modality].layer)
        other = fit.clean["text" if modality == "image" else "image"]
        return F.cosine_similarity(embedding, other, dim=-1).sum(0)

    for m in TOWERS:
        slope = (similarity(m, 0.705) - similarity(m, 0.695)) / 0.01
        torch.testing.assert_close(fit.pull(m).sum((1, 2)), slope.detach(), rtol=0.02, atol=2e-3)


def test_the_distance_is_nothing_from_the_masks_of_the_fit_and_counts_no_token_that_is_not_masked(embedded, tmp_path):
    module, pairs = training(embedded, tmp_path), scene_pairs(3)
    known = fitted(module.method, pairs)["image"]
    read = module.reader("image", known.hidden, known.pull).detach()
    own = known._replace(alpha=read.masked_fill(~known.open[..., None], 9.0))
    assert all(value.item() == 0 for value in distances(module.reader, "image", own).values())
    off = distances(module.reader, "image", known._replace(alpha=read + 2))
    assert off["logits"].item() == pytest.approx(4, rel=1e-5) and off["nats"].item() > 0


def test_the_scale_of_the_pull_changes_no_mask_that_is_read(embedded, tmp_path):
    module = training(embedded, tmp_path)
    known, reader = fitted(module.method, scene_pairs(2)), module.reader.eval()
    for m in TOWERS:
        read = reader(m, known[m].hidden, known[m].pull).detach()
        torch.testing.assert_close(reader(m, known[m].hidden, 100 * known[m].pull).detach(), read, rtol=1e-4, atol=1e-4)


def test_fits_are_made_once_and_only_for_the_same_pairs_and_setting(embedded, tmp_path):
    module, pairs = training(embedded, tmp_path), scene_pairs(2)
    first = module.known(pairs)
    torch.testing.assert_close(first["text"].alpha, fitted(module.method, pairs)["text"].alpha)
    module.known(pairs)
    assert len([*tmp_path.iterdir()]) == 1
    module.known(pairs[:1])
    module.known([pairs[0]._replace(text="a cup"), pairs[1]])
    ReaderTraining(M2IB(embedded, steps=3, initial_alpha=1.0), tmp_path, width=32).known(pairs)
    assert len([*tmp_path.iterdir()]) == 4


def test_training_brings_masks_nearer_to_those_of_fits_of_pairs_that_were_not_seen(embedded, tmp_path):
    pairs = scene_pairs(32)
    module = training(embedded, tmp_path, lr=3e-3)
    before, untrained = far(module, pairs[24:]), module.reader.state_dict()["towers.text.mean"].clone()
    batches = DataLoader(pairs[:24], 8, collate_fn=list)
    quiet_trainer(max_epochs=20, gradient_clip_val=1.0).fit(module, batches)
    assert far(module, pairs[24:]) < 0.7 * before
    torch.testing.assert_close(module.reader.state_dict()["towers.text.mean"], untrained)


def test_pairs_that_are_held_out_are_not_trained_on(embedded, tmp_path):
    module, pairs = training(embedded, tmp_path), scene_pairs(2)
    assert module.hold_out(pairs) == pairs
    assert module.training_step(pairs, 0) is None


def test_what_is_read_again_from_its_file_gives_the_same_maps_in_no_step_and_in_any_batch(embedded, saved):
    pairs = scene_pairs(3)
    method = M2IB(embedded, reader=str(saved), steps=0)
    together = method.attribute(embedded.preprocess_pairs(pairs))
    again = M2IB(embedded, reader=str(saved / FILE), steps=0).attribute(embedded.preprocess_pairs(pairs[2:]))
    assert_same_maps(again[0], together[2])
    assert together[0].steps == 0 and not together[0].history
    reader = training(embedded, saved).reader.eval().requires_grad_(False)
    fit = method.new_fit(embedded.preprocess_pairs(pairs))
    for m in TOWERS:
        torch.testing.assert_close(fit.bottleneck(m).alpha.data, fit.read_masks(reader, m).detach(), rtol=0, atol=0)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 300.0])
def test_the_pull_comes_in_with_a_mean_square_of_1_over_the_tokens_that_are_there(embedded, tmp_path, scale):
    tower = training(embedded, tmp_path).reader.towers["text"]
    hidden = embedded.text.prefix(embedded.preprocess_pairs(scene_pairs(3)), "embeddings")
    seen = []
    tower.enter.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tower(hidden, scale * torch.randn(hidden.states.shape, generator=torch.manual_seed(0)))
    pull = seen[0][..., hidden.states.shape[-1] :]
    for row, valid in zip(pull, hidden.valid, strict=True):
        assert row[valid].square().mean() == pytest.approx(1, rel=1e-4) and not row[~valid].any()


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


def test_no_steps_need_a_reader_and_its_width_fits_its_heads(embedded, tmp_path):
    with pytest.raises(ValueError, match="`steps` to be at least 1"):
        M2IB(embedded, steps=0)
    with pytest.raises(ValueError, match="multiple of 32"):
        ReaderTraining(M2IB(embedded), tmp_path, width=40)


def test_its_size_and_setting_are_in_its_file(embedded, saved):
    reader, method = MaskReader.load(saved), M2IB(embedded)
    method.prepare()
    assert reader.size == Size(32, 1) and reader.setting == method.setting


@pytest.mark.parametrize(
    ("scenes", "said"), [(4, "pairs beside the first 4, which are held out, but got 4"), (5, "goes on")]
)
def test_pairs_must_be_left_beside_those_that_are_held_out(scenes, said, tmp_path, capsys, monkeypatch):
    def prepare(method):
        raise ValueError("Expected a look at the pairs first, and it goes on. Remedy: none.")

    monkeypatch.setattr(M2IB, "prepare", prepare)
    options = [f"--data.scenes={scenes}", "--data.batch_size=4", f"--output={tmp_path}"]
    assert said in failure(capsys, "train-reader", *options)


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
