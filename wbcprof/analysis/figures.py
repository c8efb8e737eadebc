"""Every figure of the paper, one function each: data in, matplotlib Axes out.

Functions take arrays and label lists, or what this package returned, and an optional ``ax``; they
train nothing. Without ``ax`` a figure of its own is made, outside pyplot: nothing is registered or
shown, no display is needed, and `save` writes it. A figure of several Axes returns `Panels`. Text
that comes from data is drawn literally (``$`` starts no formula).

Labels: one per cell. None, an empty string or NaN counts as ``"unlabelled"`` (grey, listed last);
``labels=None`` makes every cell so. Types are listed alphabetically, in the same colours and with
the same markers in every figure over the same types. Bad input raises ValueError.

Examples
--------
A figure for a file, as wide as a column of a journal:

>>> from pathlib import Path
>>> from tempfile import TemporaryDirectory
>>> import wbcprof
>>> ax = wbcprof.figures.confusion([[9, 1], [0, 10]], ["lymphocyte", "neutrophil"])
>>> with TemporaryDirectory() as home:
...     wbcprof.figures.save(ax, f"{home}/confusion.pdf", width=85)
...     Path(home, "confusion.pdf").read_bytes()[1:4]
b'PDF'

Figures beside one another, on Axes that you made:

>>> from matplotlib.figure import Figure
>>> left, right = Figure(layout="constrained").subplots(1, 2)
>>> ax = wbcprof.figures.confusion([[9, 1], [0, 10]], ["lymphocyte", "neutrophil"], ax=left)
>>> ax = wbcprof.figures.f1_bars({"lymphocyte": (0.95, 0.02), "neutrophil": (0.95, 0.01)}, ax=right)
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from wbcprof._shown import Shown
from wbcprof.analysis.agreement import (
    bland_altman,
    line_band,
    mean_and_difference,
    passing_bablok,
)
from wbcprof.checks import UNLABELLED, Choice, Integer, Maybe, Real, check, numbers, unmasked
from wbcprof.checks import label_names as _names
from wbcprof.checks import sorted_types as _types
from wbcprof.files import FIGURE_FORMATS, FIGURES, check_output, replacing
from wbcprof.smear.canonical import PARTS
from wbcprof.threads import alone

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from wbcprof.analysis.exemplars import Exemplars

__all__ = [
    "accuracy_coverage",
    "calibration",
    "confusion",
    "difference_plot",
    "embedding",
    "exemplars",
    "f1_bars",
    "heatmap",
    "learning_curve",
    "mean_profiles",
    "method_line",
    "reconstructions",
    "response_map",
    "save",
    "signature_mosaic",
    "type_colours",
]

# Okabe and Ito (2008), then the muted scheme of Paul Tol: both safe for colour-blind readers.
PALETTE = (
    "#0072B2 #E69F00 #009E73 #D55E00 #CC79A7 #56B4E9 #F0E442 #000000 "
    "#332288 #88CCEE #44AA99 #117733 #999933 #DDCC77 #CC6677 #882255 #AA4499"
).split()
MARKERS = "os^DvPX"
FRAME_RED, DASH = "#D00000", "\N{EN DASH}"
TEXT, SMALL = 8, 7
N_FRAMED = 256
MAX_LEGEND, MAX_PANELS, MAX_BARS, MAX_NUMBERS, MAX_TICKS, MAX_CURVES = 20, 24, 40, 30, 60, 10
PRINT_DPI = 300
PART_COLOURS = ("#332288", "#CC6677", "#88CCEE", "#F2F2F2")
_AMID = 5  # patches: what is shown about an exemplar
AXIS_NAMES = {"tsne": "t-SNE", "lda": "LD", "umap": "UMAP", "pca": "PC"}

RULES = {
    "n_per_type": Integer(),
    "n_top": Integer(),
    "n_framed": Maybe(Integer(0)),
    "n_cells": Integer(2),
    "n_bins": Integer(),
    "clip": Real(above=0),
    "figure_format": Choice(FIGURE_FORMATS),
    "width": Maybe(Real(least=60, most=500)),
    "method": Choice(tuple(AXIS_NAMES)),
}


@dataclass(frozen=True, repr=False)
class Panels(Shown):
    """A figure of several Axes: the frame they lie in, and each of them by name."""

    frame: Axes
    parts: dict[str, Axes]

    def _told(self) -> dict[str, Any]:
        return {"parts": list(self.parts)}

    @property
    def figure(self) -> Figure | SubFigure:
        return self.frame.figure


def save(drawn: Axes | Panels, path: str | os.PathLike[str], *, width: float | None = None) -> None:
    """Write a figure; the file is whole or absent.

    Text stays text, which journals ask for and programs can edit: PDF holds TrueType fonts, SVG
    names them.

    Parameters
    ----------
    drawn : Axes or Panels
        What a function of this module returned. All that lies in its figure is written.
    path : path
        ``.pdf``, ``.svg`` or ``.png`` (300 dots per inch).
    width : float, optional
        Of the figure, 60 to 500 mm; its height changes with it, letters keep their size. A column
        of a journal is about 85 mm, a page 180. Default: as it was drawn.

    Raises
    ------
    ValueError
        Another suffix or width.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import wbcprof
    >>> ax = wbcprof.figures.f1_bars({"lymphocyte": (0.95, 0.02), "neutrophil": (0.93, 0.01)})
    >>> with TemporaryDirectory() as home:
    ...     wbcprof.figures.save(ax, f"{home}/f1.svg", width=85)
    ...     "neutrophil</text>" in Path(home, "f1.svg").read_text()
    True
    """
    check(RULES, width=width)
    kind = check_output(path, FIGURES).suffix.lower().removeprefix(".") or "pdf"
    content = picture_of(drawn, kind, dpi=PRINT_DPI, width=width)
    with replacing(path, FIGURES) as temporary:
        temporary.write_bytes(content)


@dataclass(frozen=True)
class FigureFiles:
    """Where figures are written, and how; the folder is made."""

    folder: str | os.PathLike[str]
    kind: str = "pdf"
    width: float | None = None

    def __post_init__(self) -> None:
        check(RULES, figure_format=self.kind, width=self.width)
        os.makedirs(self.folder, exist_ok=True)

    def save(self, drawn: Axes | Panels, name: str) -> None:
        save(drawn, Path(self.folder) / f"{name}.{self.kind}", width=self.width)


def picture_of(
    drawn: Axes | Panels, kind: str, *, width: float | None = None, **options: Any
) -> bytes:
    """The file that `save` writes."""
    from matplotlib import rc_context

    figure: Any = drawn.figure.figure
    size, stream = figure.get_size_inches(), BytesIO()
    if width is not None:
        figure.set_size_inches(size * (width / 25.4 / size[0]))
    texts: Any = {"pdf.fonttype": 42, "svg.fonttype": "none"}
    try:
        with alone(), rc_context(texts), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # drawn as a box
            figure.savefig(stream, format=kind, **options)
    finally:
        figure.set_size_inches(size)
    return stream.getvalue()


def type_colours(types: Iterable[Any]) -> dict[str, str]:
    """Colour of each distinct type, as ``#RRGGBB``; the same set gives the same colours.

    After 17 types the palette starts again (markers, of which there are 7, still differ then);
    ``"unlabelled"`` is always grey.

    Examples
    --------
    >>> import wbcprof
    >>> wbcprof.figures.type_colours(["neutrophil", "lymphocyte", None, "neutrophil"])
    {'lymphocyte': '#0072B2', 'neutrophil': '#E69F00', 'unlabelled': '#999999'}
    """
    colours = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(_types(_names(types)))}
    return {name: "#999999" if name == UNLABELLED else c for name, c in colours.items()}


def signature_colours(signatures: ArrayLike) -> np.ndarray:
    """Signatures as colours to look at: ``0.5 + 0.5 v / max|v|``, for each one by itself.

    Zero is mid grey; brighter than grey adds light in that channel, darker takes it away.

    Parameters
    ----------
    signatures : (h, p, p, 3) or (h, p, p, 1) float
        Signatures mapped back to RGB pixel space (without whitening; inverted or optical-density
        ones with the sign turned, so that darker stain is darker here).

    Returns
    -------
    (h, p, p, 3) float64 in [0, 1]
    """
    values = numbers(signatures, "signatures")
    if values.ndim != 4 or values.shape[1] != values.shape[2] or values.shape[3] not in (1, 3):
        raise ValueError(f"signatures must have shape (h, p, p, 3 or 1), got {values.shape}")
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError("signatures must be finite and at least one; found none, NaN or infinity")
    most = np.abs(values).max(axis=(1, 2, 3), keepdims=True)
    shown = 0.5 + 0.5 * values / np.where(most > 0, most, 1)
    return np.clip(np.broadcast_to(shown, (*values.shape[:3], 3)), 0, 1)


def signature_mosaic(
    signatures: ArrayLike,
    order: ArrayLike | None = None,
    n_framed: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Signatures as tiles, the best first and framed in red where they are ranked (paper, Fig. 1c).

    Parameters
    ----------
    signatures : (h, p, p, 3) float
        See `signature_colours`, which also states how values become colours.
    order : (k,) int, optional
        Signature indices, most important first, as `wbcprof.analysis.rank_signatures` gives them;
        only those named are drawn. Default: as they come, and nothing is said of a rank.
    n_framed : int, optional
        How many of the first are framed, all when there are fewer; 0 for no frame. Default: 256 of
        an order, none without.

    Examples
    --------
    >>> import wbcprof
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(2, size=48)  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1)
    >>> profiles = model.profile(cells.images)
    >>> order, _ = wbcprof.analysis.rank_signatures(profiles, cells.labels)
    >>> ax = wbcprof.figures.signature_mosaic(model.signatures, order, n_framed=3)
    >>> ax.get_xlabel()
    '8 signatures, best first; first 3 framed'
    >>> wbcprof.figures.signature_mosaic(model.signatures).get_xlabel()
    '8 signatures'
    """
    from matplotlib.patches import Polygon

    colours = signature_colours(signatures)
    colours = colours[_rank(order, len(colours))]
    n, p = colours.shape[:2]
    columns = int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    pitch = p + max(1, p // 10)
    tiles = np.ones((rows * columns, pitch, pitch, 4)) * [1, 1, 1, 0]
    tiles[:n, :p, :p] = np.concatenate([colours, np.ones((n, p, p, 1))], axis=3)
    picture = tiles.reshape(rows, columns, pitch, pitch, 4).swapaxes(1, 2)

    ax = _axes(ax, (6, 6 * rows / columns + 0.3))
    extent = (0, columns, rows, 0)
    ax.imshow(picture.reshape(rows * pitch, columns * pitch, 4), extent=extent)
    text = f"{n:,} signatures{'' if order is None else ', best first'}"
    check(RULES, n_framed=n_framed)
    if n_framed is None:
        n_framed = 0 if order is None else N_FRAMED
    n_framed = min(n_framed, n)
    if n_framed > 0:
        text += f"; first {n_framed:,} framed"
        width = min(columns, n_framed)
        full, rest = divmod(n_framed, width)
        corners = [(0, 0), (width, 0), (width, full), (rest, full), (rest, full + (rest > 0))]
        corners = np.array([*corners, (0, corners[-1][1])]) - (1 - p / pitch) / 2
        style: dict[str, Any] = {"edgecolor": FRAME_RED, "linewidth": 1.8, "clip_on": False}
        ax.add_patch(Polygon(corners, fill=False, **style))
    _bare(ax, text)
    return ax


def exemplars(found: Exemplars, signatures: ArrayLike, ax: Axes | None = None) -> Axes:
    """What signatures are, in cells: of each the signature, the places that call it up most, framed
    amid their cells, and the parts of a cell that it lives in.

    Parameters
    ----------
    found : Exemplars
        From `wbcprof.analysis.find_exemplars`; the first 24 signatures are drawn.
    signatures : (h, p, p, 3) float
        `Model.signatures`; see `signature_colours`.

    Examples
    --------
    >>> import wbcprof
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(2, size=72)  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=8, n_patches=400, max_iter=1)
    >>> found = wbcprof.analysis.find_exemplars(model, cells.images, [5, 2], n_exemplars=3)
    >>> ax = wbcprof.figures.exemplars(found, model.signatures)
    >>> [tick.get_text() for tick in ax.get_yticklabels()]
    ['no. 6', 'no. 3']
    """
    from matplotlib.patches import Rectangle

    colours, p = signature_colours(signatures), found.patch_size
    shown = found.signatures[:MAX_PANELS]
    n_places = max(1, max(len(places) for places in found.places))
    first, end = 1.15, 1.25 + n_places  # of the places, and behind them
    ax = _axes(ax, (0.62 * (end + 2.4) + 0.6, 0.68 * len(shown) + 0.5))
    for row, signature in enumerate(shown):
        y = row + 0.5
        ax.imshow(colours[signature], extent=(0.04, 0.96, y + 0.46, y - 0.46))
        for column, place in enumerate(found.places[row]):
            cell, reach = found.cells[place.cell], _AMID * p
            side = min(reach, *cell.shape[:2])
            top = min(max(place.row + p // 2 - side // 2, 0), cell.shape[0] - side)
            left = min(max(place.column + p // 2 - side // 2, 0), cell.shape[1] - side)
            x, unit = first + column, 0.92 / side
            amid = cell[top : top + side, left : left + side]
            ax.imshow(_image(amid), extent=(x + 0.04, x + 0.96, y + 0.46, y - 0.46))
            corner = x + 0.04 + unit * (place.column - left), y - 0.46 + unit * (place.row - top)
            frame = Rectangle(corner, unit * p, unit * p, fill=False, edgecolor="black", lw=1.6)
            ax.add_patch(frame)
            ax.add_patch(Rectangle(corner, unit * p, unit * p, fill=False, edgecolor="w", lw=0.7))
        if found.parts is not None:
            start = end
            for share, colour in zip(found.parts[row], PART_COLOURS, strict=True):
                ax.barh(y, 2.2 * share, 0.5, left=start, color=colour, edgecolor="0.4", lw=0.4)
                start += 2.2 * share
    if found.parts is not None:
        for name, colour in zip(PARTS, PART_COLOURS, strict=True):
            ax.barh(0, 0, color=colour, edgecolor="0.4", lw=0.4, label=name)
        ax.legend(
            loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=SMALL, frameon=False,
            handlelength=1, columnspacing=1,
        )  # fmt: skip
        end += 2.2
    left = len(found.signatures) - len(shown)
    text = f"where {found.n_cells:,} cells call each signature up most"
    _bare(ax, text + (f"; +{left:,} more signatures" if left else ""))
    ax.set(xlim=(0, end), ylim=(len(shown), 0), aspect="equal")
    ax.set_yticks(np.arange(len(shown)) + 0.5, [f"no. {s + 1}" for s in shown], fontsize=TEXT)
    ax.tick_params(length=0)
    return ax


def reconstructions(
    originals: Sequence[ArrayLike] | np.ndarray,
    rebuilt: Sequence[ArrayLike] | np.ndarray,
    labels: Iterable[Any] | None = None,
    n_per_type: int = 6,
    ax: Axes | None = None,
) -> Axes:
    """Cells and their reconstruction from the signatures, two rows per type (paper, Fig. 1b).

    Parameters
    ----------
    originals, rebuilt : sequences of (H, W, 3)
        uint8, or float in [0, 1] (clipped); sizes may differ between cells, not within a pair.
    labels : sequence, optional
        Type of each cell. After 24 types the rest is only counted.
    n_per_type : int
        The first so many cells of each type are drawn.

    Examples
    --------
    >>> import wbcprof
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(2, size=48)  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1)
    >>> rebuilt = [model.reconstruct(image) for image in cells.images]
    >>> read = [model.as_read(image) for image in cells.images]
    >>> ax = wbcprof.figures.reconstructions(read, rebuilt, cells.labels, n_per_type=2)
    >>> [tick.get_text() for tick in ax.get_yticklabels()][:3]
    ['atypical_lymphocyte', 'reconstruction', 'basophil']
    """
    check(RULES, n_per_type=n_per_type)
    if len(originals) == 0:
        raise ValueError("expected at least one cell, got none")
    if len(originals) != len(rebuilt):
        raise ValueError(
            f"Length of rebuilt ({len(rebuilt)}) must match number of originals ({len(originals)})"
        )
    names = _names(labels, len(originals))
    types = _types(names)
    chosen: dict[str, list[int]] = {name: [] for name in types[:MAX_PANELS]}
    for i, name in enumerate(names):
        if name in chosen and len(chosen[name]) < n_per_type:
            chosen[name].append(i)
    columns = max(map(len, chosen.values()))
    ax = _axes(ax, (0.85 * columns + 1.2, 1.6 * len(chosen) + 0.1))
    for row, cells in enumerate(chosen.values()):
        for column, i in enumerate(cells):
            pair = _image(originals[i]), _image(rebuilt[i])
            if pair[0].shape != pair[1].shape:
                raise ValueError(f"cell {i}: original is {pair[0].shape}, rebuilt {pair[1].shape}")
            h, w = 0.48 * np.array(pair[0].shape[:2]) / max(pair[0].shape[:2])
            x = column + 0.5
            for y, image in zip((2 * row + 0.5, 2 * row + 1.48), pair, strict=True):
                ax.imshow(image, extent=(x - w, x + w, y + h, y - h))
    _bare(ax, _more(types, chosen))
    ax.set(xlim=(0, columns), ylim=(2 * len(chosen), 0), aspect="equal")
    texts = [text for name in chosen for text in (_literal(name), "reconstruction")]
    ax.set_yticks(np.arange(len(texts)) + 0.5, texts, fontsize=TEXT)
    for label in ax.get_yticklabels()[1::2]:
        label.set_color("0.45")
    ax.tick_params(length=0)
    return ax


def mean_profiles(
    values: ArrayLike,
    labels: Iterable[Any] | None,
    order: ArrayLike | None = None,
    n_top: int = 256,
    columns: str = "feature",
    ax: Axes | None = None,
) -> Panels:
    """Mean profile over the top features, one panel per type, on one scale (paper, Fig. 1d).

    Parameters
    ----------
    values : (n, h) float
        Profiles, one cell per row.
    order : (k,) int, optional
        Columns of `values`, most important first. Default: by the share of a feature's variance
        that lies between types; as they come where there are fewer than two.
    n_top : int
        How many of the first are drawn, all when there are fewer.
    columns : str
        What one column of `values` is, as the axis names it. A feature is a pooled code: its mean
        over cells says how much of a signature they take only where the pool is "mean".

    Returns
    -------
    Panels
        One part per type, for the first 24 types; the rest is only counted.

    Examples
    --------
    >>> import numpy as np
    >>> import wbcprof
    >>> values = np.random.default_rng(0).random((20, 6))
    >>> types = np.repeat(["lymphocyte", "neutrophil"], 10)
    >>> panels = wbcprof.figures.mean_profiles(values, types, n_top=4)
    >>> sorted(panels.parts)
    ['lymphocyte', 'neutrophil']
    >>> print(panels.parts["neutrophil"].get_xlabel())
    feature, best first; bars:
    its mean over cells
    """
    values, names = check_cells(values, labels)
    top, rank = _top(values, names, order, n_top)
    types, colours = _types(names), type_colours(names)
    shown = types[:MAX_PANELS]
    means = {name: values[np.ix_(names == name, top)].mean(axis=0) for name in shown}
    low = min(0.0, *(mean.min() for mean in means.values()))
    high = max(0.0, *(mean.max() for mean in means.values()))
    margin = 0.05 * ((high - low) or 1)

    frame, parts = _axes(ax, (6.5, 0.7 * len(shown) + 0.6)), {}
    frame.axis("off")
    for i, (name, mean) in enumerate(means.items()):
        panel = frame.inset_axes((0, 1 - (i + 0.88) / len(shown), 1, 0.88 / len(shown)))
        panel.stairs(mean, np.arange(len(top) + 1) + 0.5, fill=True, color=colours[name])
        panel.set(xlim=(0.5, len(top) + 0.5), ylim=(low - margin * (low < 0), high + margin))
        panel.locator_params(axis="y", nbins=2)
        panel.locator_params(axis="x", integer=True)
        panel.tick_params(labelsize=SMALL, labelbottom=name == shown[-1])
        _dress(panel, "", f"{_literal(name)}\n(n = {(names == name).sum():,})")
        panel.yaxis.label.set(rotation=0, ha="right", va="center")
        parts[name] = panel
    lines = [f"{_literal(columns)}{rank}; bars:", "its mean over cells", _more(types, shown)]
    panel.set_xlabel("\n".join(filter(None, lines)), fontsize=TEXT, ha="right", x=1)
    return Panels(frame, parts)


def heatmap(
    values: ArrayLike,
    labels: Iterable[Any] | None,
    n_top: int = 256,
    order: ArrayLike | None = None,
    clip: float = 3.0,
    n_cells: int = 2000,
    random_state: int = 0,
    columns: str = "feature",
    ax: Axes | None = None,
) -> Panels:
    """Profiles as a clustered heatmap with a type colour bar (paper, Fig. 2a).

    Each feature is brought to zero mean and unit variance over the cells drawn (a constant one
    to zero) and clipped at +-`clip`; rows (cells) and columns (features) are ordered by Ward
    clustering of those values.

    Parameters
    ----------
    values, labels, order, n_top, columns
        As in `mean_profiles`; two cells at least, one has no spread to normalise by.
    n_cells : int
        With more cells a random sample of so many is drawn, and the axis says so: clustering
        needs memory quadratic in the cells.

    Returns
    -------
    Panels
        Parts "heatmap", "types", "colorbar", and "rows" and "columns" (the trees).

    Examples
    --------
    >>> import numpy as np
    >>> import wbcprof
    >>> values = np.random.default_rng(0).random((20, 6))
    >>> types = np.repeat(["lymphocyte", "neutrophil"], 10)
    >>> panels = wbcprof.figures.heatmap(values, types)
    >>> panels.parts["heatmap"].get_xlabel()
    '6 features across, 20 cells down'
    """
    from matplotlib.colors import to_rgb

    values, names = check_cells(values, labels)
    if len(values) < 2:
        raise ValueError("a heatmap needs at least 2 cells to cluster and normalise, got 1")
    check(RULES, n_cells=n_cells, clip=clip)
    top, _ = _top(values, names, order, n_top)
    values, n_all = values[:, top], len(values)
    text = f" {n_all:,} cells"
    if n_all > n_cells:
        sample = np.random.default_rng(random_state).choice(n_all, n_cells, replace=False)
        values, names = values[sample], names[sample]
        text = f"\n{n_cells:,} cells drawn at random from {n_all:,}"
    varies = np.ptp(values, axis=0) > 0
    scores = np.where(varies, values - values.mean(axis=0), 0)
    scores = np.clip(scores / np.where(varies, values.std(axis=0), 1), -clip, clip)
    n, h = scores.shape

    frame = _axes(ax, (7, 5.5))
    frame.axis("off")
    main = frame.inset_axes((0.14, 0, 0.86, 0.88))
    bar = frame.inset_axes((0.11, 0, 0.022, 0.88))
    row_tree = frame.inset_axes((0, 0, 0.105, 0.88))
    column_tree = frame.inset_axes((0.14, 0.89, 0.86, 0.11))
    scale = frame.inset_axes((1.03, 0, 0.022, 0.3))
    down, across = _draw_tree(row_tree, scores, True), _draw_tree(column_tree, scores.T, False)

    style: dict[str, Any] = {"aspect": "auto", "interpolation": "auto" if h > 100 else "nearest"}
    style |= {"cmap": "RdBu_r", "vmin": -clip, "vmax": clip}
    picture = main.imshow(scores[np.ix_(down, across)], extent=(0, h, n, 0), **style)
    types, colours = _types(names), type_colours(names)
    stripe = np.array([to_rgb(colours[name]) for name in names[down]])[:, None]
    bar.imshow(stripe, aspect="auto", extent=(0, 1, n, 0), interpolation="nearest")
    _bare(main, f"{h:,} {_literal(columns)}{'' if h == 1 else 's'} across,{text} down")
    _bare(bar)
    _colour_bar(picture, "z-score", cax=scale)
    _type_legend(frame, types, anchor=(1.015, 1))
    parts = {"heatmap": main, "types": bar, "rows": row_tree, "columns": column_tree}
    return Panels(frame, {**parts, "colorbar": scale})


def embedding(
    points: ArrayLike,
    labels: Iterable[Any] | None,
    method: str = "tsne",
    random_state: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Cells in two dimensions, by type (paper, Fig. 2b: t-SNE, 2c: LDA).

    Each type has a colour and a marker of its own. Cells are drawn in random order, so that no type
    covers another for being drawn last, as far as markers differ.

    Parameters
    ----------
    points : (n, 2) float
        As `wbcprof.analysis.embed` gives them.
    method : {"tsne", "lda", "umap", "pca"}
        By which; it names the axes.

    Examples
    --------
    >>> import numpy as np
    >>> import wbcprof
    >>> values = np.random.default_rng(0).random((20, 6))
    >>> types = np.repeat(["lymphocyte", "neutrophil"], 10)
    >>> points = wbcprof.analysis.embed(values, method="pca")
    >>> ax = wbcprof.figures.embedding(points, types, method="pca")
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('PC 1', 'PC 2')
    """
    check(RULES, method=method)
    points = numbers(points, "points")
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(f"points must be finite, of shape (cells, 2), got {points.shape}")
    names = _names(labels, len(points))
    types, colours = _types(names), type_colours(names)
    marker = {name: _marker(i) for i, name in enumerate(types)}
    ax = _axes(ax, (5.2, 4))
    size = float(np.clip(6000 / len(points), 4, 25))
    shuffled = np.random.default_rng(random_state).permutation(len(points))
    for shape in dict.fromkeys(marker.values()):
        chosen = [i for i in shuffled if marker[names[i]] == shape]
        fill = [colours[names[i]] for i in chosen]
        x, y = points[chosen].T
        ax.scatter(x, y, s=size, c=fill, marker=shape, lw=0.2, edgecolors="white")
    one_discriminant = method == "lda" and len(set(types) - {UNLABELLED}) == 2
    axis = AXIS_NAMES[method]
    ax.set(xticks=[], yticks=[])
    _dress(ax, f"{axis} 1", "PC 1" if one_discriminant else f"{axis} 2")
    _type_legend(ax, types)
    return ax


def f1_bars(
    per_type: Any,
    average: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """F1 of each type and their average, with spread, methods side by side (paper, Fig. 3a).

    Parameters
    ----------
    per_type
        One method: an `Evaluation`, its ``baseline`` or ``per_type``, ``{type: (mean, std)}``, or
        a list of runs, each ``{type: F1}`` (drawn as mean and sample standard deviation, within 0
        and 1; one run, no spread). Several: ``{method: any of these}``.
        An undefined F1 (NaN, or a type missing from a run) is left out of means, and a dash where
        there is no other. After 40 types the rest is only counted, but stays in the average.
    average : (mean, std), or {method: (mean, std)}, optional
        Default: that of the `Evaluation`; from runs, mean and spread of each run's average over
        types; from means, their mean without a spread, which they do not determine.

    Examples
    --------
    Two methods, by mean and deviation:

    >>> import wbcprof
    >>> profiles = {"lymphocyte": (0.95, 0.02), "neutrophil": (0.93, 0.01)}
    >>> histogram = {"lymphocyte": (0.81, 0.05), "neutrophil": (0.75, 0.04)}
    >>> ax = wbcprof.figures.f1_bars({"profiles": profiles, "colour histogram": histogram})
    >>> [tick.get_text() for tick in ax.get_xticklabels()]
    ['lymphocyte', 'neutrophil', 'average']
    """
    several = isinstance(per_type, Mapping) and all(map(_is_method, per_type.values()))
    methods: Any = per_type if several else {"": per_type}
    if not methods or not all(methods.values()):
        raise ValueError("per_type is empty: expected the F1 of at least one type")
    averages: Any = average if several else {"": average}
    if average is not None and set(averages) != set(methods):
        raise ValueError(f"average must be given for {list(methods)}, got {list(averages)}")
    summaries = {method: _f1_summary(entry) for method, entry in methods.items()}

    types = _types([name for scores, _ in summaries.values() for name in scores])
    shown = types[:MAX_BARS]
    at = np.append(np.arange(len(shown)), len(shown) + 0.4)
    n_bars, width = len(at) * len(methods), 0.8 / len(methods)
    ax = _axes(ax, (float(np.clip(0.3 * max(n_bars, 2 * len(at)) + 1, 3.5, 9)), 2.8))
    error: dict[str, Any] = {"elinewidth": 0.8, "capsize": 2, "capthick": 0.8}
    drawn = []
    for i, (method, (scores, overall)) in enumerate(summaries.items()):
        overall = overall if average is None else averages[method]
        table = [scores.get(name, (np.nan, np.nan)) for name in shown]
        mean, std = np.array([*table, overall], dtype=float).T
        x, colour = at + (i - (len(methods) - 1) / 2) * width, PALETTE[i % len(PALETTE)]
        reach = np.minimum(std, mean), np.minimum(std, 1 - mean)
        drawn.append(ax.bar(x, mean, 0.94 * width, color=colour))
        bars = ax.errorbar(x, mean, reach, fmt="none", ecolor="black", **error)
        for line in (*bars.lines[1], *bars.lines[2]):
            line.set_clip_on(False)  # of a perfect F1, half of the line lies beyond the axes
        if n_bars <= 25:
            for place, m, up in zip(x, mean, np.nan_to_num(reach[1]), strict=True):
                text, height = (f"{m:.2f}", m + up) if np.isfinite(m) else (DASH, 0.0)
                style: dict[str, Any] = {"xytext": (0, 2), "textcoords": "offset points"}
                style |= {"ha": "center", "va": "bottom", "fontsize": SMALL - 1}
                ax.annotate(text, (place, height), annotation_clip=False, **style)
    _type_ticks(ax, "x", at, [*shown, "average"])
    ax.set(xlim=(-0.6, at[-1] + 0.6), ylim=(0, 1), yticks=np.linspace(0, 1, 6))
    _dress(ax, _more(types, shown), "F1")
    if several:
        columns = min(4, len(methods))
        anchor: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1.06)}
        anchor |= {"ncols": columns, "frameon": False, "fontsize": SMALL}
        ax.legend(drawn, map(_literal, methods), **anchor)
    return ax


def confusion(
    matrix: Any,
    type_names: Iterable[Any] | None = None,
    normalize: bool | str = False,
    ax: Axes | None = None,
) -> Axes:
    """Confusion matrix with the numbers in its cells (paper, Fig. 3b).

    Parameters
    ----------
    matrix : (k, k) float, Evaluation, or classifier
        Counts, true types down, called types across; those that are no whole numbers, such as means
        over runs, are written to one place. Of an `Evaluation` or its ``confusion``, the mean
        counts; of a classifier, what it called cells that were left out while it was learnt.
    type_names : (k,) names, optional
        Of a matrix; the others bring their own. Written for up to 60 types; the numbers for up to
        30.
    normalize : False, True, "true" or "called"
        False: counts. True or "true": each row as shares of its true type (recall on the
        diagonal). "called": each column as shares of its call (precision on the diagonal, the
        "normalized precision" of the paper). A row or column without cells shows dashes.

    Examples
    --------
    >>> import wbcprof
    >>> types = ["lymphocyte", "neutrophil"]
    >>> ax = wbcprof.figures.confusion([[9, 1], [2, 18]], types, normalize=True)
    >>> [text.get_text() for text in ax.texts]
    ['0.90', '0.10', '0.10', '0.90']

    What a classifier called cells that it had not seen; an `Evaluation` is given alike:

    >>> import numpy as np
    >>> labels = np.repeat(types, 10)
    >>> values = np.random.default_rng(0).random((20, 3))
    >>> values[10:, 2] += 2
    >>> classifier = wbcprof.TypeClassifier().fit(values, labels)
    >>> [text.get_text() for text in wbcprof.figures.confusion(classifier).texts]
    ['10', '0', '0', '10']
    """
    matrix, type_names = _confusion(matrix, type_names)
    counts, names = numbers(matrix, "matrix"), _names(type_names)
    k = len(names)
    if k == 0 or counts.shape != (k, k):
        raise ValueError(f"matrix must have shape ({k}, {k}) for {k} types, got {counts.shape}")
    if not (np.isfinite(counts).all() and (counts >= 0).all()):
        raise ValueError("matrix must hold finite counts of 0 or more")
    if normalize not in (False, True, "true", "called"):
        raise ValueError(f"normalize must be False, True, 'true' or 'called', got {normalize!r}")
    shown, most, what = counts, counts.max() or 1.0, "cells"
    if normalize:
        total = counts.sum(axis=0 if normalize == "called" else 1, keepdims=True)
        shown = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
        most, what = 1.0, f"share of the {'call' if normalize == 'called' else 'true type'}"
    size = float(np.clip(0.5 * k + 1.5, 2.8, 9))
    ax = _axes(ax, (size + 0.9, size))
    picture = ax.imshow(shown, cmap="Blues", vmin=0, vmax=most)
    points = SMALL if k <= 15 else SMALL - 2.5
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": points}
    places = 2 if normalize else int((counts % 1 != 0).any())
    for (row, column), value in np.ndenumerate(shown) if k <= MAX_NUMBERS else ():
        text = f"{value:,.{places}f}"
        colour = "white" if value > 0.55 * most else "black"
        ax.text(column, row, text.replace("nan", DASH), color=colour, **style)
    for side in "xy":
        _type_ticks(ax, side, np.arange(k), names)
    more = f" ({k:,} types)" if k > MAX_TICKS else ""
    ax.set_xlabel("called" + more, fontsize=TEXT)
    ax.set_ylabel("true" + more, fontsize=TEXT)
    ax.tick_params(length=0)
    _colour_bar(picture, what, ax=ax, shrink=0.6)
    return ax


def learning_curve(
    history: Any, terms: Sequence[str] = (), layer: int = 0, ax: Axes | None = None
) -> Axes:
    """Objective per training iteration, counted from 1; a gap where it is not finite.

    Parameters
    ----------
    history : Model, Profiler, PSD, or sequence of mappings
        What was learnt; or one mapping per iteration, each with the key "objective".
    terms : sequence of str
        Further keys to draw on the same scale, such as the terms the objective is the sum of.
    layer : int
        Of a `Model` or `Profiler`: which layer's.

    Examples
    --------
    >>> import wbcprof
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(2, size=48)  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=3)
    >>> ax = wbcprof.figures.learning_curve(model, terms=["reconstruction", "sparsity"])
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['objective', 'reconstruction', 'sparsity']
    """
    history = _history(history, layer)
    if len(history) == 0:
        raise ValueError("history is empty: expected one entry per iteration")
    ax = _axes(ax, (3.8, 2.8))
    keys, n = ("objective", *terms), len(history)
    for i, key in enumerate(keys):
        lacking = next((entry for entry in history if key not in entry), None)
        if lacking is not None:
            raise ValueError(f"history needs the key {key!r} throughout, got {[*lacking]}")
        heights = [float(entry[key]) for entry in history]
        style: dict[str, Any] = {"marker": _marker(i), "markersize": 3, "markevery": -(-n // 40)}
        style |= {"lw": 1 if i else 1.6, "color": PALETTE[i % len(PALETTE)]}
        ax.plot(np.arange(1, n + 1), heights, **style)
    if terms:
        ax.legend(ax.lines, map(_literal, keys), frameon=False, fontsize=SMALL)
    ax.set_xlim(0.5, n + 0.5)
    ax.locator_params(axis="x", integer=True)
    _dress(ax, "iteration", "objective")
    return ax


def response_map(
    image: ArrayLike, codes: ArrayLike, patch_size: int, step: int, ax: Axes | None = None
) -> Axes:
    """Where in one cell a signature responds: its codes drawn over the image.

    Each pixel takes the mean code of the windows that cover it; the stronger, the less of the
    cell shows through. Pixels that no window covers stay bare. Codes of both signs get a diverging
    scale around zero.

    Parameters
    ----------
    image : (H, W, 3) uint8
    codes : (rows, columns) float
        Code of the signature in the window with top left pixel ``(row * step, column * step)``;
        ``rows = (H - patch_size) // step + 1``, columns alike.
    patch_size, step : int
        Pixels.

    Examples
    --------
    Where a cell holds the first signature:

    >>> import wbcprof
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(2, size=48)  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1)
    >>> image, layer = cells.images[0], model.layers[0]
    >>> codes = model.codes(image)[:, :, 0]
    >>> ax = wbcprof.figures.response_map(model.as_read(image), codes, layer.patch_size, layer.step)
    >>> len(ax.images)  # the cell, and its codes over it
    2
    """
    image, codes = _image(image), numbers(codes, "codes")
    size = image.shape[:2]
    if not (1 <= patch_size <= min(size) and step >= 1):
        raise ValueError(
            f"patch_size must be 1 to {min(size)} and step at least 1, got {patch_size} and {step}"
        )
    grid = tuple((pixels - patch_size) // step + 1 for pixels in size)
    if codes.shape != grid or not np.isfinite(codes).all():
        raise ValueError(
            f"codes must be finite, of shape {grid} for an image of {size}, "
            f"patch_size {patch_size} and step {step}; got {codes.shape}"
        )
    covers = []
    for pixels, windows in zip(size, grid, strict=True):
        offset = np.arange(pixels)[:, None] - step * np.arange(windows)
        covers.append(((offset >= 0) & (offset < patch_size)).astype(np.float64))
    down, across = covers
    covering = np.outer(down.sum(axis=1), across.sum(axis=1))
    response = np.ma.masked_where(covering == 0, down @ codes @ across.T / np.maximum(covering, 1))
    strength = np.abs(response.filled(0))
    most, signed = strength.max() or 1.0, codes.min() < 0

    ax = _axes(ax, (4.2, 3.6 * size[0] / size[1]))
    ax.imshow(image)
    cmap, low = ("PuOr_r", -most) if signed else ("viridis", 0.0)
    overlay = ax.imshow(response, cmap=cmap, vmin=low, vmax=most, alpha=0.85 * strength / most)
    bar = _colour_bar(overlay, "mean code of the windows over a pixel", ax=ax, shrink=0.8)
    bar.solids.set_alpha(1)
    _bare(ax)
    return ax


def calibration(
    y_true: Iterable[Any],
    probabilities: ArrayLike,
    class_names: Iterable[Any],
    n_bins: int = 10,
    ax: Axes | None = None,
) -> Axes:
    """Reliability diagram: how often calls of a given probability are right.

    The heavy line is over the called (most probable) types, discs in proportion to the cells in
    each bin, with the expected calibration error (the mean gap to the diagonal, weighted by
    cells). Thin lines are of each type against the rest, for up to 10 types.

    Parameters
    ----------
    y_true : (n,) names
        Unlabelled cells are left out; a type not in `class_names` counts as called wrongly.
    probabilities : (n, k) float
        Rows sum to 1.
    class_names : (k,) names
    n_bins : int
        Bins of equal width over [0, 1]; empty ones are left out.

    Examples
    --------
    >>> import wbcprof
    >>> truth = ["lymphocyte", "lymphocyte", "neutrophil", "neutrophil"]
    >>> probabilities = [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.1, 0.9]]
    >>> types = ["lymphocyte", "neutrophil"]  # or classifier.classes_
    >>> ax = wbcprof.figures.calibration(truth, probabilities, types, n_bins=5)
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('predicted probability', 'observed frequency')
    """
    truth, probabilities, names = _calls(y_true, probabilities, class_names)
    check(RULES, n_bins=n_bins)
    right = probabilities.argmax(axis=1) == truth
    given, seen, count = _reliability(probabilities.max(axis=1), right, n_bins)
    share = count / count.sum()
    texts = [f"called type (ECE {share @ np.abs(given - seen):.3f})"]

    ax = _axes(ax, (4.9, 3.2))
    lines = ax.plot(given, seen, color="0.15", lw=1.8, zorder=3)
    ax.scatter(given, seen, s=6 + 120 * share, color="0.15", zorder=3, clip_on=False)
    colours = type_colours(names)
    for i, name in enumerate(names if len(names) <= MAX_CURVES else []):
        given, seen, _ = _reliability(probabilities[:, i], truth == i, n_bins)
        style: dict[str, Any] = {"marker": _marker(i), "markersize": 3, "clip_on": False}
        lines += ax.plot(given, seen, color=colours[name], lw=0.9, alpha=0.8, **style)
        texts.append(_literal(name))
    ax.plot([0, 1], [0, 1], color="0.6", lw=0.8, linestyle="--")
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1, 1)}
    ax.legend(lines, texts, frameon=False, fontsize=SMALL, **place)
    ax.set(xlim=(0, 1), ylim=(0, 1))
    _dress(ax, "predicted probability", "observed frequency")
    return ax


def accuracy_coverage(
    y_true: Iterable[Any],
    probabilities: ArrayLike,
    class_names: Iterable[Any],
    ax: Axes | None = None,
) -> Axes:
    """Accuracy when only the surest calls are kept, against the share of cells kept.

    Parameters are those of `calibration`. Cells of equal confidence are kept together.

    Examples
    --------
    >>> import wbcprof
    >>> truth = ["lymphocyte", "lymphocyte", "neutrophil", "neutrophil"]
    >>> probabilities = [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.1, 0.9]]
    >>> types = ["lymphocyte", "neutrophil"]  # or classifier.classes_
    >>> ax = wbcprof.figures.accuracy_coverage(truth, probabilities, types)
    >>> [text.get_text() for text in ax.texts]
    ['all cells: 0.750']
    """
    truth, probabilities, _ = _calls(y_true, probabilities, class_names)
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    kept = np.arange(1, len(order) + 1)
    ends = np.append(np.diff(confidence[order]) != 0, True)
    accuracy = (np.cumsum((probabilities.argmax(axis=1) == truth)[order]) / kept)[ends]

    ax = _axes(ax, (3.8, 2.8))
    marker = "o" if ends.sum() == 1 else None
    line: dict[str, Any] = {"lw": 1.6, "marker": marker, "clip_on": False}
    ax.plot(kept[ends] / len(order), accuracy, color=PALETTE[0], **line)
    place: dict[str, Any] = {"xytext": (-4, -12), "textcoords": "offset points", "ha": "right"}
    ax.annotate(f"all cells: {accuracy[-1]:.3f}", (1, accuracy[-1]), fontsize=SMALL, **place)
    room = max(1 - accuracy.min(), 0.02)
    ax.set(xlim=(0, 1), ylim=(max(0.0, 1 - 1.3 * room), 1))
    _dress(ax, "coverage (share of cells called)", "accuracy")
    return ax


def method_line(
    x: ArrayLike,
    y: ArrayLike,
    names: Sequence[str] = ("first method", "second method"),
    confidence: float = 0.95,
    ax: Axes | None = None,
) -> Axes:
    """Two methods' values of the same slides, with the line that relates them.

    The line is that of `wbcprof.compare.passing_bablok`, its band holds it at each x alone with the
    stated confidence, dashed is y = x.

    Parameters
    ----------
    x, y : (n,) float
        Of 10 slides at least.
    names : two names

    Examples
    --------
    >>> import numpy as np
    >>> import wbcprof
    >>> rng = np.random.default_rng(0)
    >>> x = rng.uniform(0.2, 0.8, 40)
    >>> y = x + rng.normal(0, 0.03, 40)
    >>> ax = wbcprof.figures.method_line(x, y, names=("by eye", "by model"))
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('by eye', 'by model')
    """
    first, second = _two(names)
    line = passing_bablok(x, y, confidence=confidence)
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    at = np.linspace(*_with_room(low, high), 200)
    text = (
        f"slope {line.slope:.3g} ({line.slope_low:.3g} to {line.slope_high:.3g})\n"
        f"intercept {line.intercept:.3g} ({line.intercept_low:.3g} to {line.intercept_high:.3g})"
    )

    ax = _axes(ax, (3.6, 3.6))
    ax.fill_between(at, *line_band(line, x, y, at), color=PALETTE[0], alpha=0.2, lw=0)
    ax.plot(at, at, color="0.4", lw=0.8, linestyle="--", label="y = x")
    ax.plot(at, line.intercept + line.slope * at, color=PALETTE[0], lw=1.6, label=text)
    ax.scatter(x, y, s=10, color="0.15", alpha=0.7, lw=0, zorder=3)
    ax.set(xlim=at[[0, -1]], ylim=at[[0, -1]], aspect="equal")
    ax.legend(frameon=False, fontsize=SMALL, loc="upper left")
    _dress(ax, _literal(first), _literal(second))
    return ax


def difference_plot(
    x: ArrayLike,
    y: ArrayLike,
    names: Sequence[str] = ("first method", "second method"),
    percent: bool = False,
    confidence: float = 0.95,
    ax: Axes | None = None,
) -> Axes:
    """By how much two methods differ on each slide, against the mean of both.

    Bias and limits of agreement are those of `wbcprof.compare.bland_altman`, each in the band of
    its interval; the thin line is the trend of the difference with the mean, where it is one.

    Parameters
    ----------
    x, y : (n,) float
        Of 10 slides at least.
    names : two names
    percent : bool
        Differences in percent of the mean.

    Examples
    --------
    >>> import numpy as np
    >>> import wbcprof
    >>> rng = np.random.default_rng(0)
    >>> x = rng.uniform(0.2, 0.8, 40)
    >>> y = x + rng.normal(0, 0.03, 40)
    >>> ax = wbcprof.figures.difference_plot(x, y, names=("by eye", "by model"))
    >>> ax.get_ylabel()
    'by model - by eye'
    """
    first, second = _two(names)
    found = bland_altman(x, y, percent=percent, confidence=confidence)
    mean, difference = mean_and_difference(
        np.asarray(x, np.float64), np.asarray(y, np.float64), percent
    )
    ax = _axes(ax, (4.6, 3.2))
    ax.axhline(0, color="0.4", lw=0.8, linestyle="--")
    for name, colour in (("bias", PALETTE[0]), ("lower", PALETTE[3]), ("upper", PALETTE[3])):
        height, low, high = (getattr(found, name + end) for end in ("", "_low", "_high"))
        ax.axhspan(low, high, color=colour, alpha=0.15, lw=0)
        ax.axhline(height, color=colour, lw=1.4)
        text = f"{'bias' if name == 'bias' else 'limit'} {height:.3g}{' %' * percent}"
        place: dict[str, Any] = {"xytext": (3, 0), "textcoords": "offset points", "va": "center"}
        at = ("axes fraction", "data")
        ax.annotate(text, (1, height), xycoords=at, color=colour, fontsize=SMALL, **place)
    if found.trend_p < 1 - confidence:
        ends = np.array([mean.min(), mean.max()])
        trend = difference.mean() + found.trend * (ends - mean.mean())
        ax.plot(ends, trend, color="0.15", lw=0.9, linestyle=":")
    ax.scatter(mean, difference, s=10, color="0.15", alpha=0.7, lw=0, zorder=3)
    ax.set_xlim(_with_room(mean.min(), mean.max()))
    what = f"{_literal(second)} - {_literal(first)}"
    _dress(ax, "mean of both", what + ", % of mean" * percent)
    return ax


def _with_room(low: float, high: float) -> tuple[float, float]:
    """Limits of an axis, a little beyond the values; of proportions, and of counts, not beyond what
    they can be."""
    room = 0.04 * (high - low)
    least, most = (0 if low >= 0 else -np.inf), (1 if 0 <= low and high <= 1 else np.inf)
    return max(low - room, least), min(high + room, most)


def _two(names: Sequence[str]) -> tuple[str, str]:
    if isinstance(names, str) or len(names) != 2:
        raise ValueError(f"names must be two, of the first and the second method, got {names!r}")
    return str(names[0]), str(names[1])


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=size, dpi=200, layout="compressed").add_subplot()
    ax.tick_params(labelsize=SMALL)
    return ax


def _dress(ax: Axes, x: str, y: str) -> None:
    ax.set_xlabel(x, fontsize=TEXT)
    ax.set_ylabel(y, fontsize=TEXT)
    ax.spines[["top", "right"]].set_visible(False)


def _bare(ax: Axes, x: str = "") -> None:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_xlabel(x, fontsize=TEXT)


def _more(types: Sequence[str], shown: Sequence[str] | Mapping[str, Any]) -> str:
    left = len(types) - len(shown)
    return f"+{left:,} more types" if left else ""


def _literal(text: str) -> str:
    """`text` as matplotlib draws it literally: one line, of at most 40 characters, no formula."""
    text = "".join(c if c.isprintable() else " " for c in str(text))
    return (text if len(text) <= 40 else text[:39] + "\N{HORIZONTAL ELLIPSIS}").replace("$", r"\$")


def _colour_bar(picture: Any, text: str, **place: Any) -> Any:
    bar = picture.figure.colorbar(picture, **place)
    bar.set_label(text, fontsize=TEXT)
    bar.ax.tick_params(labelsize=SMALL)
    return bar


def _marker(index: int) -> str:
    return MARKERS[index % len(MARKERS)]


def _type_legend(ax: Axes, types: Sequence[str], anchor: tuple[float, float] = (1, 1)) -> None:
    from matplotlib.lines import Line2D

    colours, texts = type_colours(types), [_literal(name) for name in types[:MAX_LEGEND]]
    style: dict[str, Any] = {"linestyle": "", "markersize": 5}
    handles = [
        Line2D([], [], marker=_marker(i), color=colours[name], **style)
        for i, name in enumerate(types[:MAX_LEGEND])
    ]
    if len(types) > MAX_LEGEND:
        handles.append(Line2D([], [], **style))
        texts.append(f"+{len(types) - MAX_LEGEND:,} more")
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": anchor, "borderaxespad": 0.2}
    ax.legend(handles, texts, frameon=False, fontsize=SMALL, handletextpad=0.3, **place)


def _type_ticks(ax: Axes, side: str, at: np.ndarray, names: Sequence[str]) -> None:
    if len(names) > MAX_TICKS:
        at, names = at[:0], []
    style: dict[str, Any] = (
        {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if side == "x" else {}
    )
    set_ticks = ax.set_xticks if side == "x" else ax.set_yticks
    set_ticks(at, [_literal(name) for name in names], fontsize=SMALL, **style)


def _draw_tree(ax: Axes, data: np.ndarray, sideways: bool) -> np.ndarray:
    """Ward tree over the rows of `data`; returns their order. (scipy's drawing recurses too deep
    for a thousand rows.)"""
    from matplotlib.collections import LineCollection
    from scipy.cluster.hierarchy import leaves_list, ward

    ax.axis("off")
    n = len(data)
    if n == 1:
        return np.arange(1)
    linkage = ward(data)
    leaves = leaves_list(linkage)
    node = np.zeros((2 * n - 1, 2))
    node[leaves, 0] = np.arange(n) + 0.5
    brackets = np.empty((n - 1, 4, 2))
    for i, (left, right, height, _) in enumerate(linkage):
        a, b = node[int(left)], node[int(right)]
        brackets[i] = a, (a[0], height), (b[0], height), b
        node[n + i] = (a[0] + b[0]) / 2, height
    reach = 1.02 * linkage[-1, 2] or 1.0
    lines = brackets[..., ::-1] if sideways else brackets
    ax.add_collection(LineCollection(list(lines), colors="0.3", linewidths=0.4))
    if sideways:
        ax.set(xlim=(reach, 0), ylim=(n, 0))
    else:
        ax.set(xlim=(0, n), ylim=(0, reach))
    result: np.ndarray = leaves
    return result


def check_cells(values: ArrayLike, labels: Iterable[Any] | None) -> tuple[np.ndarray, np.ndarray]:
    """Values (n, h) as float64, and one name for each cell; ValueError where they are not."""
    values = numbers(values, "values")
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"values must have shape (cells, signatures), got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("values must be finite; found NaN or infinity")
    return values, np.array(_names(labels, len(values)), dtype=object)


def _image(image: ArrayLike) -> np.ndarray:
    image = np.asarray(unmasked(image, "image"))
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"an image must have shape (H, W, 3), got {image.shape}")
    if image.dtype == np.uint8:
        return image
    low, high = image.min(), image.max()
    if image.dtype.kind in "iu" and 0 <= low and high <= 255:
        return image.astype(np.uint8)
    # What is rebuilt of codes may overshoot.
    if image.dtype.kind != "f" or not (-1 <= low and high <= 2):
        raise ValueError(
            "an image must hold whole numbers from 0 to 255 or floats from 0 to 1, got "
            f"{image.dtype} from {low} to {high}"
        )
    return np.clip(image.astype(np.float64), 0, 1)


def _rank(order: ArrayLike | None, h: int) -> np.ndarray:
    if order is None:
        return np.arange(h)
    order = np.asarray(order)
    if order.ndim != 1 or order.size == 0 or order.dtype.kind not in "iu":
        raise ValueError(f"order must list signature indices, got {order.dtype} {order.shape}")
    if order.min() < 0 or order.max() >= h or len(np.unique(order)) < len(order):
        raise ValueError(f"order must hold distinct indices from 0 to {h - 1}")
    return order


def _top(
    values: np.ndarray, names: np.ndarray, order: ArrayLike | None, n_top: int
) -> tuple[np.ndarray, str]:
    """The first columns, and what to say of their order: nothing, where no types rank them."""
    check(RULES, n_top=n_top)
    if order is None and len(set(names)) < 2:
        return np.arange(values.shape[1])[:n_top], ""
    if order is None:
        _, index, count = np.unique(names.astype(str), return_inverse=True, return_counts=True)
        sums = np.zeros((len(count), values.shape[1]))
        np.add.at(sums, index, values)
        between = count @ (sums / count[:, None] - values.mean(axis=0)) ** 2
        varies = np.ptp(values, axis=0) > 0
        share = np.where(varies, between, 0) / np.where(varies, values.var(axis=0), 1)
        order = np.argsort(-share, kind="stable")
    return _rank(order, values.shape[1])[:n_top], ", best first"


def _is_method(entry: Any) -> bool:
    """Whether this is what `f1_bars` draws of one method, rather than of one type."""
    if entry is None or isinstance(entry, Mapping):
        return entry is None or "f1" not in entry
    return hasattr(entry, "per_type") or (
        isinstance(entry, Sequence) and len(entry) > 0 and isinstance(entry[0], Mapping)
    )


def _confusion(given: Any, type_names: Iterable[Any] | None) -> tuple[Any, Iterable[Any]]:
    """Counts and names of types, whichever of our results they are in."""
    found = given
    if not isinstance(given, Mapping | Sequence | np.ndarray):
        found = getattr(given, "confusion", given)
        if hasattr(given, "classes_"):
            if found is None:
                raise ValueError(
                    "what the classifier mistakes is not known: no cell could be left out while "
                    "it was learnt, or its file is older; evaluate it"
                )
            found = {"types": given.classes_, "mean_counts": found}
    if not isinstance(found, Mapping):
        if type_names is None:
            raise ValueError("a matrix needs type_names, the names of its rows and columns")
        return found, type_names
    if type_names is not None:
        raise ValueError("type_names is for a matrix; this brings its own: leave it out")
    return found["mean_counts"], found["types"]


def _history(given: Any, layer: int) -> Any:
    """Of each iteration its terms, whichever of our results they are in."""
    given = getattr(given, "model_", given)
    if hasattr(given, "history_"):
        return given.history_
    if not hasattr(given, "history"):
        return given
    if not 0 <= layer < len(given.history):
        raise ValueError(
            f"layer must be one of the {len(given.history)} whose learning the model keeps, from "
            f"0; got {layer}"
        )
    return given.history[layer]


def _known(spread: float | None) -> float:
    return np.nan if spread is None else spread


def _f1_summary(entry: Any) -> tuple[dict[str, tuple[float, float]], tuple[float, float]]:
    """({type: (mean, std)}, (mean, std) of the average over types) of one method."""

    def summary(scores: Iterable[float]) -> tuple[float, float]:
        found = np.array([score for score in scores if np.isfinite(score)])
        mean = float(found.mean()) if len(found) else np.nan
        return mean, float(found.std(ddof=1)) if len(found) > 1 else np.nan

    entry = entry if isinstance(entry, Mapping | Sequence) else vars(entry)
    if isinstance(entry, Mapping) and isinstance(entry.get("failed"), str):
        raise ValueError(f"this could not be scored: {entry['failed']}")
    if isinstance(entry, Mapping) and isinstance(entry.get("per_type"), Mapping):
        scores, _ = _f1_summary(entry["per_type"])
        return scores, (entry["macro_f1"], _known(entry["macro_f1_std"]))
    if isinstance(entry, Mapping):
        entry = {
            name: (row["f1"], _known(row["f1_std"])) if isinstance(row, Mapping) else row
            for name, row in entry.items()
        }
        scores = {str(name): (float(mean), float(std)) for name, (mean, std) in entry.items()}
        for name, (mean, std) in scores.items():
            if not (np.isnan(mean) or 0 <= mean <= 1) or std < 0:
                raise ValueError(
                    f"an F1 score must be from 0 to 1, and a deviation 0 or more, got {mean:g} and "
                    f"{std:g} for {name!r}"
                )
        return scores, (summary(mean for mean, _ in scores.values())[0], np.nan)
    runs = [{str(name): float(score) for name, score in run.items()} for run in entry]
    names = {name for run in runs for name in run}
    scores = {name: summary(run.get(name, np.nan) for run in runs) for name in names}
    return scores, summary(summary(run.values())[0] for run in runs)


def _calls(
    y_true: Iterable[Any], probabilities: ArrayLike, class_names: Iterable[Any]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Index of each labelled cell's true class (-1: not a class), its probabilities, the names."""
    names = _names(class_names)
    index = {name: i for i, name in enumerate(names)}
    if not names or len(index) < len(names):
        raise ValueError("class_names must be distinct and at least one")
    probabilities = numbers(probabilities, "probabilities")
    k = len(names)
    if probabilities.ndim != 2 or probabilities.shape[1] != k:
        raise ValueError(f"probabilities must have shape (cells, {k}), got {probabilities.shape}")
    if not ((probabilities >= 0).all() and np.allclose(probabilities.sum(axis=1), 1, atol=1e-3)):
        raise ValueError("probabilities must be at least 0 and sum to 1 in every row")
    truth = np.array(_names(y_true, len(probabilities)), dtype=object)
    known = truth != UNLABELLED
    if not known.any():
        raise ValueError("y_true holds no labelled cell: nothing to compare the calls with")
    return np.array([index.get(name, -1) for name in truth[known]]), probabilities[known], names


def _reliability(
    probability: np.ndarray, hit: np.ndarray, n_bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean probability, observed frequency and cells of each bin that is not empty."""
    bins = np.minimum((probability * n_bins).astype(int), n_bins - 1)
    count = np.bincount(bins, minlength=n_bins)
    full = count > 0
    given, seen = (np.bincount(bins, x, n_bins)[full] / count[full] for x in (probability, hit))
    return given, seen, count[full]
