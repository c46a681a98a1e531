import json

import numpy as np
import pandas as pd
import pytest

from m2ib_lightning.store import AttributionStore
from tests.test_attribution import assert_equal, attribution


def test_attributions_come_back_as_they_were_and_in_order(tmp_path):
    store = AttributionStore(tmp_path)
    written = [attribution(id=str(i), image_map=None if i == 1 else np.eye(3, dtype=np.float32)) for i in range(5)]
    store.append(written[:2])
    store.append(written[2:])
    assert len(store) == 5 and len(store.parts) == 2
    for before, after in zip(written, store, strict=True):
        assert_equal(before, after)


def test_an_attribution_is_found_by_its_id(tmp_path):
    store = AttributionStore(tmp_path)
    store.append([attribution(id="a"), attribution(id="b", score=0.25)])
    assert store["b"].score == 0.25
    with pytest.raises(KeyError, match=r"2 pairs .* 'c'"):
        store["c"]


def test_parts_are_read_by_pandas_without_this_package(tmp_path):
    AttributionStore(tmp_path).append([attribution()])
    frame = pd.read_parquet(tmp_path / "part-000000.parquet")
    row = frame.iloc[0]
    np.testing.assert_array_equal(row.image_map.reshape(row.grid), attribution().image_map)
    assert json.loads(row.settings)["method"] == "M2IB"
    assert AttributionStore(tmp_path).to_pandas().text.tolist() == ["an ice-cream van"]


def test_an_unfinished_part_is_not_seen_and_not_left_behind(tmp_path):
    store = AttributionStore(tmp_path)

    class Broken:
        def __getattr__(self, name: str):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.append([attribution(), Broken()])
    assert not store.parts and len(store) == 0 and not list(tmp_path.glob("*.unfinished"))
    assert store.to_pandas().empty
