"""How inputs are masked when a map is scored; named under every table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from m2ib_lightning.checks import check_choice


@dataclass(frozen=True)
class Protocol:
    """How inputs are masked. Every field goes into the tables' caption.

    Attributes:
        steps: How many steps an insertion or deletion takes.
        masks: How many random maskings infidelity is the mean error over.
        seed: Those maskings follow from it, and the order of equal values in an insertion or deletion.
        name: "corrected", or "as_released" for confidence drop and increase as the released scripts of M2IB compute
            them, see `released`; the other metrics are the same in both.

    Raises:
        ValueError: The name is none of the two.
    """

    steps: int = 20
    masks: int = 32
    seed: int = 0
    name: Literal["corrected", "as_released"] = "corrected"

    def __post_init__(self) -> None:
        check_choice("protocol", self.name, ("corrected", "as_released"))

    @property
    def caption(self) -> str:
        """How tables name it: "protocol: corrected (steps=20, masks=32, seed=0)"."""
        numbers = ", ".join(f"{key}={value}" for key, value in asdict(self).items() if key != "name")
        return f"protocol: {self.name} ({numbers})"
