"""What a class of the user's must give, held against what it gives when it is used first.

Each error is one line: what the class should give, what it gave, where it stands and what to do. What a class raises
is such a line too; its cause keeps the frames of the class and leaves out those of this package and its libraries.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from m2ib_lightning.names import with_article
from m2ib_lightning.types import HiddenStates, Modality, PairBatch

if TYPE_CHECKING:
    from m2ib_lightning.backbones.base import Backbone, Tower
    from m2ib_lightning.losses.base import Bottlenecked

P = ParamSpec("P")
T = TypeVar("T")


class ContractError(ValueError):
    """A class gives something else than it must, or fails. The message names it, its place and the remedy."""


def called(owner: object, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a function of a user's class gives; those of this package fail as they are.

    Args:
        owner: Whose function it is.
        function: A function of that owner.
        args: What the function takes, in order.
        kwargs: What it takes by name.

    Raises:
        ContractError: It failed, and its message has no remedy of its own.
    """
    try:
        return function(*args, **kwargs)
    except (ContractError, torch.OutOfMemoryError):
        raise
    except Exception as problem:
        if type(owner).__module__.partition(".")[0] == __package__ or "Remedy:" in str(problem):
            raise
        own = _own_frames(problem.__traceback__, {code.co_filename for code in _codes(owner)})
        said = " ".join(f"{type(problem).__name__}: {problem}".split())[:200].rstrip(".: ")
        raise _fault(owner, "a value", said, "correct that line", own[-1] if own else None) from (
            problem.with_traceback(own[0] if own else problem.__traceback__)
        )


def without_frames(function: Callable[P, T]) -> Callable[P, T]:
    """The function, whose broken contracts show the caller's line and that of the class, and no frame between them."""

    @functools.wraps(function)
    def shown(*args: P.args, **keywords: P.kwargs) -> T:
        try:
            return function(*args, **keywords)
        except ContractError as problem:
            raise problem.with_traceback(None) from problem.__cause__

    return shown


def check_term(term: nn.Module, value: Any, towers: Sequence[Bottlenecked]) -> None:
    """Refuse what no loss term may give: anything but (B,) finite values that depend on the masks.

    Values that are 0 for every pair may depend on nothing: such a term says nothing of this tower.

    Args:
        term: The loss term whose value is checked.
        value: What its `forward` gave.
        towers: The towers that it looked at.
    """
    pairs = len(towers[0].alpha)
    looked_at = " and the ".join(tower.modality for tower in towers)
    wanted = f"(B,) = ({pairs},) finite values that depend on the mask of the {looked_at}"
    fault = functools.partial(_fault, term, wanted, at=term.forward)
    if not isinstance(value, Tensor) or value.shape != (pairs,) or not value.is_floating_point():
        raise fault(value, "one floating point value per pair, such as `.mean((1, 2))` of (B, L, D)")
    for tower in towers:
        if not tower.embedding.isfinite().any():
            through = f"finite embeddings of the {tower.modality} through its bottleneck"
            raise _fault(term, through, "none", "look for inf or nan in weights and priors, or raise the precision")
    if not value.isfinite().any():
        raise fault("nan or inf for every pair", "look for log(0), 0 / 0 and the like")
    learns = torch.is_grad_enabled() and any(tower.alpha.requires_grad for tower in towers)
    if learns and not value.requires_grad and bool(value.any()):
        raise fault("detached ones", "compute them from `tower` without .detach(), .item(), .numpy() or no_grad")


def check_metric(metric: Any, value: Any, one: bool = False) -> Tensor:
    """The values of a metric, (pairs,), if they are real numbers, nan among them, and only `one` where that is so."""
    if not isinstance(value, Tensor) or value.ndim > 1 or value.is_complex() or (one and value.numel() != 1):
        raise _fault(metric, "one value per pair, () or (1,)", value, "reduce (..., H, W) to (...)", metric.function)
    return value.detach().reshape(-1).float()


def check_relevance(method: Any, value: Any, shape: tuple[int, ...]) -> Tensor:
    """The maps of a baseline, if they are of their shape, (b, gh, gw) or (b, l)."""
    if not isinstance(value, Tensor) or value.shape != shape:
        wanted = f"maps {'(b, gh, gw)' if len(shape) == 3 else '(b, l)'} = {shape}"
        raise _fault(method, wanted, value, "one value per patch or token, special ones included", method.relevance)
    return value


def check_attributions(method: Any, found: Any, batch: PairBatch) -> None:
    """Refuse what no method may give: anything but an `Attribution` for each pair, with maps of its own shapes."""
    from m2ib_lightning.attribution import Attribution

    count = len(batch.tokens)
    fault = functools.partial(_fault, method, at=type(method).attribute)
    if not isinstance(found, list) or len(found) != count:
        got = f"{len(found)}" if isinstance(found, list) else found
        raise fault(f"a list of {count} Attributions", got, "one for each pair of the batch, in order")
    for a, tokens in zip(found, batch.tokens, strict=True):
        if not isinstance(a, Attribution):
            raise fault(f"a list of {count} Attributions", a, "make them by `as_attributions` of methods/base.py")
        length = len(tokens)
        sizes = {"tokens": len(a.tokens), "special": len(a.special), "spans": len(a.spans)}
        if a.text_map is not None:
            sizes["text_map"] = a.text_map.size
        if set(sizes.values()) != {length}:
            raise fault(f"{length} tokens for {a.id!r}", f"{sizes}", "one value per token, padding left out")
        if a.image_map is not None and (a.image_map.ndim != 2 or not a.image_map.size):
            raise fault("image maps (gh, gw)", f"shape {a.image_map.shape}", "one value per patch, row by row")


def check_towers(backbone: Any, towers: Any) -> tuple[Tower, Tower]:
    """What a backbone's `towers` gave, if it is two of them."""
    from m2ib_lightning.backbones.base import Tower

    if not isinstance(towers, tuple | list) or len(towers) != 2 or not all(isinstance(t, Tower) for t in towers):
        raise _fault(backbone, "two Towers", towers, "return the image tower, then the text tower", backbone.towers)
    return towers[0], towers[1]


@torch.inference_mode(False)
@torch.no_grad()
def check_backbone(backbone: Backbone) -> None:
    """Read one grey picture with one letter, once, and refuse a model whose towers give what no tower may.

    Raises:
        ContractError: Weights are of half precision, the towers stand for each other, or states or embeddings have
            other shapes, are not finite, or say nothing.
    """
    if backbone.kept_contract:
        return
    for name, value in backbone.model.named_parameters():
        if value.dtype in (torch.float16, torch.bfloat16):
            raise _fault(
                backbone, "float32 weights", f"{value.dtype} in {name}",
                "`model.float()`; for speed --trainer.precision bf16-mixed", verb="have",
            )  # fmt: skip
    height, width = backbone.image_size
    batch = called(backbone, backbone.read, [Image.new("RGB", (width, height), "grey")], ["a"])
    if len(batch.pairs) != 1:
        remedy = "make them by `unnamed_pairs` of backbones/base.py"
        raise _fault(backbone, "a batch with its `pairs`", f"{len(batch.pairs)}", remedy, backbone.read)
    batch = batch.to(backbone.device)
    widths = [_embedding_width(backbone, "image", batch), _embedding_width(backbone, "text", batch)]
    if widths[0] != widths[1]:
        raise _fault(backbone, "embeddings of one width", f"{widths}", "end both towers with their projections")
    backbone.kept_contract = True


def _embedding_width(backbone: Backbone, modality: Modality, batch: PairBatch) -> int:
    """E of a tower, if everything that it gives is as it must be."""
    tower = backbone.tower(modality)
    fault, grid = functools.partial(_fault, tower), called(tower, tower.grid, batch)
    if (grid is None) == (modality == "image"):
        got = f"{type(tower).__name__} with the grid {grid}"
        raise _fault(backbone, f"the {modality} tower as `{modality}`", got, "image first, then text", verb="have")
    hidden = called(tower, tower.prefix, batch, "embeddings")
    if not isinstance(hidden, HiddenStates) or hidden.states.ndim != 3:
        raise fault("HiddenStates, `states` (B, L, D),", hidden, "see types.py", tower.prefix)
    length = hidden.states.shape[1]
    shapes = {name: (*field.shape,) for name, field in hidden._asdict().items() if field is not None}
    wanted = {"states": (1, length, tower.width), "valid": (1, length), "special": (1, length), "read": (1,)}
    if any(shapes[name] != wanted[name] for name in shapes) or length > tower.length:
        remedy = f"`width` {tower.width} and `length` {tower.length} of the tower must be true"
        raise fault(f"{wanted}", f"{shapes}", remedy, tower.prefix)
    content = int((hidden.valid & ~hidden.special).sum())
    if grid is not None and content != grid[0] * grid[1]:
        remedy = "set `special` for CLS and registers, and `grid` to rows and columns"
        raise fault(f"{grid[0]} x {grid[1]} patches", f"{content} that are not special", remedy, tower.prefix)
    if grid is None and length < len(batch.tokens[0]):
        raise fault(f"{len(batch.tokens[0])} states, one per token,", f"{length}", "leave none out", tower.prefix)
    embedding = called(tower, tower.suffix, hidden.states[None], hidden, "embeddings")
    if not isinstance(embedding, Tensor) or embedding.ndim != 3 or embedding.shape[:2] != (1, 1):
        raise fault("embeddings (K, B, E) = (1, 1, E)", embedding, "keep the axes K and B", tower.suffix)
    if not embedding.isfinite().all() or not embedding.any():
        got = "only zeros" if embedding.isfinite().all() else "nan or inf"
        raise fault("embeddings that say something", got, "look at its projection's weights", tower.suffix)
    return embedding.shape[2]


def _fault(
    owner: object,
    wanted: str,
    got: Any,
    remedy: str,
    at: Callable[..., Any] | TracebackType | None = None,
    verb: str = "return",
) -> ContractError:
    """The line: what a class should give, what came, where, and what to do."""
    if isinstance(got, Tensor):
        got = f"shape {(*got.shape,)} of {got.dtype}"
    elif not isinstance(got, str):
        got = "None" if got is None else with_article(type(got).__name__)
    name = type(owner).__name__
    return ContractError(f"Expected {name} to {verb} {wanted} but got {got}{_place(at)}. Remedy: {remedy}.")


def _codes(owner: object) -> list[CodeType]:
    """Of the functions that the body of a class names."""
    return [code for of in vars(type(owner)).values() if (code := _code(of)) is not None]


def _code(function: Any) -> CodeType | None:
    found = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    return found if isinstance(found, CodeType) else None


def _own_frames(trace: TracebackType | None, files: set[str]) -> list[TracebackType]:
    """The frames of a traceback that are in these files."""
    found = []
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in files:
            found.append(trace)
        trace = trace.tb_next
    return found


def _place(at: Callable[..., Any] | TracebackType | None) -> str:
    """The words " at FILE:LINE" of a function or a frame, "" where neither is known."""
    code = at.tb_frame.f_code if isinstance(at, TracebackType) else _code(at)
    if code is None:
        return ""
    line = at.tb_lineno if isinstance(at, TracebackType) else code.co_firstlineno
    file, here = Path(code.co_filename), Path.cwd()
    return f" at {file.relative_to(here) if file.is_relative_to(here) else file}:{line}"
