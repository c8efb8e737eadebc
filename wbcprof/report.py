"""The report: one HTML file over a set of cells, to open from disk, without a network.

    images -> one pass: profiles, thumbnails -> calls -> figures, tables, map -> HTML

Pictures are data URIs. A content security policy in the page forbids every request and every
script but its own. What comes from data (file names, labels) is escaped by jinja2, or read from a
JSON block as text.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from wbcprof import figures
from wbcprof._version import version
from wbcprof.compare import (
    DifferentialCount,
    differential_count,
    differential_signatures,
    explain_calls,
)
from wbcprof.files import check_output, replacing
from wbcprof.images import Cell, open_images
from wbcprof.model import Model
from wbcprof.profiles import UNLABELLED, label_names, sorted_types

MAP_CELLS = 10_000
THUMBNAILS = ((2_000, 96, 80), (5_000, 64, 78), (MAP_CELLS, 48, 75))  # up to n cells: px, quality
SHEET_SIDE = 2016
NEAREST, REASONS, MARKS = 8, 6, 5
FOLDS, FEW_FOLDS, MANY_CELLS = 5, 2, 3_000
MOST_TYPES = 60
RANKED_CELLS = 1_000
EXAMPLES, EXAMPLE_TYPES = 3, 8
GALLERY, TABLE_SAMPLES, TABLE_TYPES = 120, 50, 16
TEMPLATES = Path(__file__).parent / "templates"


def write_report(
    model: Model,
    images: Any,
    path: str | os.PathLike,
    *,
    labels: Iterable[Any] | None = None,
    samples: Mapping[str, str] | None = None,
    calls: str = "cross-validated",
    figure_folder: str | os.PathLike | None = None,
    title: str = "White blood cells: signatures, types, counts",
    note: str = "",
    random_state: int = 0,
    n_threads: int | None = None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Profile cells and write what there is to see about them into one HTML file.

    Parameters
    ----------
    model : Model
    images : folder, path, list of paths, array, or iterable of arrays
        See `wbcprof.images.open_images`.
    path : path
        File to write; it is whole or absent.
    labels : iterable, optional
        Types of the images; a folder's sub-folders give them by default. None is unknown.
    samples : mapping from image id to sample name, optional
        The differential count is then made per sample.
    calls : {"cross-validated", "model"}
        Who names the types. "cross-validated": classifiers trained on these profiles, each cell
        called by one that has not seen it (5 folds; 2 beyond 3,000 labelled cells). "model": the
        model's own classifier, which is also used where too few cells are labelled.
    figure_folder : path, optional
        Folder to write every figure to as a PDF for print, the map of cells among them; it is made
        where it does not exist.
    title, note : str
        Heading, and a line in a box below it.
    random_state : int
        Seed of folds, map and samples.
    n_threads : int, optional
    say : callable, optional
        Receives one line per stage.

    Raises
    ------
    ValueError
        No image could be read, `samples` names none of them, `calls` is unknown, or is "model"
        where the model has no classifier of its profiles.
    """
    if calls not in ("cross-validated", "model"):
        raise ValueError(f"calls must be 'cross-validated' or 'model', got {calls!r}")
    if calls == "model" and model.classifier is None:
        raise ValueError("calls='model' needs a model with a classifier; this one holds none")
    check_output(path)
    if figure_folder is not None:
        os.makedirs(figure_folder, exist_ok=True)
    say = say or (lambda _: None)
    say("profiling")
    cells = _read(model, images, labels, random_state, n_threads)
    say(f"calling {len(cells.ids)} cells")
    if samples is not None and samples.keys().isdisjoint(cells.ids):
        raise ValueError(
            f"samples names none of the {len(cells.ids)} images: expected ids such as "
            f"{cells.ids[0]!r}, got {next(iter(samples), 'none')!r}"
        )
    called = _call(model, cells, calls, random_state)
    say("drawing")
    html = _render(
        model, cells, called, samples, title, note, figure_folder, random_state, n_threads
    )
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="backslashreplace")


@dataclass
class _Cells:
    """All cells, and thumbnails and pixels of some."""

    values: np.ndarray
    feature_names: list[str]
    n_signatures: int
    labels: list[str]
    ids: list[str]
    shown: list[int]  # on the map
    thumbnails: list[np.ndarray]
    quality: int
    examples: dict[int, np.ndarray]  # pixels

    @property
    def names(self) -> list[str]:
        """Ids; of absolute paths, what is below the folder common to all."""
        if not all(map(os.path.isabs, self.ids)):
            return self.ids
        folder = os.path.commonpath([os.path.dirname(path) for path in self.ids])
        return [os.path.relpath(path, folder) for path in self.ids]

    @property
    def blocks(self) -> list[str]:
        """What each run of `n_signatures` columns holds: "mean", or "max, L2R0C1"."""
        names = (name.split("_") for name in self.feature_names[:: self.n_signatures])
        return [", ".join([pool.lower(), *part]) for _, pool, _, _, *part in names]

    @property
    def comparable(self) -> np.ndarray:
        """Signed square roots, each block scaled so that no pool outweighs another."""
        root = np.sign(self.values) * np.sqrt(np.abs(self.values))
        root = root.reshape(len(root), -1, self.n_signatures)
        spread = np.sqrt(root.var(axis=0).mean(axis=1))
        root /= np.where(spread > 0, spread, 1)[:, None]
        return root.reshape(self.values.shape)


@dataclass
class _Calls:
    """Calls of the cells; -1 and zeros where none could be made."""

    note: str
    types: list[str] = field(default_factory=list)
    # Any for None, where no cell is called.
    called: np.ndarray | Any = None  # (n,) index into types
    rival: np.ndarray | Any = None
    probability: np.ndarray | Any = None  # (n, k)
    reasons: list[list[tuple[int, float, float, int]]] = field(default_factory=list)
    folds: list[np.ndarray] = field(default_factory=list)  # labelled cells, scored fold by fold

    @property
    def scored(self) -> np.ndarray:
        return np.sort(np.concatenate(self.folds)) if self.folds else np.array([], dtype=int)


@dataclass
class _Figure:
    title: str
    caption: str
    alt: str
    uri: str = ""
    why_not: str = ""


def _read(model, images, labels, random_state, n_threads) -> _Cells:
    """One pass over the images."""
    from PIL import Image, ImageOps

    source = open_images(images, labels, min_size=model.min_size)
    if source.n_hint is None:
        held = list(source.read(n_threads))
        known = [cell.label for cell in held]
        source = open_images([cell.pixels for cell in held], known, min_size=model.min_size)
    n = source.n_hint
    drawn: range | set[int] = range(n)
    if n > MAP_CELLS:
        rng = np.random.default_rng(random_state)
        drawn = set(rng.choice(n, MAP_CELLS, replace=False).tolist())
    side, quality = next((s, q) for most, s, q in THUMBNAILS if min(n, MAP_CELLS) <= most)

    ids: list[str] = []
    names: list[str] = []
    shown: list[int] = []
    thumbnails: list[np.ndarray] = []
    examples: dict[int, np.ndarray] = {}
    per_type: Counter[str] = Counter()

    def taken(cells: Iterator[Cell]) -> Iterator[np.ndarray]:
        for cell in cells:
            index = len(ids)
            ids.append(cell.image_id)
            names.extend(label_names([cell.label]))
            if index in drawn:
                image = ImageOps.pad(Image.fromarray(cell.pixels), (side, side), color="#e8e8e8")
                shown.append(index)
                thumbnails.append(np.asarray(image))
            name = names[-1]
            new = name not in per_type
            if per_type[name] < EXAMPLES and (not new or len(per_type) <= EXAMPLE_TYPES):
                per_type[name] += 1
                examples[index] = cell.pixels
            yield cell.pixels

    profiles = model.profile(taken(source.read(n_threads)), n_threads=n_threads)
    h = model.layers[-1].n_signatures
    values = profiles.values.astype(np.float64)
    return _Cells(
        values, profiles.feature_names, h, names, ids, shown, thumbnails, quality, examples
    )


# ---- calls ----


def _call(model: Model, cells: _Cells, how: str, random_state: int) -> _Calls:
    if how == "model":
        return _call_by_model(model.classifier, cells)
    count = Counter(name for name in cells.labels if name != UNLABELLED)
    types = sorted(name for name, n in count.items() if n >= FOLDS)
    try:
        if len(types) < 2:
            raise ValueError(
                f"two types with at least {FOLDS} labelled cells each are needed, "
                f"{len(types)} found"
            )
        if len(types) > MOST_TYPES:
            raise ValueError(f"{len(types):,} types are more than the {MOST_TYPES} it is made for")
        return _cross_validate(cells, types, random_state)
    except ValueError as error:
        reason = f"No cross-validation: {error}."
    if model.classifier is None:
        return _Calls(f"{reason} The model holds no classifier either: no cell is called.")
    found = _call_by_model(model.classifier, cells)
    found.note = f"{reason} {found.note}"
    return found


def _call_by_model(classifier: Any, cells: _Cells) -> _Calls:
    found = _Calls(
        "Types are called by the classifier in the model file. If that was trained on these very "
        "cells, the figures below are better than they would be on new ones."
    )
    _prepare(found, [str(name) for name in classifier.classes_], len(cells.ids))
    _fill(found, classifier, cells, np.arange(len(cells.ids)))
    known = np.flatnonzero(np.isin(cells.labels, found.types))
    found.folds = [known] if len(known) else []
    if not len(known):
        found.note += " No cell has a label among its types, so nothing can be scored."
    return found


def _cross_validate(cells: _Cells, types: list[str], random_state: int) -> _Calls:
    from sklearn.model_selection import StratifiedKFold

    from wbcprof.classify import TypeClassifier

    labels = np.array(cells.labels, dtype=object)
    known = np.flatnonzero(np.isin(labels, types))
    y = labels[known].astype(str)
    n_folds = FOLDS if len(known) <= MANY_CELLS else FEW_FOLDS
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=random_state)
    found = _Calls(
        f"Cross-validation in {n_folds} parts: every labelled cell is called by a classifier "
        "trained on profiles of the other parts only. The signatures are those of the model, "
        "learnt without types. Cells of one person may lie in several parts; for new persons, "
        "figures may then be lower."
    )
    _prepare(found, types, len(labels))
    for train, test in folds.split(y, y):
        classifier = TypeClassifier(random_state=random_state)
        classifier.fit(cells.values[known[train]], y[train])
        _fill(found, classifier, cells, known[test])
        found.folds.append(known[test])
    rest = np.setdiff1d(np.arange(len(labels)), known)
    if len(rest):
        classifier = TypeClassifier(random_state=random_state).fit(cells.values[known], y)
        _fill(found, classifier, cells, rest)
        found.note += (
            f" {len(rest):,} cells without a label, or of types with fewer than {FOLDS} cells, "
            "are called too, but not scored."
        )
    return found


def _prepare(found: _Calls, types: list[str], n: int) -> None:
    found.types = types
    found.called, found.rival = np.full(n, -1), np.full(n, -1)
    found.probability = np.zeros((n, len(types)))
    found.reasons = [[] for _ in range(n)]


def _fill(found: _Calls, classifier: Any, cells: _Cells, rows: np.ndarray) -> None:
    """Calls of some cells, and the signatures that made them: contributions are added over the
    pools and pyramid cells of a signature."""
    h = cells.n_signatures
    for start in range(0, len(rows), 1000):
        part = rows[start : start + 1000]
        values = cells.values[part]
        called, rival, contribution = explain_calls(classifier, values)
        found.called[part], found.rival[part] = called, rival
        found.probability[part] = classifier.predict_proba(values)
        spread = (values - classifier.mean_) / classifier.scale_
        by_block = contribution.reshape(len(part), -1, h)
        pull = by_block.sum(axis=1)
        strongest = np.argsort(-np.abs(pull), axis=1, kind="stable")[:, :REASONS]
        for row, cell in enumerate(part):
            for s in strongest[row]:
                block = int(np.abs(by_block[row, :, s]).argmax())
                reason = int(s), float(pull[row, s]), float(spread[row, block * h + s]), block
                found.reasons[cell].append(reason)


# ---- the page ----


def _render(
    model, cells, called, samples, title, note, figure_folder, random_state, n_threads
) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    labels = np.array(cells.labels, dtype=object)
    has_calls = called.called is not None
    call_names = np.array(called.types, dtype=object)[called.called] if has_calls else labels
    scored = called.scored
    is_wrong = np.zeros(len(labels), dtype=bool)
    is_wrong[scored] = labels[scored] != call_names[scored]
    groups = labels if (labels != UNLABELLED).any() else call_names

    points, map_note = _map(cells, groups, random_state, figure_folder)
    sheet, tiles = _sheet(cells), _tiles(model)
    data, position = _data(cells, called, call_names, is_wrong, points, sheet, tiles)
    wrong = np.flatnonzero(is_wrong).tolist()
    wrong.sort(key=lambda i: -called.probability[i, called.called[i]])
    gallery = [i for i in wrong if i in position][:GALLERY]
    gallery_note = "No cell was scored." if not len(scored) else (
        f"{len(wrong):,} of {len(scored):,} scored cells were called another type than given; "
        f"{len(gallery):,} of them are here, the surest mistakes first. It may "
        "also be the given type that is wrong."
    )  # fmt: skip

    order = _rank(cells, groups, random_state)
    scores = _scores(labels, call_names, called)
    pictures = _figures(
        model, cells, called, labels, call_names, groups, order, figure_folder, n_threads
    )
    differences, differences_note = _differences(cells, groups)
    n_types = len(set(labels) - {UNLABELLED})
    facts = [("cells", f"{len(labels):,}"), ("types given", f"{n_types:,}")]
    facts += [("signatures", f"{cells.n_signatures:,}")]
    if scores:
        facts += [("F1, average of types", scores[-1]["f1"])]
        facts += [("called as given", f"{1 - is_wrong[scored].mean():.1%}")]

    def cell(i: int) -> dict[str, str]:
        sure = f"{called.probability[i, called.called[i]]:.2f}" if has_calls else ""
        text = f"{cells.names[i]}: given {labels[i]}, called {call_names[i]}"
        uri = _jpeg(cells.thumbnails[position[i]], cells.quality)
        return {"label": labels[i], "call": call_names[i], "p": sure, "text": text, "uri": uri}

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    style, script = (
        (TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html").render(
        title=title,
        note=note,
        summary=(
            f"Made by wbcprof {version()} on {datetime.now(UTC):%Y-%m-%d}, with a model learnt "
            f"from {model.provenance.get('n_images', 'an unknown number of')} images."
        ),
        facts=facts,
        style=Markup(style),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        data=Markup(_json(data)),
        sheet=sheet,
        tiles=tiles,
        sprite=_sprite,
        cells={position[i]: cell(i) for i in gallery},
        gallery=[position[i] for i in gallery],
        gallery_note=gallery_note,
        map_note=map_note,
        calls_note=called.note,
        scores=scores,
        spread=len(called.folds) > 1,
        figures=pictures,
        responses=[name for name in pictures if name.startswith("response")],
        counts=_counts(cells, labels, call_names if has_calls else None, samples),
        differences=differences,
        differences_note=differences_note,
        methods=_methods(model, cells),
        parameters=[(name, str(value)) for name, value in model.parameters.items()],
    )


def _json(data: Any) -> str:
    """JSON that cannot end or open an element; everything beyond ASCII is escaped."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _sprite(index: int, per_row: int, side: int) -> str:
    row, column = divmod(int(index), per_row)
    return (
        f"width:{side}px;height:{side}px;background-size:{per_row * side}px auto;"
        f"background-position:{-column * side}px {-row * side}px"
    )


def _grid(tiles: Sequence[np.ndarray], per_row: int) -> np.ndarray:
    side = len(tiles[0])
    sheet = np.full((-(-len(tiles) // per_row) * side, per_row * side, 3), 232, dtype=np.uint8)
    for i, tile in enumerate(tiles):
        row, column = divmod(i, per_row)
        sheet[row * side : (row + 1) * side, column * side : (column + 1) * side] = tile
    return sheet


def _jpeg(pixels: np.ndarray, quality: int) -> str:
    from PIL import Image

    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, optimize=True)
    return _uri(stream.getvalue(), "jpeg")


def _sheet(cells: _Cells) -> dict[str, Any]:
    """Thumbnails packed into JPEG sheets."""
    side = len(cells.thumbnails[0])
    per_row = SHEET_SIDE // side
    per_sheet = per_row**2
    uris = [
        _jpeg(_grid(cells.thumbnails[start : start + per_sheet], per_row), cells.quality)
        for start in range(0, len(cells.thumbnails), per_sheet)
    ]
    return {"uris": uris, "side": side, "per_row": per_row, "per_sheet": per_sheet}


def _tiles(model: Model) -> dict[str, Any] | None:
    """Signatures as colours in one PNG; a deeper layer's are no pictures."""
    from PIL import Image

    if len(model.layers) > 1:
        return None
    colours = np.rint(255 * figures.signature_colours(model.signatures)).astype(np.uint8)
    stream = BytesIO()
    Image.fromarray(_grid(colours, 32)).save(stream, "PNG", optimize=True)
    return {"uri": _uri(stream.getvalue(), "png"), "per_row": 32}


def _map(
    cells: _Cells, groups: np.ndarray, random_state: int, figure_folder: str | os.PathLike | None
) -> tuple[np.ndarray, str]:
    """Where the shown cells lie, px in 800 x 600, and how that came about."""
    shown = np.array(cells.shown)
    try:
        points = figures.embed(cells.comparable[shown], random_state=random_state)
        note = "t-SNE of the square roots of the profiles."
    except ValueError as error:
        columns = int(np.ceil(np.sqrt(len(shown))))
        points = np.column_stack(np.divmod(np.arange(len(shown)), columns)[::-1]).astype(float)
        note = f"Here they only stand in rows: {error}."
    else:
        if figure_folder is not None:
            picture = figures.draw_embedding(points, groups[shown], random_state=random_state)
            _save(picture, figure_folder, "map")
    if len(shown) < len(groups):
        note += (
            f" Of {len(groups):,} cells, {len(shown):,} drawn at random are on the map and among "
            "the misclassified; all other figures are over all cells."
        )
    low, high = points.min(axis=0), points.max(axis=0)
    reach = np.where(high > low, high - low, 1)
    middle = np.where(high > low, (points - low) / reach, 0.5)
    return np.round([20, 20] + middle * [760, 560], 1), note


def _data(cells, called, call_names, is_wrong, points, sheet, tiles) -> tuple[dict, dict[int, int]]:
    """What the map's script reads; lists are over the shown cells. And the place of each."""
    from sklearn.neighbors import NearestNeighbors

    shown = cells.shown
    names = [cells.labels[i] for i in shown]
    types = sorted_types([*names, *called.types])
    index = {name: i for i, name in enumerate(types)}
    colours, count = figures.type_colours(types), Counter(names)
    values = cells.comparable[shown].astype(np.float32)
    k = min(NEAREST + 1, len(shown))
    found = NearestNeighbors(n_neighbors=k).fit(values).kneighbors(values, return_distance=False)
    near = [[int(j) for j in row if j != i][:NEAREST] for i, row in enumerate(found)]
    has_calls = called.called is not None
    data = {
        "types": [
            {"name": name, "colour": colours[name], "n": count[name],
             "shape": i // len(figures.PALETTE)}
            for i, name in enumerate(types)
        ],
        "blocks": cells.blocks,
        "sheet": {key: sheet[key] for key in ("side", "per_row", "per_sheet")},
        "tiles": tiles and {"per_row": tiles["per_row"]},
        "id": [cells.names[i] for i in shown],
        "x": points[:, 0].tolist(),
        "y": points[:, 1].tolist(),
        "near": near,
        "label": [index[name] for name in names],
        "wrong": is_wrong[shown].astype(int).tolist(),
        "call": [index[call_names[i]] if has_calls else -1 for i in shown],
        "rival": [index[called.types[called.rival[i]]] if has_calls else -1 for i in shown],
        "p": [
            round(float(called.probability[i, called.called[i]]), 3) if has_calls else 0
            for i in shown
        ],
        "why": [
            [(s, round(pull, 3), round(spread, 2), block)
             for s, pull, spread, block in called.reasons[i]] if has_calls else []
            for i in shown
        ],
    }  # fmt: skip
    return data, {cell: place for place, cell in enumerate(shown)}


def _rank(cells: _Cells, groups: np.ndarray, random_state: int) -> np.ndarray:
    """Signatures, most important first: random-forest importance added over a signature's pools
    and pyramid cells; by variance where types are missing, or too many to learn."""
    from wbcprof.classify import rank_signatures

    known = np.flatnonzero(groups != UNLABELLED)
    if not 2 <= len(set(groups[known])) <= len(known) / 2:
        score = cells.comparable.var(axis=0)
    else:
        if len(known) > RANKED_CELLS:
            rng = np.random.default_rng(random_state)
            known = np.sort(rng.choice(known, RANKED_CELLS, replace=False))
        _, score = rank_signatures(cells.values[known], groups[known].astype(str), random_state)
    return np.argsort(-score.reshape(-1, cells.n_signatures).sum(axis=0), kind="stable")


def _scores(labels: np.ndarray, call_names: np.ndarray, called: _Calls) -> list[dict[str, str]]:
    """Rows of the table of scores: over all scored cells, the spread over folds."""
    from wbcprof.evaluation import evaluation_metrics

    if not called.folds:
        return []
    runs = [evaluation_metrics(labels[f], call_names[f], called.types) for f in called.folds]
    whole = evaluation_metrics(labels[called.scored], call_names[called.scored], called.types)
    keys = ("f1", "sensitivity", "specificity")
    count = Counter(labels[called.scored])

    def text(value: float, spread: list[float]) -> str:
        return f"{value:.3f}" + (f" ± {np.std(spread, ddof=1):.3f}" if len(runs) > 1 else "")

    rows = [
        {"name": name, "n": f"{count[name]:,}",
         **{key: text(whole[key][i], [run[key][i] for run in runs]) for key in keys}}
        for i, name in enumerate(called.types)
    ]  # fmt: skip
    macro = {key: text(whole[f"macro_{key}"], [run[f"macro_{key}"] for run in runs])
             for key in keys}  # fmt: skip
    return [*rows, {"name": "average of types", "n": f"{len(called.scored):,}", **macro}]


def _counts(cells, labels, call_names, samples) -> dict[str, Any]:
    """Differential counts: of all cells by given and by called type, and per sample."""
    columns = {}
    if (labels != UNLABELLED).any():
        columns["given"] = labels
    if call_names is not None:
        columns["called"] = call_names
    found = {name: differential_count(column) for name, column in columns.items()}
    if not found:
        return {"columns": [], "rows": [], "samples": None, "note": "No cell has a type."}
    frequent = Counter(np.concatenate([*columns.values()]).tolist()).most_common(TABLE_TYPES)
    types = [name for name in sorted_types(name for name, _ in frequent) if name != UNLABELLED]
    rows = [(name, [_share(count, 0, name) for count in found.values()]) for name in types]
    unknown = [(f"{count.n_unknown[0]:,}", "", "") for count in found.values()]
    ratio = [_nlr(count, 0) for count in found.values()]
    used = [
        sorted_types(name for count in found.values() for name in getattr(count, role))
        for role in ("neutrophils", "lymphocytes")
    ]
    note = "No type is known as neutrophil or lymphocyte, so there is no ratio."
    if any(used):
        n, m = (", ".join(names) or "none" for names in used)
        note = f"Ratio: neutrophils are {n}; lymphocytes are {m}."
    left = len({name for count in found.values() for name in count.types} - set(types))
    if left:
        note += f" The {len(types)} most frequent types are shown, {left:,} more are not."
    table = {
        "columns": list(columns),
        "rows": [*rows, ("no type", unknown), ("neutrophils / lymphocytes", ratio)],
        "samples": None,
        "note": note,
    }
    if samples is not None:
        how, names = list(columns.items())[-1]
        by_sample = differential_count(names, [samples.get(i) for i in cells.ids])
        shown = by_sample.samples[:TABLE_SAMPLES]
        more = len(by_sample.samples) - len(shown)
        table["samples"] = {
            "caption": f"Per sample, by {how} type" + (f" ({more:,} more samples)" * (more > 0)),
            "types": [name for name in types if name in by_sample.types],
            "rows": [
                (sample, [_nlr(by_sample, i), *(_share(by_sample, i, name) for name in types
                                               if name in by_sample.types)])
                for i, sample in enumerate(shown)
            ],
        }  # fmt: skip
    return table


def _share(count: DifferentialCount, row: int, name: str) -> tuple[str, str, str]:
    """Share, interval and cells of one type in one sample."""
    if name not in count.types:
        return "", "", ""
    at = row, count.types.index(name)
    interval = f"{_percent(count.low[at])} to {_percent(count.high[at])}"
    return _percent(count.share[at]), interval, f"n = {count.counts[at]:,}"


def _nlr(count: DifferentialCount, row: int) -> tuple[str, str, str]:
    if np.isnan(count.nlr[row]):
        return "\N{EN DASH}", "", ""
    interval = f"{_ratio(count.nlr_low[row])} to {_ratio(count.nlr_high[row])}"
    return _ratio(count.nlr[row]), interval, ""


def _percent(share: float) -> str:
    return "\N{EN DASH}" if np.isnan(share) else f"{share:.1%}"


def _ratio(value: float) -> str:
    return "\N{INFINITY}" if np.isinf(value) else f"{value:.2f}"


def _differences(cells: _Cells, groups: np.ndarray) -> tuple[list, str]:
    """Per type, the signatures that are most raised in it, in the block where they are most so."""
    count = Counter(groups[groups != UNLABELLED])
    if len(count) < 2:
        return [], ""
    chosen = sorted(name for name, _ in count.most_common(TABLE_TYPES))
    pooled = [name if name in chosen else (UNLABELLED if name == UNLABELLED else "all others")
              for name in groups]  # fmt: skip
    found = differential_signatures(cells.values, pooled)
    h, blocks = cells.n_signatures, cells.blocks
    rows = []
    for name in chosen:
        row = found.groups.index(name)
        effect = found.effect[row].reshape(-1, h)
        block = effect.argmax(axis=0)
        best = np.argsort(-effect.max(axis=0), kind="stable")[:MARKS]
        marks = [
            {
                "signature": int(s),
                "block": blocks[block[s]] if len(blocks) > 1 else "",
                "effect": f"{effect[block[s], s]:+.2f}",
                "q": _q(found.q_value[row, block[s] * h + s]),
            }
            for s in best
            if effect[block[s], s] > 0
        ]
        rows.append((name, marks))
    return rows, (
        "Each type against all other cells. Effect (Cliff's delta) is +1 where every cell of the "
        "type has more of the signature than every other cell, 0 where chance decides; q is the "
        "false-discovery rate of the Mann-Whitney test over all types and signatures. Cells are "
        "taken as independent: with few persons behind them, q is too small."
    )


def _q(value: float) -> str:
    return "q < 0.001" if value < 0.001 else f"q = {value:.3f}"


def _methods(model: Model, cells: _Cells) -> list[str]:
    last = model.layers[-1]
    lines = [
        f"Predictive Sparse Decomposition, layers: {len(model.layers)}, signatures of the last: "
        f"{last.n_signatures:,}. First layer: patches of {model.layers[0].patch_size} x "
        f"{model.layers[0].patch_size} px every {model.layers[0].step} px.",
        f"A profile pools the codes of all windows of a cell: {'; '.join(cells.blocks)}. Where a "
        "signature is pooled in several ways, its importance and its part in a call are sums over "
        "them.",
        "Types: one-vs-one support vector machine on standardised profiles; the slope from its "
        "decisions to probabilities is fitted on folds left out. What made a call: what the called "
        "type's margin over the next best type would lose if a signature alone were as in the "
        "average cell; the largest parts are shown.",
        "Nearest cells: Euclidean distance between square roots of profiles, over all signatures, "
        "not on the map.",
        "Signatures as colours: mid grey is zero; brighter than grey adds light in that colour, "
        "darker takes it away; the contrast of each is stretched by itself.",
        "Method: Yan et al., WBC-Profiler, 2018.",
    ]
    if len(model.layers) > 1:
        lines.append("Signatures of deeper layers combine those of the first; they have no colour.")
    return lines


# ---- figures ----


def _figures(model, cells, called, labels, call_names, groups, order, figure_folder, n_threads):
    """All figures by name, as PNG data URIs, or with the reason why one could not be drawn."""
    from wbcprof.evaluation import evaluation_metrics

    found: dict[str, _Figure] = {}

    def draw(name: str, title: str, caption: str, alt: str, make: Callable[[], Any]) -> None:
        found[name] = _Figure(title, caption, alt)
        try:
            picture = make()
        except ValueError as error:
            found[name].why_not = f"{error}."
            return
        found[name].uri = _png(picture)
        if figure_folder is not None:
            _save(picture, figure_folder, name)

    h = cells.n_signatures
    pool = cells.blocks[0]
    first, ranked = cells.values[:, :h], len(set(groups)) > 1
    by = "how much a random forest uses them to tell types apart" if ranked else "their variance"
    stacked = len(model.layers) > 1
    draw(
        "mosaic", "All signatures" if not stacked else "Signatures of the first layer",
        "Small colour patterns: edges, granules, chromatin, background. Mid grey means no change."
        + ("" if stacked else f" Ordered from top left by {by}; the best 256 are framed in red."),
        f"Mosaic of {len(model.signatures):,} signatures.",
        lambda: figures.signature_mosaic(
            model.signatures, None if stacked else order, 0 if stacked else 256
        ),
    )  # fmt: skip
    examples = sorted(cells.examples, key=lambda i: (labels[i] == UNLABELLED, labels[i], i))
    draw(
        "reconstructions", "Cells rebuilt from their signatures",
        "Upper row of each type: the images. Lower row: rebuilt from predicted codes alone. What "
        "is missing below, the profile does not know.",
        f"{len(examples)} cells, each above its reconstruction.",
        lambda: figures.reconstructions(
            [cells.examples[i] for i in examples],
            [model.reconstruct(cells.examples[i], n_threads=n_threads) for i in examples],
            labels[examples], EXAMPLES,
        ),
    )  # fmt: skip
    draw(
        "profiles", "Mean profile of each type",
        f"How much of each of the best {min(256, h)} signatures the cells of a type take ({pool} "
        "over the cell). Types differ where their outlines do.",
        f"One panel per type with the mean of {min(256, h)} signatures.",
        lambda: figures.mean_profiles(first, groups, order),
    )  # fmt: skip
    draw(
        "heatmap", "Every cell, every signature",
        f"Rows are cells, columns the best {min(256, h)} signatures ({pool}), both ordered so that "
        "similar ones are neighbours. Red: more than the average cell; blue: less. Where the "
        "colour bar of types is in blocks, profiles alone sort the cells by type.",
        "Clustered heatmap of z-scores with a colour bar of types.",
        lambda: figures.heatmap(first, groups, order=order, n_cells=1000),
    )  # fmt: skip
    draw(
        "lda", "Linear discriminants",
        "The two directions that set the given types furthest apart. They were found on these very "
        "cells, so new cells would lie less far apart.",
        "Scatter plot of cells on two linear discriminants, coloured by type.",
        lambda: figures.embedding(cells.comparable, groups, "lda"),
    )  # fmt: skip
    if model.history:
        draw(
            "learning", "Learning",
            "The quantity that learning makes small, after each round; flat at the end means done.",
            "Curve of the objective over iterations.",
            lambda: figures.learning_curve(model.history[0]),
        )  # fmt: skip
    if not stacked and called.called is not None:
        _draw_responses(draw, model, cells, called, labels, call_names, n_threads)
    if not called.folds:
        return found

    scored = called.scored
    truth, names = labels[scored], call_names[scored]
    whole = evaluation_metrics(truth, names, called.types)
    runs = [dict(zip(called.types, evaluation_metrics(labels[f], call_names[f], called.types)["f1"],
                     strict=True)) for f in called.folds]  # fmt: skip
    draw(
        "f1", "F1 of each type",
        "1 is perfect." + (" Lines: standard deviation over folds." if len(runs) > 1 else ""),
        f"Bars of F1 per type; average {whole['macro_f1']:.3f}.",
        lambda: figures.f1_bars(runs),
    )  # fmt: skip
    draw(
        "confusion_counts", "Confusion, cells",
        "Rows: given type. Columns: called type. Off the diagonal are the mistakes.",
        f"Confusion matrix: {np.trace(whole['confusion']):,} of {len(scored):,} on the diagonal.",
        lambda: figures.confusion(whole["confusion"], called.types),
    )  # fmt: skip
    draw(
        "confusion", "Confusion, share of each given type",
        "The same, each row divided by its sum: the diagonal is the sensitivity.",
        "Confusion matrix normalised by row.",
        lambda: figures.confusion(whole["confusion"], called.types, normalize=True),
    )  # fmt: skip
    draw(
        "calibration", "Can the probabilities be believed?",
        "Of the cells called with a probability of 80 %, 80 % should be right: the heavy line "
        "should follow the dashed one. Thin lines: single types.",
        "Reliability diagram.",
        lambda: figures.calibration(truth, called.probability[scored], called.types),
    )  # fmt: skip
    draw(
        "coverage", "If unsure calls go to a person",
        "From right to left: leaving more of the least sure cells to a person, the share of right "
        "calls among the rest.",
        "Accuracy against the share of cells called.",
        lambda: figures.accuracy_coverage(truth, called.probability[scored], called.types),
    )  # fmt: skip
    return found


def _draw_responses(draw, model, cells, called, labels, call_names, n_threads) -> None:
    for number, name in enumerate(called.types[:EXAMPLE_TYPES], 1):
        right = [i for i in cells.examples if labels[i] == name and call_names[i] == name]
        speaking = [
            (pull, i, s)
            for i in right
            for s, pull, above, _ in called.reasons[i]
            if pull > 0 and above > 0  # what is there can be shown, what is missing cannot
        ]
        if not speaking:
            continue
        _, cell, signature = max(speaking)
        layer, image = model.layers[0], cells.examples[cell]
        draw(
            f"response_{number}", name,
            f"Signature no. {signature + 1} in {cells.names[cell]}.",
            f"A cell of type {name}, coloured where signature {signature + 1} responds.",
            lambda i=image, s=signature, layer=layer: figures.response_map(
                i, model.codes(i, n_threads=n_threads)[..., s], layer.patch_size, layer.step
            ),
        )  # fmt: skip


def _png(picture: Any) -> str:
    stream = BytesIO()
    _draw(picture, stream, format="png", dpi=140)
    return _uri(stream.getvalue(), "png")


def _save(picture: Any, folder: str | os.PathLike, name: str) -> None:
    stream = BytesIO()  # Matplotlib's PDF writer hides that a disk is full behind another error
    _draw(picture, stream, format="pdf")
    with replacing(Path(folder) / f"{name}.pdf") as temporary:
        temporary.write_bytes(stream.getvalue())


def _draw(picture: Any, target: Any, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # drawn as a box
        picture.figure.savefig(target, **options)
