"""Every public name has an example in its docstring, and every example runs as it stands.

An example is complete: what it uses, it imports or makes. It leaves no files behind, and prints
what is the same on every machine.
"""

import doctest
import io
import re
import tempfile
from functools import cache, reduce
from importlib import import_module
from inspect import cleandoc, isclass, ismodule
from pathlib import Path
from pkgutil import walk_packages

import pytest

import wbcprof

PUBLIC = (Path(__file__).parent / "public_api.txt").read_text(encoding="utf-8").splitlines()
# What only a function returns has its example there.
MADE_BY = {
    "wbcprof.analysis.Chart": "wbcprof.analysis.Monitor",
    "wbcprof.analysis.ClassifiedShards": "wbcprof.analysis.classify_to_shards",
    "wbcprof.analysis.Flag": "wbcprof.analysis.Monitor",
    "wbcprof.analysis.Evaluation": "wbcprof.evaluate",
    "wbcprof.analysis.ExternalEvaluation": "wbcprof.analysis.evaluate_external",
    "wbcprof.analysis.compare.Association": "wbcprof.analysis.compare.associate",
    "wbcprof.analysis.compare.BlandAltman": "wbcprof.analysis.compare.bland_altman",
    "wbcprof.analysis.compare.Concordance": "wbcprof.analysis.compare.concordance",
    "wbcprof.analysis.compare.CorrectedCount": "wbcprof.analysis.compare.correct_count",
    "wbcprof.analysis.compare.CountAgreement": "wbcprof.analysis.compare.compare_counts",
    "wbcprof.analysis.compare.PassingBablok": "wbcprof.analysis.compare.passing_bablok",
    "wbcprof.analysis.compare.Differences": "wbcprof.analysis.compare.differential_signatures",
    "wbcprof.analysis.compare.DifferentialCount": "wbcprof.analysis.compare.differential_count",
    "wbcprof.analysis.RaterAgreement": "wbcprof.analysis.compare_raters",
    "wbcprof.datasets.Leukocytes": "wbcprof.datasets.make_leukocytes",
    "wbcprof.datasets.Smear": "wbcprof.datasets.make_smear",
    "wbcprof.analysis.NamedCell": "wbcprof.analysis.count_smears",
    "wbcprof.analysis.SeenField": "wbcprof.analysis.count_smears",
    "wbcprof.analysis.SmearCount": "wbcprof.analysis.count_smears",
    "wbcprof.analysis.SmearResult": "wbcprof.analysis.count_smears",
    "wbcprof.smear.FieldCells": "wbcprof.smear.cut_out",
    "wbcprof.smear.SmearCell": "wbcprof.smear.cut_out",
    "wbcprof.smear.Ruler": "wbcprof.smear.cut_out",
    "wbcprof.scale.FoundCells": "wbcprof.scale.find_to_folder",
    "wbcprof.scale.ShardedProfiles": "wbcprof.scale.profile_to_shards",
}


def examples():
    """All docstrings of the package that hold examples."""
    modules = [module.name for module in walk_packages(wbcprof.__path__, "wbcprof.")]
    finder = doctest.DocTestFinder()
    return [
        found
        for name in ["wbcprof", *modules]
        if not name.endswith("__main__")
        for found in finder.find(import_module(name), globs={})
        if found.examples
    ]


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_example_runs_as_it_stands(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert not any(doctest.SKIP in line.options for line in example.examples)
    said = io.StringIO()
    failed, _ = doctest.DocTestRunner(verbose=False).run(example, out=said.write)
    assert not failed, said.getvalue()
    assert not list(tmp_path.iterdir()), "it leaves files behind"


def named(name):
    """The module, class, function, member or constant of a public name."""
    return reduce(getattr, name.split(".")[1:], wbcprof)


@cache
def code(name):
    """What the examples of a public name type; empty where it has none under "Examples"."""
    _, _, section = cleandoc(named(name).__doc__ or "").partition("\nExamples\n--------\n")
    return "".join(example.source for example in doctest.DocTestParser().get_examples(section))


def lacks_example(name):
    """Whether a public name, or for a member its class, shows nowhere how it is used."""
    thing = named(name)
    if isclass(thing) or ismodule(thing):
        is_told = isclass(thing) and issubclass(thing, Exception)
        return not is_told and not code(MADE_BY.get(name, name))
    if not callable(thing) and not isinstance(thing, property):  # a constant
        return False
    owner, _, last = name.rpartition(".")
    if not isclass(named(owner)):
        return not re.search(rf"\b{last}\(", code(name))
    of_class = code(MADE_BY.get(owner, owner))
    if last == "__init__":
        return not of_class
    return not re.search(rf"(?<!wbcprof)\.{last}\b", code(name) + of_class)


def test_every_public_name_has_an_example():
    names = ["wbcprof", *(re.match(r"[\w.]+", line)[0] for line in PUBLIC)]
    lacking = [name for name in names if lacks_example(name)]
    assert not lacking, f"no example in the docstring of {', '.join(lacking)}"
