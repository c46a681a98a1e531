"""The name that was meant by one that is not known."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from difflib import SequenceMatcher

ALIKE = 0.7
"""From this ratio of `SequenceMatcher` on, a name is offered as the one that was meant."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like one that is not, None where none is.

    Upper and lower case, hyphens and underscores count for nothing, and neither do the words before the last dot.

    >>> nearest("GradCam", ["GradCAM", "GradECLIP"]), nearest("--imagebeta", ["--model.image_beta", "--output"])
    ('GradCAM', '--model.image_beta')
    >>> nearest("tarot", ["GradCAM"]) is None
    True
    """
    rated = [(_likeness(name, other), other) for other in known]
    best = max(rated, default=(0.0, ""), key=lambda one: one[0])
    return best[1] if best[0] >= ALIKE else None


def meant(name: str, known: Iterable[str], otherwise: str) -> str:
    """A remedy: the nearest known name as a question, or something else where there is none."""
    found = nearest(name, known)
    return otherwise if found is None else f"did you mean {found}?"


def with_article(name: str) -> str:
    """A name behind its article.

    >>> with_article("GradCAM"), with_article("Attribution")
    ('a GradCAM', 'an Attribution')
    """
    return f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"


def parameters(kind: type) -> list[str]:
    """What the constructor of a class takes, that of its bases included where it passes keywords on."""
    found: dict[str, None] = {}
    for base in kind.__mro__:
        own = inspect.signature(vars(base)["__init__"]).parameters if "__init__" in vars(base) else {}
        found |= {p.name: None for p in own.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if own and not any(p.kind is p.VAR_KEYWORD for p in own.values()):
            break
    found.pop("self", None)
    return list(found)


def subclasses(base: type) -> dict[str, type]:
    """Every class below a base that can be made, by its name; those of this package in place of others of that name."""
    found: dict[str, type] = {}
    waiting: list[type] = list(base.__subclasses__())
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        ours = kind.__module__.startswith("m2ib_lightning.")
        contract = inspect.isabstract(kind) or kind.__module__.endswith((".base", ".baseline"))
        if not (contract or kind.__name__.startswith("_")) and (ours or kind.__name__ not in found):
            found[kind.__name__] = kind
    return dict(sorted(found.items()))


def _likeness(name: str, other: str) -> float:
    whole = SequenceMatcher(None, _bare(name), _bare(other)).ratio()
    last = SequenceMatcher(None, _bare(name.rpartition(".")[2]), _bare(other.rpartition(".")[2])).ratio()
    return max(whole, 0.99 * last)


def _bare(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
