"""Imports point one way: the README's table of rooms is read here, and every import is held against it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from documentation import ROOT, blocks

ROWS = 25  # more, and the table helps nobody
# Renderers of the same Answer, which know nothing of each other.
STRANGERS = ("vlm.app", "vlm.bulk", "vlm.server")


def rooms() -> list[tuple[str, ...]]:
    """The table's rows, from top to bottom, each as the modules or packages that it names."""
    (table,) = blocks((ROOT / "README.md").read_text(), "text")
    rows, wing = [], ""
    for line in table.splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            wing = name.rstrip("/") if name.endswith("/") else ""
            if wing:
                continue
        files = [name, *re.findall(r"\b(\w+\.py)\b", line.split(maxsplit=1)[1])]
        parts = [
            f"{wing}.{file}".strip(".").removesuffix("/").removesuffix(".py") for file in files
        ]
        rows.append(tuple(parts))
    return rows


def modules() -> list[tuple[str, Path]]:
    files = [f for wing in ("vlm", "training") for f in sorted((ROOT / wing).rglob("*.py"))]
    named = [(".".join(f.relative_to(ROOT).with_suffix("").parts), f) for f in files]
    named.append(("app", ROOT / "app.py"))
    tops = ("vlm.__init__", "vlm.__main__", "training.__init__")
    return [(name.removesuffix(".__init__"), file) for name, file in named if name not in tops]


def imports(file: Path) -> set[str]:
    """What a file imports, wherever in it, but for type checkers alone."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                package = file.relative_to(ROOT).with_suffix("").parts[: -node.level]
                module = ".".join((*package, module)).strip(".")
            found.add(module)
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def row_of(name: str) -> int | None:
    for index, names in enumerate(rooms()):
        if any(name == room or name.startswith(room + ".") for room in names):
            return index
    return None


@pytest.mark.parametrize(("name", "file"), modules(), ids=lambda value: str(value).split("/")[-1])
def test_imports_point_down(name, file):
    own = row_of(name)
    assert own is not None, f"{name} stands in no row of the README's table"
    for imported in imports(file):
        below = row_of(imported)
        assert below is None or below >= own, f"{name} imports {imported}, which stands above it"
        if name.startswith(STRANGERS) and imported.startswith(STRANGERS):
            wing = ".".join(name.split(".")[:2])
            assert imported.startswith(wing), f"{name} imports {imported}"


def test_vlm_needs_no_training():
    for name, file in modules():
        if name.startswith("vlm."):
            assert not any(i.split(".")[0] == "training" for i in imports(file)), name


def test_the_table_is_short_and_true():
    assert len(rooms()) <= ROWS
    for names in rooms():
        for name in names:
            path = ROOT / name.replace(".", "/")
            assert path.is_dir() or path.with_suffix(".py").is_file(), name


def test_no_file_name_is_used_twice():
    names = [f.name for _, f in modules() if f.name not in ("__init__.py", "__main__.py", "app.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_the_overlay_needs_no_model():
    seen, waiting, files = set(), {"vlm.explain.overlay"}, dict(modules())
    while waiting:
        name = waiting.pop()
        seen.add(name)
        waiting |= {n for n in imports(files[name]) if n in files} - seen
    assert not any(name.startswith("vlm.model.") for name in seen)
