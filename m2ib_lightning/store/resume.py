"""Whether a run may go on in a folder: only with what its results were made with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from m2ib_lightning.store.parts import Provenance

FREE = {
    "model.noise_chunk",
    "model.compile",
    "model.graphs",
    "data.batch_size",
    "data.num_workers",
    "data.on_error",
}
"""Arguments that may change between two runs of one folder, since no result depends on them."""

SHOWN = 6
"""The most differences that a message names."""


def check_same(folder: Path, there: Provenance, now: Provenance) -> None:
    """Refuse to add results to those of another model or configuration.

    Args:
        folder: The folder of the results, for the message.
        there: What they were made with.
        now: What further ones would be made with; empty `weights` are not compared.

    Raises:
        ValueError: The two differ, with each difference.
    """
    found = differences(there.configuration, now.configuration)
    if now.weights and there.weights != now.weights:
        found.append(f"weights: {there.weights} there, {now.weights} now")
    if len(found) > SHOWN:
        found[SHOWN:] = [f"and {len(found) - SHOWN} more"]
    if found:
        raise ValueError(
            f"Expected the configuration of the results in {str(folder)!r} but got another ({'; '.join(found)}). "
            "Remedy: choose another --output, or the same configuration."
        )


def differences(there: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Each argument that differs, free ones left out.

    >>> differences({"model": {"image_beta": 3.0, "seed": 0}}, {"model": {"image_beta": 1.0, "seed": 0}})
    ['model.image_beta: 3.0 there, 1.0 now']
    """
    before, after = _flat(there), _flat(now)
    keys = [key for key in {**before, **after} if key not in FREE and before.get(key) != after.get(key)]
    return [f"{key}: {_shown(before.get(key))} there, {_shown(after.get(key))} now" for key in keys]


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dictionaries by their dotted names; as JSON keeps them."""
    if not isinstance(tree, dict):
        return {prefix: json.loads(json.dumps(tree))}
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        inner = prefix if name == "init_args" else f"{prefix}.{name}".lstrip(".")
        leaves |= _flat(value, inner)
    return leaves


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)
