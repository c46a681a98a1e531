"""Dependencies point one way, and what is slow to import is imported where it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "m2ib_lightning"
LAYERS = [
    {"version", "errors", "types", "names", "checks", "files", "printable", "precision"},
    {"parts"},
    {"verdict", "attribution", "display", "prior", "losses", "metrics", "backbones", "contracts"},
    {"bottleneck"},
    {"store", "data", "methods", "targets", "phrases"},
    {"calibration"},
    {"evaluation"},
    {"report"},
    {"callbacks"},
    {"api", "comparison"},
    {"app", "cli"},
]
"""From the bottom up: a piece imports from its own line or from a lower one."""


def imports(file: Path) -> set[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def height(piece: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if piece in layer)


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_point_down(file):
    piece = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if piece in {"__init__", "__main__"}:
        return
    own = {name.split(".")[1] for name in imports(file) if name.startswith("m2ib_lightning.")}
    for other in own & set().union(*LAYERS):
        assert height(other) <= height(piece), f"{piece} imports {other}"


@pytest.mark.parametrize("library", ["transformers", "open_clip"])
def test_only_backbones_know_model_libraries(library):
    users = {
        f.relative_to(PACKAGE).parts[0]
        for f in PACKAGE.rglob("*.py")
        if any(i.split(".")[0] == library for i in imports(f))
    }
    assert users <= {"backbones"}


def test_only_callbacks_know_wandb():
    users = {
        f.relative_to(PACKAGE).parts[0]
        for f in PACKAGE.rglob("*.py")
        if any(i.split(".")[0] == "wandb" for i in imports(f))
    }
    assert users <= {"callbacks"}


@pytest.mark.parametrize("piece", ["losses", "metrics"])
def test_losses_and_metrics_never_see_a_model(piece):
    for file in (PACKAGE / piece).glob("*.py"):
        assert not {i for i in imports(file) if "backbones" in i or "transformers" in i}


@pytest.mark.slow
def test_importing_the_package_imports_no_slow_library_that_lightning_does_not():
    slow = "('wandb', 'datasets', 'matplotlib.figure', 'transformers', 'pandas', 'pyarrow', 'rich.table')"
    code = (
        f"import sys, torch, lightning.pytorch; before = {{m for m in {slow} if m in sys.modules}}; "
        f"import m2ib_lightning; print(sorted({{m for m in {slow} if m in sys.modules}} - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
