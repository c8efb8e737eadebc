"""Pictures of a report: figures as records that one loop draws, thumbnails, the map of cells."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np

from wbcprof.analysis import figures
from wbcprof.analysis.embedding import embed
from wbcprof.analysis.evaluation import evaluation_metrics
from wbcprof.analysis.exemplars import find_exemplars
from wbcprof.checks import UNLABELLED
from wbcprof.model.model import Model
from wbcprof.report.calls import Subject
from wbcprof.report.cells import EXAMPLE_TYPES, EXAMPLES

_SHEET_SIDE, _DPI = 2016, 190  # px; px for each inch
_EXEMPLARS = 10  # signatures that are shown in cells
_CALIBRATED = 100  # scored cells that a calibration curve is drawn of, at least
_TOP = 256  # signatures that profiles are shown of
_CHART_WIDTH = 100  # mm, at which letters can be read on a telephone too
_LARGEST_SVG = 100_000  # bytes of a chart; larger ones are drawn in pixels
_DARK = 0.35  # largest channel of what is dark
_DARK_GROUND, _DARK_INK = "#1e242a", "#e6e9ec"  # --card and --ink of report.css in the dark


@dataclass(frozen=True)
class Picture:
    """A figure to be drawn: what is said beside it, and how it is made. One that `is_photo` shows
    pixels."""

    name: str
    title: str
    caption: str
    alt: str
    make: Callable[[], Any]
    is_photo: bool = False


def draw(
    subject: Subject, files: figures.FigureFiles | None, progress: Callable[[int, int], None]
) -> dict[str, dict[str, Any]]:
    """Title, caption, alt, and either the picture as data URIs, in the light and in the dark, or
    why it could not be drawn, by name. Progress is told as (pictures drawn, pictures)."""
    pictures, shown = _all_pictures(subject), {}
    few_types = len({*subject.groups, *subject.calls.types}) <= EXAMPLE_TYPES
    progress(0, len(pictures))
    for n_drawn, picture in enumerate(pictures, 1):
        found: dict[str, Any] = {"uri": "", "dark": "", "why_not": "", "kind": "photo"}
        width = None
        if not picture.is_photo:
            found["kind"] = "chart" if few_types else "large chart"
            width = _CHART_WIDTH if few_types else None
        try:
            drawn = picture.make()
        except ValueError as error:
            found["why_not"] = f"{error}."
        else:
            if files is not None:
                files.save(drawn, picture.name)
            found["uri"] = _drawn(drawn, width, picture.is_photo)
            found["dark"] = _drawn(_darkened(drawn), width, picture.is_photo)
        shown[picture.name] = found | {
            "title": picture.title, "caption": picture.caption, "alt": picture.alt,
        }  # fmt: skip
        progress(n_drawn, len(pictures))
    return shown


def _all_pictures(subject: Subject) -> list[Picture]:
    return [
        *_of_signatures(subject),
        *_of_cells(subject),
        *_of_responses(subject),
        *_of_scores(subject),
    ]


def _of_signatures(subject: Subject) -> Iterator[Picture]:
    model = subject.model
    is_first = len(model.layers) == 1
    is_ranked = is_first and subject.is_ranked
    ranked = (
        " Ordered from top left by how much a random forest uses them to tell types apart, as "
        f"{subject.how}; the first 256 are framed in red."
    )
    yield Picture(
        "mosaic",
        "All signatures" if is_first else "Signatures of the first layer",
        "Small colour patterns: edges, granules, chromatin, background. Mid grey means no change."
        + ranked * is_ranked,
        f"Mosaic of {len(model.signatures):,} signatures.",
        lambda: figures.signature_mosaic(model.signatures, subject.order if is_ranked else None),
        is_photo=True,
    )
    if is_first:
        top = subject.order[:_EXEMPLARS]
        yield Picture(
            "exemplars",
            "What a signature is, in cells",
            f"Of the {len(top)} {'best' if is_ranked else 'most varied'} signatures: where cells "
            "call it up most, one place a cell, framed; on the right, the parts "
            "of a cell that it lives in, where canonical cells tell them.",
            f"{len(top)} rows of small pictures of cells, a frame in each.",
            lambda: figures.exemplars(
                find_exemplars(model, subject.cells.source.quietly(), top,
                               n_threads=subject.n_threads),
                model.signatures,
            ),
            is_photo=True,
        )  # fmt: skip
    if model.history:
        yield Picture(
            "learning",
            "Learning",
            "The quantity that learning makes small, after each round; flat at the end means done.",
            "Curve of the objective over iterations.",
            lambda: figures.learning_curve(model),
        )


def _of_cells(subject: Subject) -> Iterator[Picture]:
    model, cells = subject.model, subject.cells
    groups, examples = subject.groups, subject.examples
    yield Picture(
        "reconstructions",
        "Cells rebuilt from their signatures",
        "Upper row of each type: the cells as the model reads them. Lower row: rebuilt from "
        "predicted codes alone. What is missing below, the profile does not know.",
        f"{len(examples)} cells, each above its reconstruction.",
        lambda: figures.reconstructions(
            [model.as_read(cells.examples[i]) for i in examples],
            [model.reconstruct(cells.examples[i], n_threads=subject.n_threads) for i in examples],
            groups[examples],
            EXAMPLES,
        ),
        is_photo=True,
    )
    top, pool = subject.order[:_TOP], cells.blocks[0]
    rank, order = "most varied", None
    if subject.is_ranked:
        rank, order = "best", np.arange(len(top))
    first, columns = cells.values[:, top], f"feature ({pool})"
    has_types = bool((groups != UNLABELLED).any())
    yield Picture(
        "profiles",
        f"Mean profile of each type, as {subject.how}" if has_types else "Mean profile",
        f"Means over cells of one pooled feature, {pool}, of each of the {len(top)} {rank} "
        "signatures." + " Types differ where their outlines do." * has_types,
        f"Means of {len(top)} features.",
        lambda: figures.mean_profiles(first, groups, order, columns=columns),
    )
    yield Picture(
        "heatmap",
        "Cells and signatures",
        f"Rows are cells, columns the {len(top)} {rank} signatures ({pool}), both ordered so that "
        "similar ones are neighbours. Red: more than the average cell; blue: less."
        + " Where the colour bar of types is in blocks, profiles alone sort the cells by type."
        * has_types,
        "Clustered heatmap of z-scores.",
        lambda: figures.heatmap(first, groups, order=order, n_cells=1000),
    )
    if not has_types:
        return
    yield Picture(
        "lda",
        "Linear discriminants",
        f"The two directions that set the types, as {subject.how}, furthest apart. They were found "
        "on these very cells, so new cells would lie less far apart.",
        "Scatter plot of cells on two linear discriminants, by type.",
        lambda: figures.embedding(embed(cells.comparable, groups, "lda"), groups, "lda"),
    )


def _of_responses(subject: Subject) -> Iterator[Picture]:
    """Where the signature that spoke most for a call responds, of a cell of each type: one that is
    called as given, where types are."""
    model, cells, calls = subject.model, subject.cells, subject.calls
    if len(model.layers) > 1:
        return
    for number, name in enumerate(calls.types[:EXAMPLE_TYPES], 1):
        right = [i for i in subject.examples if subject.groups[i] == subject.names[i] == name]
        speaking = [
            (pull, i, s)
            for i in right
            for s, pull, above, _ in calls.reasons[i]
            if pull > 0 and above > 0  # what is there can be shown, what is missing cannot
        ]
        if not speaking:
            continue
        _, cell, signature = max(speaking)

        def respond(cell: int = cell, signature: int = signature) -> Any:
            layer, image = model.layers[0], cells.examples[cell]
            codes = model.codes(image, n_threads=subject.n_threads)[..., signature]
            return figures.response_map(model.as_read(image), codes, layer.patch_size, layer.step)

        yield Picture(
            f"response_{number}",
            name,
            f"Signature no. {signature + 1} in {cells.names[cell]}.",
            f"A cell of type {name}, coloured where signature {signature + 1} responds.",
            respond,
            is_photo=True,
        )


def _of_scores(subject: Subject) -> Iterator[Picture]:
    calls, labels, names = subject.calls, subject.labels, subject.names
    if not calls.folds:
        return
    scored, types = calls.scored, calls.types
    truth, probability = labels[scored], calls.probability[scored]
    whole = evaluation_metrics(truth, names[scored], types)
    runs = [
        dict(zip(types, evaluation_metrics(labels[f], names[f], types)["f1"], strict=True))
        for f in calls.folds
    ]
    yield Picture(
        "f1",
        "F1 of each type",
        "1 is perfect." + (" Lines: standard deviation over folds." if len(runs) > 1 else ""),
        f"Bars of F1 per type; average {whole['macro_f1']:.3f}.",
        lambda: figures.f1_bars(runs),
    )
    yield Picture(
        "confusion_counts",
        "Confusion, cells",
        "Rows: given type. Columns: called type. Off the diagonal are the mistakes.",
        f"Confusion matrix: {np.trace(whole['confusion']):,} of {len(scored):,} on the diagonal.",
        lambda: figures.confusion(whole["confusion"], types),
    )
    yield Picture(
        "confusion",
        "Confusion, share of each given type",
        "The same, each row divided by its sum: the diagonal is the sensitivity.",
        "Confusion matrix normalised by row.",
        lambda: figures.confusion(whole["confusion"], types, normalize=True),
    )
    yield Picture(
        "calibration",
        "Can the probabilities be believed?",
        "Of the cells called with a probability of 80 %, 80 % should be right: the heavy line "
        "should follow the dashed one. Thin lines: single types.",
        "Reliability diagram.",
        lambda: _calibration(truth, probability, types),
    )
    yield Picture(
        "coverage",
        "If unsure calls go to a person",
        "From right to left: leaving more of the least sure cells to a person, the share of right "
        "calls among the rest.",
        "Accuracy against the share of cells called.",
        lambda: figures.accuracy_coverage(truth, probability, types),
    )


def _calibration(truth: np.ndarray, probability: np.ndarray, types: list[str]) -> Any:
    if len(truth) < _CALIBRATED:
        raise ValueError(
            f"{len(truth)} scored cells say little of probabilities, {_CALIBRATED} are needed"
        )
    return figures.calibration(truth, probability, types)


def map_of(
    subject: Subject, random_state: int, files: figures.FigureFiles | None
) -> tuple[np.ndarray, str]:
    """Where the shown cells lie, px in 800 x 600, and how that came about."""
    cells, groups = subject.cells, subject.groups
    shown = np.array(cells.shown)
    try:
        points = embed(cells.comparable[shown], random_state=random_state)
        note = "t-SNE of the square roots of the profiles."
    except ValueError as error:
        columns = int(np.ceil(np.sqrt(len(shown))))
        points = np.column_stack(np.divmod(np.arange(len(shown)), columns)[::-1]).astype(float)
        note = f"Here they only stand in rows: {error}."
    else:
        if files is not None:
            picture = figures.embedding(points, groups[shown], random_state=random_state)
            files.save(picture, "map")
    if len(shown) < len(groups):
        note += (
            f" Of {len(groups):,} cells, {len(shown):,} drawn at random are on the map and among "
            "the misclassified; all other figures are over all cells."
        )
    return on_map(points), note


def on_map(points: np.ndarray) -> np.ndarray:
    """Points (n, 2) as px in 800 x 600."""
    low, high = points.min(axis=0), points.max(axis=0)
    reach = np.where(high > low, high - low, 1)
    middle = np.where(high > low, (points - low) / reach, 0.5)
    found: np.ndarray = np.round([20, 20] + middle * [760, 560], 1)
    return found


def sheet_of(thumbnails: Sequence[np.ndarray], quality: int) -> dict[str, Any]:
    """Thumbnails of one size packed into JPEG sheets."""
    side = len(thumbnails[0]) if thumbnails else 1
    per_row = _SHEET_SIDE // side
    per_sheet = per_row**2
    uris = [
        jpeg(_grid(thumbnails[start : start + per_sheet], per_row), quality)
        for start in range(0, len(thumbnails), per_sheet)
    ]
    return {"uris": uris, "side": side, "per_row": per_row, "per_sheet": per_sheet}


def tiles_of(model: Model) -> dict[str, Any] | None:
    """Signatures as colours in one PNG; a deeper layer's are no pictures."""
    from PIL import Image

    if len(model.layers) > 1:
        return None
    colours = np.rint(255 * figures.signature_colours(model.signatures)).astype(np.uint8)
    stream = BytesIO()
    Image.fromarray(_grid(colours, 32)).save(stream, "PNG", optimize=True)
    return {"uri": _uri(stream.getvalue(), "png"), "per_row": 32}


def sprite(index: int, per_row: int, side: int) -> str:
    row, column = divmod(int(index), per_row)
    return (
        f"width:{side}px;height:{side}px;background-size:{per_row * side}px auto;"
        f"background-position:{-column * side}px {-row * side}px"
    )


def jpeg(pixels: np.ndarray, quality: int) -> str:
    from PIL import Image

    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, optimize=True)
    return _uri(stream.getvalue(), "jpeg")


def _grid(tiles: Sequence[np.ndarray], per_row: int) -> np.ndarray:
    side = len(tiles[0])
    sheet = np.full((-(-len(tiles) // per_row) * side, per_row * side, 3), 232, dtype=np.uint8)
    for i, tile in enumerate(tiles):
        row, column = divmod(i, per_row)
        sheet[row * side : (row + 1) * side, column * side : (column + 1) * side] = tile
    return sheet


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _drawn(drawn: Any, width: float | None, is_photo: bool) -> str:
    """A chart as lines and letters, where they are few; else as pixels."""
    if not is_photo:
        lines = figures.picture_of(drawn, "svg", width=width)
        if len(lines) <= _LARGEST_SVG:
            return _uri(lines, "svg+xml")
    return _uri(figures.picture_of(drawn, "png", width=width, dpi=_DPI), "png")


def _darkened(drawn: Any) -> Any:
    """The same figure on the page's dark ground: letters, frames and what is black or dark grey are
    light, all else has its own colours."""
    from matplotlib.collections import LineCollection, PathCollection
    from matplotlib.colors import to_rgba
    from matplotlib.lines import Line2D
    from matplotlib.spines import Spine
    from matplotlib.text import Text

    def is_dark(colour: Any) -> bool:
        *colours, opacity = to_rgba(colour)
        return opacity > 0 and max(colours) < _DARK

    figure = drawn.figure.figure
    figure.set_facecolor(_DARK_GROUND)
    on_pictures = {text for axes in figure.axes if axes.images for text in axes.texts}
    for part in figure.findobj(lambda part: isinstance(part, Text | Spine)):
        if part not in on_pictures and (isinstance(part, Spine) or is_dark(part.get_color())):
            part.set_color(_DARK_INK)
    for axes in figure.axes:
        axes.set_facecolor(_DARK_GROUND)
        axes.tick_params(colors=_DARK_INK)
        for line in axes.findobj(Line2D):
            if is_dark(line.get_color()):
                line.set_color(_DARK_INK)
            if is_dark(line.get_markeredgecolor()):
                line.set_markeredgecolor(_DARK_INK)
        for points in axes.findobj(PathCollection):
            points.set_facecolor([_DARK_INK if is_dark(c) else c for c in points.get_facecolor()])
        for bars in axes.findobj(LineCollection):
            bars.set_color([_DARK_INK if is_dark(c) else c for c in bars.get_color()])
    return drawn
