"""Every metric can be named in YAML by its class and arguments."""

from collections.abc import Sequence

import pytest
from jsonargparse import ArgumentParser

from m2ib_lightning import metrics
from m2ib_lightning.callbacks import ScoreWriter
from m2ib_lightning.evaluation import Protocol
from m2ib_lightning.metrics import PairMetric

KINDS = [
    kind
    for kind in vars(metrics).values()
    if isinstance(kind, type) and issubclass(kind, PairMetric) and kind is not PairMetric
]
ARGUMENTS = {
    "PointingGame": {"tolerance": 3},
    "RandomisationSimilarity": {"modality": "text", "by_layer": True},
    "ConfidenceDrop": {"modality": "text"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_metric_is_built_from_its_class_path_and_arguments(kind):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--metrics", type=list[PairMetric])
    arguments = ARGUMENTS.get(kind.__name__, {})
    entry = {"class_path": f"m2ib_lightning.metrics.{kind.__name__}", "init_args": arguments}
    (built,) = parser.instantiate_classes(parser.parse_object({"metrics": [entry]})).metrics
    assert type(built) is kind and {key: getattr(built, key) for key in arguments} == arguments


def test_the_writer_is_built_with_its_metrics_and_protocol(tmp_path):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ScoreWriter, "writer")
    named = [{"class_path": "m2ib_lightning.metrics.PointingGame", "init_args": {"tolerance": 2}}]
    given = {"folder": str(tmp_path), "metrics": named, "protocol": {"name": "as_released", "steps": 5}}
    writer = parser.instantiate_classes(parser.parse_object({"writer": given})).writer
    assert isinstance(writer.metrics, Sequence) and writer.metrics[0].tolerance == 2
    assert writer.protocol == Protocol(name="as_released", steps=5)
