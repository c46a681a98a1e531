"""The released formulas, written out by hand for one pair at a time."""

import numpy as np
import pandas as pd
import pytest
import torch

from m2ib_lightning import load_backbone
from m2ib_lightning.cli import main
from m2ib_lightning.data import make_scene
from m2ib_lightning.evaluation import Evaluator, Protocol
from m2ib_lightning.methods import Occlusion
from m2ib_lightning.metrics import ConfidenceDrop, ConfidenceIncrease
from m2ib_lightning.types import Pair

RELEASED = Protocol(name="as_released")


def released(model, pixels, ids, vmap, tmap):
    """(image drop, image increase, text drop, text increase) as `get_metrics` has them; maps (H, W) and (L,)."""

    def cosine(a, b):
        return float(torch.cosine_similarity(a, b))

    vtarget, ttarget = model.get_text_features(ids).pooler_output, model.get_image_features(pixels).pooler_output
    ids, tmap = ids[:, 1:-1], tmap[1:-1]
    tmap = tmap > np.percentile(tmap, 50)
    row = vmap[0]
    image = cosine(model.get_image_features(pixels).pooler_output, vtarget)
    seen = cosine(model.get_image_features(pixels * torch.from_numpy(row)).pooler_output, vtarget)
    text = cosine(model.get_text_features(ids).pooler_output, ttarget)
    read = cosine(model.get_text_features(ids * torch.from_numpy(tmap)).pooler_output, ttarget)
    return 100 * max(0, image - seen), 100 * (seen > image), 100 * max(0, text - read), 100 * (read > text)


@pytest.mark.slow
@torch.no_grad()
def test_confidence_as_released_is_that_of_the_released_formulas():
    backbone = load_backbone("embedded")
    scenes = [make_scene(40 + i, named=1 + i % 3) for i in range(4)]
    pairs = [Pair(str(i), scene.image, scene.text) for i, scene in enumerate(scenes)]
    metrics = [kind(m) for m in ("image", "text") for kind in (ConfidenceDrop, ConfidenceIncrease)]
    attributions, rows = Evaluator(Occlusion(backbone), metrics, RELEASED).explain(pairs)
    corrected = Evaluator(Occlusion(backbone), metrics).explain(pairs)[1]
    for pair, a, row in zip(pairs, attributions, rows, strict=True):
        batch = backbone.preprocess_pairs([pair])
        cells = torch.from_numpy(a.image_map)[None, None]
        vmap = torch.nn.functional.interpolate(cells, batch.pixel_values.shape[-2:], mode="bilinear")[0, 0].numpy()
        vmap = (vmap - vmap.min()) / (vmap.max() - vmap.min())
        expected = released(backbone.model, batch.pixel_values, batch.input_ids, vmap, a.text_map)
        assert [row[m.name] for m in metrics] == pytest.approx(expected, abs=1e-3)
        assert row["protocol"] == "as_released"
    for metric in (metrics[0], metrics[2]):
        differ = [abs(a[metric.name] - b[metric.name]) > 0.5 for a, b in zip(rows, corrected, strict=True)]
        assert any(differ), metric.name


def test_the_name_is_in_caption_and_rows_and_another_is_refused(tmp_path, capsys):
    assert RELEASED.caption == "protocol: as_released (steps=20, masks=32, seed=0)"
    with pytest.raises(ValueError, match=r"'corrected', 'as_released' but got 'new'.*Remedy"):
        Protocol(name="new")
    arguments = ["--data.scenes=1", "--metrics=[ConfidenceDrop]", "--protocol=as_released", f"--output={tmp_path}"]
    main(["test", "--model=RandomMap", *arguments])
    assert "protocol: as_released" in " ".join(capsys.readouterr().out.split())
    assert set(pd.read_parquet(tmp_path / "scores.parquet")["protocol"]) == {"as_released"}
