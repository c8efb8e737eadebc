"""Everything about a set of cells, on one page."""

from typing import TYPE_CHECKING

from wbcprof._lazy import attach

if TYPE_CHECKING:  # what `__getattr__` gives
    from wbcprof.report.label import write_label_page as write_label_page
    from wbcprof.report.monitor import write_monitor as write_monitor
    from wbcprof.report.page import write_report as write_report
    from wbcprof.report.smear import write_smear as write_smear

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "label": ["write_label_page"],
        "monitor": ["write_monitor"],
        "page": ["write_report"],
        "smear": ["write_smear"],
    },
)
