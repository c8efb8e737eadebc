"""What results of an evaluation have in common: tables of types for people and programs."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from wbcprof._shown import Shown
from wbcprof.analysis.figures import FigureFiles
from wbcprof.files import JSON, json_value, replacing, visible, write_rows

if TYPE_CHECKING:
    from pandas import DataFrame


class Scores(Shown, ABC):
    """A dataclass of figures, and a table with a row for each type and for their averages."""

    @abstractmethod
    def _rows(self) -> list[dict[str, Any]]:
        """Rows of the table, types first; None where a figure is undefined."""

    @abstractmethod
    def to_text(self) -> str:
        """A report for a terminal."""

    def to_dict(self) -> dict[str, Any]:
        """All fields, as a new dict of what JSON knows."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        found: dict[str, Any] = json.loads(json.dumps(held, default=json_value, allow_nan=False))
        return found

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict` as JSON; the file is whole or absent."""
        with replacing(path, JSON) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    def to_pandas(self) -> DataFrame:
        """The table as a `pandas.DataFrame`, indexed by the name of the row; NaN where a figure is
        undefined."""
        import pandas as pd

        return pd.DataFrame(self._rows()).set_index("type")

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the table as CSV, or as what the suffix says (parquet, JSON lines)."""
        rows = self._rows()
        write_rows(path, list(rows[0]), rows)

    @abstractmethod
    def _draw(self, files: FigureFiles) -> None:
        """Draw what there is to see."""

    def save_figures(
        self,
        figure_folder: str | os.PathLike[str],
        *,
        figure_format: str = "pdf",
        figure_width: float | None = None,
    ) -> None:
        """Draw confusion, and F1 where it is beside that of a baseline, into a folder, which is
        made where it does not exist.

        Parameters
        ----------
        figure_folder : path
        figure_format : {"pdf", "svg", "png"}
        figure_width : float, optional
            See `wbcprof.figures.save`.
        """
        self._draw(FigureFiles(figure_folder, figure_format, figure_width))

    def to_latex(self) -> str:
        """The table in LaTeX, for the package booktabs: numbers with three decimals."""
        table = self.to_pandas()
        table.columns = [name.replace("_", " ") for name in table.columns]
        table = table.rename(index=visible)
        text: str = table.to_latex(float_format="%.3f", na_rep="--", escape=True)
        return text


def figure(value: float | None, digits: int = 3) -> str:
    """A number for a terminal; a dash where it is undefined."""
    return "-" if value is None else f"{value:.{digits}f}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
