import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from m2ib_lightning.data import make_scene

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)


@pytest.fixture
def tokenizer():
    from embedded.model import CLIPTokenizer
    from train_embedded_clip import PACKAGED

    return CLIPTokenizer.from_pretrained(PACKAGED)


def spell(captions):
    """Tokens that only say how long each caption is."""
    return np.array([[len(caption)] * 32 for caption in captions], dtype=np.int16)


def test_a_caption_with_a_colour_says_that_colour_only():
    from embedded.terms import TERMS, terms_of

    first, other, *rest = make_scene(5, kind="attribute").objects

    def terms(objects):
        return {term for term, fits in zip(TERMS, terms_of(objects), strict=True) if fits}

    both = {first.name, f"{first.colour} {first.name}", f"{other.colour} {first.name}"}
    assert first.name == other.name and first.colour != other.colour
    assert terms([first, other, *rest]) == both | {item.name for item in rest}
    assert terms([first]) == both - {f"{other.colour} {first.name}"}


def test_batches_are_a_function_of_their_number_and_training_seeds_lie_above_a_million():
    from embedded.stream import FIRST_TRAINING_SEED, Ring, training_scene

    ring, again = Ring(2, 3, [0]), Ring(1, 3, [4])
    for number in range(2):
        ring.fill(number, spell)
    again.fill(4, spell)
    ring.release(0, 2)
    for number in (2, 3):
        ring.fill(number, spell)
    ring.release(0, 4)
    ring.fill(4, spell)
    scene = training_scene(FIRST_TRAINING_SEED + 4 * 3)
    assert FIRST_TRAINING_SEED >= 1_000_000
    np.testing.assert_array_equal(ring.read(4).pixels[0], np.asarray(scene.image).transpose(2, 0, 1))
    for ours, theirs in zip(ring.read(4), again.read(4), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_slot_is_written_again_only_when_the_slowest_reader_is_done_with_it():
    from embedded.stream import Ring

    ring = Ring(1, 2, [0, 0])
    ring.fill(0, spell)
    kept = ring.read(0).pixels.copy()
    ring.release(0, 1)
    drawing = threading.Thread(target=ring.fill, args=(1, spell))
    drawing.start()
    drawing.join(0.2)
    waits = drawing.is_alive()
    np.testing.assert_array_equal(ring.read(0).pixels, kept)
    ring.release(1, 1)
    drawing.join()
    assert waits and not np.array_equal(ring.read(1).pixels, kept)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")
def test_forked_processes_see_what_another_one_drew():
    from embedded.stream import Ring

    ring = Ring(1, 2, [0])
    child = os.fork()
    if child == 0:
        ring.fill(0, spell)
        os._exit(0)
    os.waitpid(child, 0)
    assert ring.read(0).pixels.any()


def test_a_caption_matches_the_pictures_that_show_all_it_says():
    from embedded.loss import matches

    shown = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 1]]).bool()
    named = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 1]]).bool()
    assert matches(shown, named).tolist() == [[True, True, False], [False, True, False], [False, False, True]]


def test_the_contrast_is_plain_cross_entropy_where_each_row_has_one_match():
    from embedded.loss import multi_positive_loss

    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(5))
    torch.testing.assert_close(multi_positive_loss(logits, torch.eye(5).bool()), expected)


def test_a_second_match_is_no_negative_of_the_first():
    from embedded.loss import multi_positive_loss

    # The row's matches 2 and 1 stand against 0 alone: the mean of log(1 + e^-2) and log(1 + e^-1).
    loss = multi_positive_loss(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[True, True, False]]))
    torch.testing.assert_close(loss, torch.tensor((np.log1p(np.exp(-2)) + np.log1p(np.exp(-1))) / 2).float())


def test_the_sigmoid_loss_is_binary_cross_entropy_summed_over_captions():
    from embedded.loss import sigmoid_loss

    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    match = torch.eye(4, 6).bool()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, match.double(), reduction="sum") / 4
    torch.testing.assert_close(sigmoid_loss(logits, match), expected)


def test_the_rate_warms_up_holds_and_reaches_nothing_at_the_end():
    from train_embedded_clip import Plan, rate

    plan = Plan(Path(), "cpu", steps=1000, seconds=100.0, batch=1, every=1)
    assert [rate(step, 0.0) for step in (0, 99, 199, 400)] == [0.005, 0.5, 1, 1]
    assert [rate(400, share) for share in (0.5, 0.75, 1, 1.1)] == [1, 0.5, 0, 0]
    assert (plan.share(900, 10.0), plan.share(100, 60.0)) == (0.9, 0.6)  # whichever ends first


@pytest.mark.parametrize("loss", ["contrast", "sigmoid"])
def test_training_goes_on_from_its_checkpoint_and_the_package_reads_what_it_wrote(loss, tokenizer, tmp_path):
    from embedded.model import Recipe, load, to_tokens
    from embedded.stream import Ring
    from train_embedded_clip import Plan, Training

    from m2ib_lightning import load_backbone

    torch.manual_seed(0)
    recipe = Recipe(1, 32, loss, text_depth=1)
    plan = Plan(tmp_path, "cpu", steps=10, seconds=1e9, batch=8, every=1e9)
    ring = Ring(1, 8, [0])
    ring.fill(0, lambda captions: to_tokens(tokenizer, captions))
    pixels, tokens, shown, named = (torch.from_numpy(array) for array in ring.read(0))
    batch = (pixels, tokens.long(), shown, named)

    training = Training(recipe, plan, tokenizer)
    losses = [training.learn(batch) for _ in range(3)]
    training.save()
    resumed = Training(recipe, plan, tokenizer)
    assert resumed.step == 3 and losses[2] < losses[0]
    torch.testing.assert_close(resumed.learn(batch), training.learn(batch))

    backbone, embedder = load_backbone(str(tmp_path / recipe.name)), load(tmp_path / recipe.name)
    scenes = [make_scene(seed) for seed in range(2)]
    read = backbone.preprocess([scene.image for scene in scenes], [scene.text for scene in scenes])
    with torch.no_grad():
        for ours, theirs in (
            (backbone.model.get_image_features(read.pixel_values), embedder.pictures(scenes)),
            (backbone.model.get_text_features(read.input_ids), embedder.captions([s.text for s in scenes])),
        ):
            torch.testing.assert_close(torch.nn.functional.normalize(ours.pooler_output, dim=-1), theirs)


def test_each_model_has_its_depth_width_and_loss_and_one_value_holds_for_all():
    from train_embedded_clip import parse, recipes_of

    def names(words):
        return [recipe.name for recipe in recipes_of(parse(words.split(" ")))]

    assert names("--depth 6 12 12 --width 128 320 320 --loss contrast contrast sigmoid") == [
        "clip-6x128",
        "clip-12x320",
        "siglip-12x320",
    ]
    assert names("--depth 6 8") == ["clip-6x128", "clip-8x128"]
    with pytest.raises(SystemExit, match="with 3 values or one but got 3, 2, 1"):
        names("--depth 6 8 12 --width 128 160")


@pytest.mark.slow
def test_the_embedded_model_knows_names_and_colours():
    from embedded.measure import evaluate
    from train_embedded_clip import PACKAGED, load

    shares = list(evaluate(load(PACKAGED), count=100, seed=20_000).values())
    assert shares[0] >= 0.97 and shares[1] >= 0.95 and shares[2] >= 0.97 and shares[3] >= 0.92
