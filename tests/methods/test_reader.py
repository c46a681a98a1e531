"""A reader learns the masks of fits, comes near those of pairs that it has not seen, and is kept whole."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional as F
from torch.utils.data import DataLoader

from m2ib_lightning import AttributionStore, load_backbone
from m2ib_lightning.bottleneck import NoiseBank
from m2ib_lightning.cli import main
from m2ib_lightning.methods import M2IB, reader_training
from m2ib_lightning.methods.mask_fit import MaskFit
from m2ib_lightning.methods.reader import FILE, MaskReader, Size, TowerReader
from m2ib_lightning.methods.reader_training import Known, ReaderTraining, compare_with_fit, distances, fitted
from m2ib_lightning.types import BadPair, HiddenStates
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


@pytest.mark.slow
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


def test_an_untrained_reader_leaves_all_masks_nearly_closed(embedded, tmp_path):
    module = ReaderTraining(M2IB(embedded), tmp_path)
    assert module.reader.size == Size() == (128, 2) and module.lr == 1e-3
    batch = embedded.preprocess_pairs(scene_pairs(2))
    for modality in TOWERS:
        tower = module.reader.towers[modality]
        hidden = embedded.tower(modality).prefix(batch, 1)
        pull = torch.randn(hidden.states.shape, generator=torch.Generator().manual_seed(0))
        logits = tower(hidden, pull).detach()
        # 128 channels of size 1 by weights of 0.02.
        assert float(logits.mean()) == pytest.approx(-3, abs=0.05) and float(logits.std()) == pytest.approx(
            0.23, abs=0.05
        )


def test_the_network_of_a_tower_is_a_transformer_of_heads_of_32_that_normalises_first(embedded):
    tower = TowerReader(10, Size(64, 3))
    assert len(tower.blocks) == 3
    for block in tower.blocks:
        assert block.self_attn.num_heads == 2 and block.norm_first and block.self_attn.batch_first
        assert block.linear1.out_features == 128 and block.dropout.p == 0
        assert torch.equal(block.activation(torch.tensor([-1.0])), F.gelu(torch.tensor([-1.0])))
    assert (tower.enter.in_features, tower.leave.out_features) == (20, 10)


def test_states_come_in_in_units_of_the_prior(embedded, tmp_path):
    tower = training(embedded, tmp_path).reader.towers["image"]
    hidden = embedded.image.prefix(embedded.preprocess_pairs(scene_pairs(1)), 3)
    torch.testing.assert_close(tower.normalised(hidden) * tower.std + tower.mean, hidden.states)
    assert float(tower.std.min()) > 0 and not torch.allclose(tower.normalised(hidden), hidden.states)


def test_priors_that_differ_by_rounding_alone_are_the_readers(embedded, saved):
    method = M2IB(embedded)
    method.prepare()
    reader, priors = MaskReader.load(saved), {m: tower.prior for m, tower in method.towers.items()}
    near = {m: replace(prior, mean=prior.mean + 5e-4, std=prior.std + 5e-4) for m, prior in priors.items()}
    reader.check(method.setting, near)
    for part in ("mean", "std"):
        far = priors | {"text": replace(priors["text"], **{part: getattr(priors["text"], part) + 0.1})}
        with pytest.raises(ValueError, match=r"trained for another prior of the text\. Remedy"):
            reader.check(method.setting, far)
    with pytest.raises(ValueError, match=r"trained for more None and not 1; weights '.*' and not 'x'\. Remedy"):
        reader.check({"more": 1, "weights": "x"}, near)


def test_a_reader_whose_weights_are_not_finite_is_refused_and_a_good_one_is_frozen(saved):
    reader = MaskReader.load(saved / FILE)
    assert not any(p.requires_grad for p in reader.parameters()) and not any(m.training for m in reader.modules())
    reader.towers["text"].leave.bias[0] = torch.nan
    reader.save(saved)
    with pytest.raises(ValueError, match=r"Expected finite weights but .* has others"):
        MaskReader.load(saved)


@pytest.mark.parametrize(("width", "blocks"), [(0, 1), (31, 1), (33, 1), (16, 1), (32, 0)])
def test_a_network_of_no_such_size_is_refused(embedded, width, blocks, tmp_path):
    with pytest.raises(ValueError, match="`width` to be a multiple of 32" if blocks else "`blocks` to be at least 1"):
        ReaderTraining(M2IB(embedded), tmp_path, width=width, blocks=blocks)


def test_a_method_that_reads_masks_already_teaches_no_reader(embedded, saved, tmp_path):
    with pytest.raises(ValueError, match=r"Expected a method without `reader` to train one for\. Remedy"):
        ReaderTraining(M2IB(embedded, reader=str(saved)), tmp_path)


@pytest.mark.parametrize(("epoch", "epochs", "rate"), [(0, 4, 0.2), (1, 4, 0.15), (3, 4, 0.05), (0, None, 0.2)])
def test_the_rate_falls_in_a_line_to_0_over_the_epochs(embedded, epoch, epochs, rate, tmp_path, monkeypatch):
    module = training(embedded, tmp_path, lr=0.2)
    optimizer = module.configure_optimizers()
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01]
    monkeypatch.setattr(ReaderTraining, "trainer", SimpleNamespace(max_epochs=epochs, optimizers=[optimizer]))
    monkeypatch.setattr(ReaderTraining, "current_epoch", epoch)
    module.on_train_epoch_start()
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(rate)]


def test_a_training_step_sums_the_distances_of_both_towers_over_the_pairs_that_can_be_read(
    embedded, tmp_path, monkeypatch
):
    module, logged = training(embedded, tmp_path / "made" / "here"), {}
    monkeypatch.setattr(module, "log", lambda name, value, **said: logged.update({name: (value.detach().item(), said)}))
    monkeypatch.setattr(
        module, "log_dict", lambda values, **said: [module.log(n, v, **said) for n, v in values.items()]
    )
    one, two = scene_pairs(2)
    module.hold_out([two, BadPair("b", "", "", "")])
    assert module.held_out == {two.id} and module.training_step([two, BadPair("c", "", "", "")], 0) is None
    loss = module.training_step([one, BadPair("b", "", "", ""), two], 0)
    assert loss.requires_grad and set(logged) == {
        "image/logits", "image/nats", "text/logits", "text/nats", "loss/total"
    }  # fmt: skip
    parts = sum(value for name, (value, _) in logged.items() if name != "loss/total")
    assert float(loss.detach()) == pytest.approx(parts) == pytest.approx(logged["loss/total"][0])
    assert {said["batch_size"] for _, said in logged.values()} == {1} and logged["loss/total"][1]["prog_bar"] is True
    (file,) = module.folder.iterdir()
    assert file.suffix == ".pt" and len(file.stem) == 32


def test_a_distance_is_a_mean_over_the_tokens_that_are_masked_and_0_where_none_is(embedded, tmp_path):
    module = training(embedded, tmp_path)
    tower = module.reader.towers["text"]
    states = torch.zeros(1, 3, embedded.text.width) + tower.mean
    hidden = HiddenStates(states, torch.ones(1, 3).bool(), torch.zeros(1, 3).bool(), None)
    pull, is_open = torch.ones_like(states), torch.tensor([[True, True, False]])
    read = module.reader.eval()("text", hidden, pull).detach()
    offset = torch.tensor([1.0, 3.0, 50.0])[None, :, None]
    found = distances(module.reader, "text", Known(hidden, pull, read + offset, is_open))
    assert found["logits"].item() == pytest.approx((1 + 9) / 2, rel=1e-5)

    def nats(alpha):  # of states that are 0: ((1 - m)^2 - 1) / 2 - log(1 - m)
        lost = 1 - torch.sigmoid(alpha.double())
        return ((lost**2 - 1) / 2 - lost.log()).sum(2)

    expected = (nats(read).sqrt() - nats(read + offset).sqrt())[:, :2].square().mean()
    assert found["nats"].item() == pytest.approx(expected.item(), rel=1e-3)
    none = distances(module.reader, "text", Known(hidden, pull, read + offset, is_open & False))
    assert {name: value.item() for name, value in none.items()} == {"logits": 0, "nats": 0}


def test_a_pair_whose_masks_are_not_finite_teaches_nothing(embedded, tmp_path, monkeypatch):
    module, original = training(embedded, tmp_path), MaskFit.step

    def step(fit, optimizer):
        original(fit, optimizer)
        fit.bottleneck("image").alpha.data[0, 3, 1] = torch.nan

    monkeypatch.setattr(MaskFit, "step", step)
    known = fitted(module.method, scene_pairs(2))
    assert not known["image"].open[0].any() and known["image"].open[1].any() and known["text"].open.any(1).all()
    assert known["image"].alpha.isfinite().all() and known["image"].alpha.dtype == torch.float16
    for modality in TOWERS:
        assert known[modality].pull.abs().amax((1, 2)).tolist() == [1, 1]


def test_maps_that_are_read_are_held_against_those_of_the_fit_in_a_line(embedded, tmp_path, monkeypatch):
    module, clock = training(embedded, tmp_path), iter([0.0, 1.0, 5.0, 9.0])
    monkeypatch.setattr(reader_training, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    asked = []

    def attribute(batch):
        method = module.method
        asked.append((method.reader is module.reader, method.steps))
        maps = {"image": [1.0, 2, 3, 4], "text": [1.0, 2, 3, 4] if method.reader is None else [4.0, 3, 2, 1]}
        return [SimpleNamespace(content_of=lambda m: np.array(maps[m], dtype=np.float32)) for _ in range(2)]

    monkeypatch.setattr(module.method, "attribute", attribute)
    assert compare_with_fit(module, scene_pairs(2)) == (
        "On 2 pairs that it was not trained on its maps correlate with those of the fit by 1.000 (image) and "
        "-1.000 (text), in 0.25 of its time."
    )
    assert asked == [(True, 0), (False, 4)]
