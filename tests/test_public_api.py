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

FOLDERS = ("images", "smear", "model", "scale", "learning", "analysis", "report")
MODULES = ("analysis.compare", "analysis.figures", "datasets")
# Members that files of other folders call, and nobody else.
MACHINERY = {
    "count_features", "find_regions", "for_workers", "from_arrays", "layer_settings", "metadata",
    "n_regions", "pool_codes", "profile_source", "Model.read", "to_arrays", "to_layer",
    "Pooling.to_json", "StainNormaliser.to_json", "CanonicalForm.to_json", "Instrument.to_json",
    "standardise", "TypeClassifier.adapted", "TypeClassifier.unadapted", "is_far", "change",
    "least_side", "stated_pixel_size", "end_pass", "self_contained", "whole_images",
    "FieldSource.part", "FieldSource.digest", "Model.adapted_to", "quietly", "fit_from",
    "TypeClassifier.name",
}  # fmt: skip
# What functions return: attributes are promised, how they are made is not.
RESULTS = {
    "Association", "DifferentialCount", "Differences", "Evaluation", "Leukocytes",
    "ShardedProfiles", "StainNormaliser", "CanonicalForm", "Instrument", "Chart", "Flag",
    "Smear", "Field", "FieldSource", "NamedCell", "SeenField", "SmearCount", "SmearResult",
    "FieldCells", "SmearCell", "FoundCells", "ClassifiedShards", "ExternalEvaluation",
    "BlandAltman", "Concordance", "CorrectedCount", "CountAgreement", "PassingBablok",
    "Groups", "SpreadLabels", "Labels", "RaterAgreement",
}  # fmt: skip
STORED = Path(__file__).parent / "public_api.txt"


def signature(function):
    """Names, order and defaults of the parameters; annotations may become better at any time."""
    found = inspect.signature(function)
    bare = [p.replace(annotation=p.empty) for p in found.parameters.values()]
    return found.replace(parameters=bare, return_annotation=found.empty)


def members(thing):
    """What a class and its bases in this package define, by name."""
    own = [base for base in thing.__mro__ if base.__module__.startswith("wbcprof.")]
    return {name: value for base in own[::-1] for name, value in vars(base).items()}


def describe(name, thing):
    """Lines for a function, a class with what it defines itself, or a constant."""
    if inspect.isclass(thing):
        yield f"{name}: class"
        for member, value in sorted(members(thing).items()):
            inner = getattr(value, "__func__", value)
            hidden = {member, f"{thing.__name__}.{member}"} & MACHINERY or member.startswith("_")
            made = member == "__init__" and thing.__name__ not in RESULTS
            if (made and inspect.isfunction(inner)) or (not hidden and inspect.isfunction(inner)):
                yield f"{name}.{member}{signature(inner)}"
            elif not hidden and isinstance(value, property):
                yield f"{name}.{member}: property"
    elif inspect.isfunction(thing):
        yield f"{name}{signature(thing)}"
    else:
        yield f"{name}: {type(thing).__name__}"


def public_api():
    lines, told = [], set()
    packages = [wbcprof, *(import_module(f"wbcprof.{folder}") for folder in FOLDERS)]
    modules = [import_module(f"wbcprof.{module}") for module in MODULES]
    for module in [*packages, *modules]:
        for name in module.__all__:
            thing = getattr(module, name)
            if id(thing) not in told:
                told.add(id(thing))
                lines += describe(f"{module.__name__}.{name}", thing)
    return lines


def test_public_names_and_signatures_are_those_stored():
    stored = STORED.read_text(encoding="utf-8").splitlines()
    found = public_api()
    assert len(found) > 60
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
