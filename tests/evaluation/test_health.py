"""What is said of what was measured of a model, at each limit and beside it."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import spearmanr

from m2ib_lightning.evaluation.health import Health, stacked


def rows(*values) -> list[np.ndarray]:
    return [np.array(of, np.float32) for of in values]


def health(**changed) -> Health:
    """One against which nothing speaks: four of five pairs are ok, which is enough."""
    fields = {
        "about": {"model": "mine", "machine": "this one"},
        "errors": {"image": 9e-5, "text": None},
        "results": [SimpleNamespace(verdict=verdict) for verdict in ("ok", "ok", "ok", "ok", "no_match")],
        "halves": {"image": [0.8, 1.0], "text": [0.95]},
        "nats": rows([0.4, 0.3, 0.2, 0.1]),
        "falls": rows([0.5, 0.4, 0.3, 0.2]),
        "words": [0.5, 0.75],
        "outlying": [0.02, 0.03],
        "marked": [0.1, 0.3],
    }
    return Health(**fields | changed)


def test_everything_that_was_measured_stands_in_the_text():
    assert health(seconds=1.25, gigabytes=2.5).text() == "\n".join([
        "model: mine",
        "machine: this one",
        "ok   Cut towers against the library: image 9e-05, text not compared",
        "ok   Verdicts: ok 4, no match 1",
        "ok   Nats and what hiding costs: rank correlation 1.00 over patches, 0.62 over words",
        "ok   Two halves of the noise: image 0.90, text 0.95",
        "ok   Artefact patches: 2.5 % of patches with 20 % of the nats",
        "     Speed and memory: 1.25 s a pair, 2.5 GB at most",
        "Nothing that was measured speaks against explaining this model with M2IB.",
    ])  # fmt: skip


OK, BAD = SimpleNamespace(verdict="ok"), SimpleNamespace(verdict="similarity_lost")


@pytest.mark.parametrize(
    ("changed", "name", "good"),
    [
        ({"errors": {"image": 1e-4, "text": 1e-6}}, "cut towers against the library", False),
        ({"errors": {"image": None, "text": None}}, "cut towers against the library", None),
        ({"results": [OK] * 39 + [BAD] * 10}, "verdicts", False),
        ({"results": [OK] * 40 + [BAD] * 10}, "verdicts", True),
        ({"results": [OK]}, "verdicts", True),
        ({"halves": {"image": [1.0], "text": [0.89]}}, "two halves of the noise", False),
        ({"halves": {"image": [0.9], "text": [np.nan, 1.0]}}, "two halves of the noise", True),
        ({"marked": [0.2]}, "artefact patches", True),
        ({"marked": [0.201]}, "artefact patches", False),
        # Ranks 3 2 1 0 against 3 1 0 2: 1 - 6 * 6 / 60 = 0.4; against 2 3 0 1: 1 - 6 * 4 / 60 = 0.6
        ({"falls": rows([0.9, 0.5, 0.6, 2.8])}, "nats and what hiding costs", False),
        ({"falls": rows([0.8, 0.9, 0.6, 2.4])}, "nats and what hiding costs", True),
        # Of three groups, ranks 2 1 0 against 2 0 1: just 0.5
        ({"nats": rows([3, 2, 2]), "falls": rows([3, 1, 4])}, "nats and what hiding costs", True),
    ],
)
def test_each_finding_is_good_up_to_its_limit(changed, name, good):
    found = health(**changed)
    assert {finding.name.lower(): finding.good for finding in found.findings()}[name] is good
    others = [finding for finding in found.findings() if finding.name.lower() != name]
    assert all(finding.good in (True, None) for finding in others)
    said = f"Look before you trust a map of this model: {name}."
    assert (found.conclusion == said) is (good is False) and ("LOOK" in found.text()) is (good is False)


def test_several_that_are_bad_are_named_in_order():
    found = health(marked=[1.0], errors={"image": 1.0, "text": None})
    assert found.conclusion.endswith(": cut towers against the library, artefact patches.")


@pytest.mark.parametrize("seed", range(8))
def test_patches_are_ranked_by_their_means_in_groups_of_1_1_2_4_and_8(seed):
    rng = np.random.default_rng(seed)
    nats, falls = ([rng.random(size).astype(np.float32) for size in (5, 4, 5)] for _ in range(2))
    means = []
    for values in (nats, falls):
        columns = [[row[k] for row in values if len(row) > k] for k in range(5)]
        means.append([np.mean(column) / size for column, size in zip(columns, (1, 1, 2, 4, 8), strict=True)])
    (line,) = (f.value for f in health(nats=nats, falls=falls).findings() if f.name.startswith("Nats"))
    assert line.startswith(f"rank correlation {spearmanr(*means).statistic:.2f} over patches")


def test_shorter_rows_are_filled_up():
    found = stacked(rows([1, 2], [3, 4, 5], [6]))
    np.testing.assert_array_equal(found, [[1, 2, np.nan], [3, 4, 5], [6, np.nan, np.nan]])


def test_nothing_is_measured_at_first():
    empty = Health({}, {"image": None, "text": None})
    assert empty.seconds == empty.gigabytes == 0 and empty.halves == {"image": [], "text": []}
    assert not (empty.results or empty.nats or empty.falls or empty.words or empty.outlying or empty.marked)
