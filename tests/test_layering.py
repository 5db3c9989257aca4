"""Imports point one way; this reads them with `ast`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Lower layers first; a module may import from layers below its own, and from its own.
LAYERS = [
    {"vlm.images", "vlm.config", "vlm.arguments", "vlm.options"},
    {"vlm.tokenizer", "vlm.memory", "vlm.attention", "vlm.shards", "vlm.image_files"},
    {"vlm.vision", "vlm.decoder"},
    {"vlm.model"},
    {"vlm.generate", "vlm.explain", "vlm.weights", "vlm.packed", "vlm.compiled"},
    {"vlm.captioner"},
    {"vlm.caption_dataset", "vlm.records"},
    {"vlm.cli", "vlm.server", "vlm.ui"},
    {"vlm.__main__", "app"},
]
# The renderers of an Answer know nothing of each other.
STRANGERS = {"vlm.cli", "vlm.server", "vlm.ui"}


def modules() -> list[tuple[str, Path]]:
    files = [*sorted((ROOT / "vlm").rglob("*.py")), ROOT / "app.py"]
    named = [(".".join(f.relative_to(ROOT).with_suffix("").parts), f) for f in files]
    return [
        (name.removesuffix(".__init__"), file) for name, file in named if name != "vlm.__init__"
    ]


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file} imports relatively"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(name: str) -> int | None:
    for index, members in enumerate(LAYERS):
        if any(name == member or name.startswith(member + ".") for member in members):
            return index
    return None


@pytest.mark.parametrize(("name", "file"), modules(), ids=lambda value: str(value).split("/")[-1])
def test_imports_point_down(name, file):
    own = layer(name)
    assert own is not None, f"{name} has no layer; give it one here"
    for imported in imports(file):
        assert imported.split(".")[0] != "training", f"{name} imports {imported}"
        below = layer(imported)
        if below is None:
            continue
        assert below <= own, f"{name} imports {imported}, which lies above it"
        if name in STRANGERS:
            others = STRANGERS - {name}
            assert not any(imported.startswith(other) for other in others)


def test_training_does_not_import_the_app():
    for file in (ROOT / "training").rglob("*.py"):
        assert not any(i == "app" or i.startswith("app.") for i in imports(file)), file


def test_the_overlay_needs_no_model():
    seen, waiting = set(), {"vlm.explain.overlay"}
    files = dict(modules())
    while waiting:
        name = waiting.pop()
        seen.add(name)
        runtime = ast.parse(files[name].read_text())
        # What is imported for type checkers alone is not there at run time.
        for node in ast.walk(runtime):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
        names = {
            node.module
            for node in ast.walk(runtime)
            if isinstance(node, ast.ImportFrom) and node.module
        }
        waiting |= {n for n in names if n in files} - seen
    assert not seen & {"vlm.model", "vlm.decoder", "vlm.vision"}
