"""Profiles to meaning: types, differences, counts, figures."""

from typing import TYPE_CHECKING

from wbcprof._lazy import attach

if TYPE_CHECKING:  # what `__getattr__` gives
    from wbcprof.analysis import compare as compare
    from wbcprof.analysis import figures as figures
    from wbcprof.analysis.charts import Chart as Chart
    from wbcprof.analysis.charts import moving_average as moving_average
    from wbcprof.analysis.charts import westgard as westgard
    from wbcprof.analysis.classify import FewImagesWarning as FewImagesWarning
    from wbcprof.analysis.classify import TypeClassifier as TypeClassifier
    from wbcprof.analysis.classify import rank_signatures as rank_signatures
    from wbcprof.analysis.classify import train as train
    from wbcprof.analysis.counting import UnknownTypeWarning as UnknownTypeWarning
    from wbcprof.analysis.embedding import embed as embed
    from wbcprof.analysis.evaluation import Evaluation as Evaluation
    from wbcprof.analysis.evaluation import evaluate as evaluate
    from wbcprof.analysis.exemplars import Exemplars as Exemplars
    from wbcprof.analysis.exemplars import Place as Place
    from wbcprof.analysis.exemplars import find_exemplars as find_exemplars
    from wbcprof.analysis.external import ExternalEvaluation as ExternalEvaluation
    from wbcprof.analysis.external import evaluate_external as evaluate_external
    from wbcprof.analysis.grouping import Groups as Groups
    from wbcprof.analysis.grouping import group_profiles as group_profiles
    from wbcprof.analysis.labelling import SpreadLabels as SpreadLabels
    from wbcprof.analysis.labelling import spread_labels as spread_labels
    from wbcprof.analysis.monitoring import Flag as Flag
    from wbcprof.analysis.monitoring import Monitor as Monitor
    from wbcprof.analysis.monitoring import SlideSummary as SlideSummary
    from wbcprof.analysis.monitoring import summarise as summarise
    from wbcprof.analysis.naming import ClassifiedShards as ClassifiedShards
    from wbcprof.analysis.naming import classify_to_shards as classify_to_shards
    from wbcprof.analysis.novelty import NamedCells as NamedCells
    from wbcprof.analysis.novelty import SetCheck as SetCheck
    from wbcprof.analysis.novelty import StrangeCellsWarning as StrangeCellsWarning
    from wbcprof.analysis.novelty import check_set as check_set
    from wbcprof.analysis.novelty import name_cells as name_cells
    from wbcprof.analysis.quality import flag_images as flag_images
    from wbcprof.analysis.raters import RaterAgreement as RaterAgreement
    from wbcprof.analysis.raters import compare_raters as compare_raters
    from wbcprof.analysis.slides import read_slides as read_slides
    from wbcprof.analysis.smears import NamedCell as NamedCell
    from wbcprof.analysis.smears import SeenField as SeenField
    from wbcprof.analysis.smears import SmearCount as SmearCount
    from wbcprof.analysis.smears import SmearResult as SmearResult
    from wbcprof.analysis.smears import count_smears as count_smears
    from wbcprof.analysis.suggestion import Suggestion as Suggestion
    from wbcprof.analysis.suggestion import suggest as suggest

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "charts": ["Chart", "moving_average", "westgard"],
        "classify": ["FewImagesWarning", "TypeClassifier", "rank_signatures", "train"],
        "compare": ["compare"],
        "counting": ["UnknownTypeWarning"],
        "embedding": ["embed"],
        "evaluation": ["Evaluation", "evaluate"],
        "exemplars": ["Exemplars", "Place", "find_exemplars"],
        "external": ["ExternalEvaluation", "evaluate_external"],
        "figures": ["figures"],
        "grouping": ["Groups", "group_profiles"],
        "labelling": ["SpreadLabels", "spread_labels"],
        "monitoring": ["Flag", "Monitor", "SlideSummary", "summarise"],
        "naming": ["ClassifiedShards", "classify_to_shards"],
        "novelty": ["NamedCells", "SetCheck", "StrangeCellsWarning", "check_set", "name_cells"],
        "quality": ["flag_images"],
        "raters": ["RaterAgreement", "compare_raters"],
        "slides": ["read_slides"],
        "smears": ["NamedCell", "SeenField", "SmearCount", "SmearResult", "count_smears"],
        "suggestion": ["Suggestion", "suggest"],
    },
)
