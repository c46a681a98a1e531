"""What a sweep minimises: neither diffuse maps nor lost similarity win, and no control does."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger

from m2ib_lightning.callbacks import GatheredLogger
from m2ib_lightning.callbacks.gathered import gathered
from m2ib_lightning.data import PairDataModule
from m2ib_lightning.methods import M2IB, CentrePrior, RandomMap, UniformMap
from tests.made import attribution
from tests.methods.made import quiet_trainer, scene_pairs


def fitted(tmp_path, **arguments) -> dict[str, float]:
    trainer = quiet_trainer(max_epochs=10)
    trainer.loggers, trainer.callbacks = [CSVLogger(tmp_path)], [*trainer.callbacks, GatheredLogger()]
    trainer.fit(M2IB("embedded", noise_samples=2, **arguments), PairDataModule(scenes=6, scene_seed=300, batch_size=6))
    (path,) = tmp_path.rglob("metrics.csv")
    with path.open() as file:
        return {k: float(v) for row in csv.DictReader(file) for k, v in row.items() if k.startswith("gathered") and v}


def made(**changed):
    return attribution(**{"image_score": 0.5, "text_score": 0.5, "score": 0.5} | changed)


def test_the_smallest_share_that_holds_nine_tenths_by_hand():
    a = made(image_map=np.array([[85.0, 5.0], [1.0, 9.0]], np.float32))  # 85 + 9 of 100
    assert gathered([a], "image") == 2 / 4
    # Without the special tokens 1, 2, 3, 4, 0.5, 6: 6 + 4 + 3 + 2 of 16.5
    assert gathered([a], "text") == 4 / 6
    assert gathered([a, made(image_map=np.ones((5, 4), np.float32))], "image") == (2 / 4 + 18 / 20) / 2
    assert gathered([a, made(image_map=None)], "image") == (2 / 4 + 1) / 2


def test_where_too_little_is_left_it_is_worse_than_any_map_by_what_is_missing():
    narrow = np.eye(8, dtype=np.float32)
    assert gathered([made(image_score=0.5, image_map=narrow), made(image_score=0.41)], "image") < 1
    assert gathered([made(image_score=0.3, image_map=narrow)], "image") == pytest.approx(1.3)
    assert gathered([made(image_score=float("nan"), image_map=narrow)], "image") == pytest.approx(1.9)
    assert gathered([made(score=-0.1, image_map=narrow)], "image") == pytest.approx(1.9)


@pytest.mark.slow
def test_what_is_logged_is_the_mean_of_both_modalities(tmp_path):
    found = fitted(tmp_path)
    assert found["gathered"] == pytest.approx((found["gathered/image"] + found["gathered/text"]) / 2)


@pytest.mark.slow
def test_neither_the_smallest_beta_nor_the_largest_nor_a_control_wins(tmp_path):
    small, middle, large = (
        fitted(tmp_path / str(i), image_beta=b)["gathered/image"] for i, b in enumerate((0.1, 1, 100))
    )
    assert middle < 0.6 * small and small < 1 < large
    for kind in (RandomMap, CentrePrior, UniformMap):
        method = kind("embedded")
        assert gathered(method.attribute(method.prepare().preprocess_pairs(scene_pairs(3))), "image") > 1


def test_what_is_kept_is_enough_at_nine_tenths_and_the_map_is_held_at_nine_tenths():
    narrow, even = np.array([[9.0, 1.0]], np.float32), np.array([[8.0, 2.0]], np.float32)
    assert gathered([made(score=1.0, image_score=0.9, image_map=narrow)], "image") == 1 / 2
    assert gathered([made(score=1.0, image_score=0.9, image_map=even)], "image") == 2 / 2
    assert gathered([made(score=1.0, image_score=0.89, image_map=narrow)], "image") == pytest.approx(1.01)
    assert gathered([made(score=1.0, image_score=0.5, image_map=narrow)], "image", 0.5) == 1 / 2
    assert gathered([made(score=1.0, image_score=0.4, image_map=narrow)], "image", 0.5) == pytest.approx(1.1)
    assert gathered([made(score=0.0, image_score=0.5, image_map=narrow)], "image") == pytest.approx(1.9)
    assert gathered([made(score=-0.1, image_score=-0.1, image_map=narrow)], "image") == pytest.approx(1.9)


def test_it_is_logged_at_the_last_step_of_a_fit_of_masks_alone():
    logged = []
    logger = SimpleNamespace(log_metrics=lambda found, step: logged.append((found, step)))
    trainer = SimpleNamespace(loggers=[logger], current_epoch=7)
    results = [made(score=1.0, image_score=0.9, text_score=0.3, image_map=np.eye(2, dtype=np.float32))]

    class Fitted(M2IB):
        def __init__(self, *modalities: str) -> None:
            self.__dict__["modalities"] = modalities

        def attributions(self):
            return results

    GatheredLogger().on_train_end(trainer, Fitted("image", "text"))
    GatheredLogger(keep=0.3).on_train_end(trainer, Fitted("text"))
    GatheredLogger().on_train_end(trainer, SimpleNamespace())
    (first, step), (second, _) = logged
    text = gathered(results, "text", 0.3)
    assert step == 7 and second == {"gathered/text": text, "gathered": text}
    assert first == pytest.approx({"gathered/image": 0.5, "gathered/text": 1.6, "gathered": 1.05})
