"""docs/architecture.md is true of the imports; what is built is what is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = {path.stem: path for path in (ROOT / "wbcprof").glob("*.py")}
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def rows():
    """Row of the table, counted from the top, of every module in it."""
    lines = [line.split("|") for line in PAGE.splitlines() if line.startswith("| ")][1:]
    return {name: i for i, line in enumerate(lines) for name in re.findall(r"`(\w+)`", line[2])}


def imports(path):
    """Pairs (module of the package, whether at import time)."""

    def visit(node, at_import):
        for child in ast.iter_child_nodes(node):
            deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
                isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            )
            names = []
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                source = f"{'wbcprof.' * (child.level > 0)}{child.module or ''}".strip(".")
                names = [source]
                if source == "wbcprof":
                    names = [f"wbcprof.{alias.name}" for alias in child.names]
            for name in names:
                if name.startswith("wbcprof.") and name != "wbcprof.__version__":
                    yield name.split(".")[1], at_import
            yield from visit(child, at_import and not deferred)

    return set(visit(ast.parse(path.read_text(encoding="utf-8")), True))


def test_every_module_has_one_place_in_the_table():
    in_table = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| \w+ \|([^|]*)\|", PAGE, re.M)))
    extensions = {path.stem for path in (ROOT / "wbcprof").glob("*.pyx")}
    assert sorted(in_table) == sorted((MODULES.keys() - {"__init__"}) | extensions)


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"__init__"}))
def test_imports_point_up_the_table(module):
    row = rows()
    exceptions = set(re.findall(r"^- `(\w+)` -> `(\w+)`:", PAGE, re.M))
    downward = {
        (imported, at_import)
        for imported, at_import in imports(MODULES[module])
        if row[imported] >= row[module]
    }
    assert not {name for name, at_import in downward if at_import}
    assert {(module, name) for name, _ in downward} == {e for e in exceptions if e[0] == module}


def test_every_file_of_the_package_is_installed():
    """An editable install would not notice."""
    listed = set(re.findall(r"'([\w/.]+)'", (ROOT / "wbcprof" / "meson.build").read_text()))
    package = ROOT / "wbcprof"
    present = {
        str(path.relative_to(package))
        for pattern in ("*.py", "*.pyi", "*.pyx", "py.typed", "templates/*")
        for path in package.glob(pattern)
    }
    assert present <= listed
