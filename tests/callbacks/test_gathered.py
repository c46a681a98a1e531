"""What a sweep minimises: neither diffuse maps nor lost similarity win, and no control does."""

import csv

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
