"""Unsupervised visual signatures and profiles of white blood cells.

Examples
--------
A few small cells and signatures, so that this runs at once; the defaults are for real images.

>>> import wbcprof
>>> from wbcprof.datasets import make_leukocytes
>>> cells = make_leukocytes(4, size=48)  # generated; or the path of a folder with one per type
>>> model = wbcprof.fit(cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1)
>>> profiles = wbcprof.profile(cells.images, model, labels=cells.labels)
>>> profiles.values.shape
(24, 48)
>>> model.classifier = wbcprof.train(model, cells.images, cells.labels)
>>> print(*model.classifier.predict(profiles)[:2])
atypical_lymphocyte atypical_lymphocyte
"""

from typing import TYPE_CHECKING

from wbcprof import _core as _core  # here, so that a subinterpreter is refused at once
from wbcprof._lazy import attach

if TYPE_CHECKING:  # what `__getattr__` gives
    from wbcprof import datasets as datasets
    from wbcprof.analysis import compare as compare
    from wbcprof.analysis import figures as figures
    from wbcprof.analysis.classify import TypeClassifier as TypeClassifier
    from wbcprof.analysis.classify import train as train
    from wbcprof.analysis.evaluation import evaluate as evaluate
    from wbcprof.analysis.smears import count_smears as count_smears
    from wbcprof.learning.profiler import Profiler as Profiler
    from wbcprof.learning.profiler import fit as fit
    from wbcprof.learning.psd import PSD as PSD
    from wbcprof.model.model import Model as Model
    from wbcprof.model.model import load as load
    from wbcprof.model.model import profile as profile
    from wbcprof.model.profiles import Profiles as Profiles
    from wbcprof.model.sparse import sparse_encode as sparse_encode
    from wbcprof.report.label import write_label_page as write_label_page
    from wbcprof.report.page import write_report as write_report
    from wbcprof.report.smear import write_smear as write_smear
    from wbcprof.scale import shards as shards
    from wbcprof.smear.stain import StainNormaliser as StainNormaliser

    __version__: str

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "_version": ["__version__"],
        "analysis.classify": ["TypeClassifier", "train"],
        "analysis.compare": ["compare"],
        "analysis.evaluation": ["evaluate"],
        "analysis.figures": ["figures"],
        "analysis.smears": ["count_smears"],
        "datasets": ["datasets"],
        "learning.profiler": ["Profiler", "fit"],
        "learning.psd": ["PSD"],
        "model.model": ["Model", "load", "profile"],
        "model.profiles": ["Profiles"],
        "model.sparse": ["sparse_encode"],
        "report.label": ["write_label_page"],
        "report.page": ["write_report"],
        "report.smear": ["write_smear"],
        "scale.shards": ["shards"],
        "smear.stain": ["StainNormaliser"],
    },
)
