"""docs/architecture.md is true of the imports; what is built is what is there."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "wbcprof"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py*")
    if path.suffix in (".py", ".pyx") and path.name != "__init__.py"
}
TABLE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("\n\n")[2]


def room(module):
    """The folder of a module, or the module itself where it lies in none."""
    return module.split(".")[0]


def rows():
    """Row of the table, the ground 0, of every folder and module beside the folders."""
    lines = TABLE.splitlines()[:1:-1]
    return {
        name: row for row, line in enumerate(lines)
        for name in re.findall(r"`(\w+)/?`", line.split("|")[2])
    }  # fmt: skip


def imports(module):
    """Modules of the package that a module imports, wherever in its code."""
    text = MODULES[module].read_text(encoding="utf-8")
    if MODULES[module].suffix == ".pyx":
        return set()
    found = set()
    for node in ast.walk(ast.parse(text)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        for name in names:
            name = name.removeprefix("wbcprof.")
            if name in MODULES:
                found.add(name)
            elif name.split(".")[0] in rows() and "." in name:
                assert name.rpartition(".")[0] in MODULES, f"{module}: {name} goes by a folder"
    return found


def test_every_file_has_a_row():
    assert rows().keys() == {room(module) for module in MODULES}


def test_imports_point_down():
    row = rows()
    up = [
        f"{module} -> {other}"
        for module in MODULES
        for other in imports(module)
        if row[room(other)] > row[room(module)]
    ]
    assert not up


def test_there_is_no_circle():
    TopologicalSorter({module: imports(module) for module in MODULES}).prepare()


def test_every_file_of_the_package_is_installed():
    """An editable install would not notice."""
    listed = set(re.findall(r"'([\w/.]+)'", (PACKAGE / "meson.build").read_text()))
    present = {
        str(path.relative_to(PACKAGE))
        for pattern in ("*.py", "*.pyi", "*.pyx", "py.typed", "templates/*")
        for path in PACKAGE.rglob(pattern)
    }
    assert present <= listed
