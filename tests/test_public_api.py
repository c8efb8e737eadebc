"""The public names and their signatures are those of tests/public_api.txt.

A line that goes or changes breaks somebody's program: see "Deprecating" in CONTRIBUTING.md. After
a change that is meant, write the list again:

    python tests/test_public_api.py > tests/public_api.txt
"""

import ast
import inspect
from importlib import import_module
from pathlib import Path

import wbcprof

# What README.md and docstrings name; the other modules may change without notice.
MODULES = (
    "classify", "compare", "datasets", "evaluation", "figures", "images", "model", "profiler",
    "profiles", "psd", "report", "sparse", "stain", "storage", "threads",
)  # fmt: skip
STORED = Path(__file__).parent / "public_api.txt"


def signature(function):
    """Names, order and defaults of the parameters; annotations may become better at any time."""
    found = inspect.signature(function)
    bare = [p.replace(annotation=p.empty) for p in found.parameters.values()]
    return found.replace(parameters=bare, return_annotation=found.empty)


def describe(name, thing):
    """Lines for a function, a class with what it defines itself, or a constant."""
    if inspect.isclass(thing):
        bases = ", ".join(base.__name__ for base in thing.__bases__)
        yield f"{name}: class({bases})"
        for member, value in sorted(vars(thing).items()):
            inner = getattr(value, "__func__", value)
            if member.startswith("_") and member != "__init__":
                continue
            if isinstance(value, property):
                yield f"{name}.{member}: property"
            elif inspect.isfunction(inner):
                yield f"{name}.{member}{signature(inner)}"
    elif inspect.isfunction(thing):
        yield f"{name}{signature(thing)}"
    else:
        yield f"{name}: {type(thing).__name__}"


def public_api():
    lines = []
    for name in wbcprof.__all__:
        where = getattr(getattr(wbcprof, name), "__module__", None)
        lines.append(f"wbcprof.{name}" + (f" = {where}.{name}" if where else ""))
    for module_name in MODULES:
        module = import_module(f"wbcprof.{module_name}")
        for name, thing in sorted(vars(module).items()):
            own = getattr(thing, "__module__", None) == module.__name__
            listed = name in getattr(module, "__all__", [name] if own else [])
            if listed and not name.startswith("_"):
                lines += describe(f"{module.__name__}.{name}", thing)
    return lines


def test_public_names_and_signatures_are_those_stored():
    stored = STORED.read_text(encoding="utf-8").splitlines()
    found = public_api()
    assert len(found) > 100
    gone, new = sorted(set(stored) - set(found)), sorted(set(found) - set(stored))
    assert found == stored, (
        "the public names changed. Gone:\n  "
        + "\n  ".join(gone)
        + "\nNew:\n  "
        + "\n  ".join(new)
        + "\nIf this is meant: python tests/test_public_api.py > tests/public_api.txt"
    )


def test_type_checkers_see_every_public_name():
    tree = ast.parse(Path(wbcprof.__file__).read_text(encoding="utf-8"))
    imported = [node.names for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    seen = {alias.asname for names in imported for alias in names}
    assert set(wbcprof.__all__) - {"__version__"} <= seen


if __name__ == "__main__":
    print("\n".join(public_api()))
