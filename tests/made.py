"""What tests of several folders make and ask."""

import dataclasses

import numpy as np
import pytest

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.cli import main


def attribution(**changed) -> Attribution:
    """One whose text has a word of three tokens and one of two, with what is to be another."""
    fields = {
        "id": "a", "text": "an ice-cream van", "score": 0.5, "source": "van.png",
        "image_map": np.array([[0.0, 1.0], [2.0, 8.0]], dtype=np.float32),
        "text_map": np.array([9.0, 1.0, 2.0, 3.0, 4.0, 0.5, 6.0, 9.0], dtype=np.float32),
        "tokens": ["<s>", "an", "ice", "-", "cream", "v", "an", "</s>"],
        "special": np.array([1, 0, 0, 0, 0, 0, 0, 1], dtype=bool),
        "spans": [(0, 0), (0, 2), (3, 6), (6, 7), (7, 12), (13, 14), (14, 16), (0, 0)],
        "history": {"loss/total": np.array([3.0, 2.0], dtype=np.float32)},
        "settings": {"method": "M2IB", "image_layer": 3}, "steps": 2, "stop_reason": "max_steps",
        "metrics": {"image/PointingGame": 1.0, "text/TokenAUROC": 0.1},
    }  # fmt: skip
    return Attribution(**{**fields, **changed})


def assert_equal(before: Attribution, after: Attribution) -> None:
    """Every field is the same, arrays to the bit."""
    for field in dataclasses.fields(Attribution):
        a, b = getattr(before, field.name), getattr(after, field.name)
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        elif field.name in ("phrases", "regions"):
            assert [part.as_dict() for part in a] == [part.as_dict() for part in b]
        elif field.name == "history":
            assert a.keys() == b.keys()
            for name in a:
                np.testing.assert_array_equal(a[name], b[name])
        elif isinstance(a, float) and np.isnan(a):
            assert np.isnan(b)
        else:
            assert a == b, field.name


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on standard error of a command that must fail."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code not in (0, None)
    said = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(said) == 1, said
    return said[0]
