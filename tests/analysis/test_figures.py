from __future__ import annotations

import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, StepPatch
from matplotlib.testing.compare import compare_images
from PIL import Image

from wbcprof import Model, Profiles, TypeClassifier
from wbcprof.analysis import Evaluation, figures, rank_signatures
from wbcprof.analysis.agreement import bland_altman, passing_bablok
from wbcprof.analysis.embedding import embed
from wbcprof.model import Pooling
from wbcprof.model.machines import TypeMachines

DASH = "\N{EN DASH}"
TYPES = ["basophil", "lymphocyte", "monocyte"]
MATHS = "$x^$ <script> $\\frac"


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def cells(rng):
    """60 profiles of 3 well separated types over 12 signatures."""
    labels = TYPES * 20
    centres = 4 * rng.normal(size=(3, 12))
    values = np.array([centres[TYPES.index(name)] for name in labels])
    return values + rng.normal(size=values.shape), labels


def render(drawn) -> np.ndarray:
    buffer = io.BytesIO()
    drawn.figure.savefig(buffer, format="rgba", dpi=60)
    return np.frombuffer(buffer.getvalue(), dtype=np.uint8).reshape(-1, 4)


def texts(ticks) -> list[str]:
    return [tick.get_text() for tick in ticks]


def every_figure(values, labels, names):
    """One drawing of each function, over the given labels and type names."""
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)
    k, n = len(names), len(labels)
    probabilities = rng.dirichlet(np.ones(k), n)
    counted = np.linspace(0.2, 0.8, 30)
    again = 1.15 * counted - 0.05 + np.random.default_rng(2).normal(0, 0.02, 30)
    both = names[0], names[-1]
    return {
        "mosaic": lambda ax: figures.signature_mosaic(
            rng.normal(size=(9, 4, 4, 3)), np.arange(9), n_framed=4, ax=ax
        ),
        "reconstructions": lambda ax: figures.reconstructions(
            [image] * n, [image] * n, labels, ax=ax
        ),
        "means": lambda ax: figures.mean_profiles(values, labels, ax=ax),
        "heatmap": lambda ax: figures.heatmap(values, labels, ax=ax),
        "embedding": lambda ax: figures.embedding(
            embed(values, method="pca"), labels, "pca", ax=ax
        ),
        "f1": lambda ax: figures.f1_bars({name: (0.9, 0.1) for name in names}, ax=ax),
        "methods": lambda ax: figures.f1_bars({name: [{name: 0.9}] for name in names}, ax=ax),
        "confusion": lambda ax: figures.confusion(np.eye(k), names, ax=ax),
        "curve": lambda ax: figures.learning_curve(
            [{"objective": 1.0, names[0]: 2.0}], terms=[names[0]], ax=ax
        ),
        "response": lambda ax: figures.response_map(image, np.ones((5, 6)), 8, 4, ax=ax),
        "calibration": lambda ax: figures.calibration(labels, probabilities, names, ax=ax),
        "line": lambda ax: figures.method_line(counted, again, both, ax=ax),
        "differences": lambda ax: figures.difference_plot(counted, again, both, ax=ax),
        "coverage": lambda ax: figures.accuracy_coverage(labels, probabilities, names, ax=ax),
    }


FIGURES = sorted(every_figure(np.zeros((3, 2)), TYPES, TYPES))


# Signatures


def test_colours_keep_zero_grey_and_scale_each_signature_by_itself(rng):
    signatures = rng.normal(size=(3, 5, 5, 3)) * [[[[1]]], [[[100]]], [[[0]]]]
    signatures[0, 0, 0] = 0
    shown = figures.signature_colours(signatures)
    assert shown.shape == signatures.shape
    assert shown[0, 0, 0].tolist() == [0.5] * 3
    assert (shown[2] == 0.5).all()
    np.testing.assert_allclose(np.abs(shown[:2] - 0.5).max(axis=(1, 2, 3)), 0.5)
    np.testing.assert_allclose(shown[1], 0.5 + 0.5 * signatures[1] / np.abs(signatures[1]).max())
    np.testing.assert_allclose(figures.signature_colours(-signatures), 1 - shown)


def test_grey_signatures_become_rgb(rng):
    assert figures.signature_colours(rng.normal(size=(2, 4, 4, 1))).shape == (2, 4, 4, 3)


@pytest.mark.parametrize(
    ("signatures", "message"),
    [
        (np.zeros((4, 5, 6, 3)), "shape"),
        (np.zeros((4, 75)), "shape"),
        (np.zeros((0, 5, 5, 3)), "at least one"),
        (np.full((1, 2, 2, 3), np.nan), "NaN"),
    ],
)
def test_bad_signatures(signatures, message):
    with pytest.raises(ValueError, match=message):
        figures.signature_colours(signatures)


def test_mosaic_sorts_tiles_by_rank_and_frames_the_top(rng):
    signatures = rng.normal(size=(10, 4, 4, 3))
    order = rng.permutation(10)
    ax = figures.signature_mosaic(signatures, order, n_framed=6)
    picture = ax.images[0].get_array()
    assert picture.shape == (3 * 5, 4 * 5, 4)
    colours = figures.signature_colours(signatures)
    for place, index in enumerate(order):
        y, x = 5 * (place // 4), 5 * (place % 4)
        np.testing.assert_array_equal(picture[y : y + 4, x : x + 4, :3], colours[index])
    assert (picture[10:, 10:, 3] == 0).all()  # what is beside tiles is of the page's colour
    (frame,) = ax.patches
    assert isinstance(frame, Polygon)
    assert to_hex(frame.get_edgecolor()).upper() == figures.FRAME_RED
    inside = [frame.get_path().contains_point((i % 4 + 0.4, i // 4 + 0.4)) for i in range(10)]
    assert inside == [True] * 6 + [False] * 4
    assert ax.get_xlabel() == "10 signatures, best first; first 6 framed"


@pytest.mark.parametrize(("h", "framed", "expected"), [(1, 256, 1), (5, 2, 2), (100, 256, 100)])
def test_mosaic_of_few_signatures_frames_those_there_are(h, framed, expected, rng):
    ax = figures.signature_mosaic(rng.normal(size=(h, 3, 3, 3)), n_framed=framed)
    columns = int(np.ceil(np.sqrt(h)))
    path = ax.patches[0].get_path()
    inside = [path.contains_point((i % columns + 0.4, i // columns + 0.4)) for i in range(h)]
    assert inside == [True] * expected + [False] * (h - expected)


def test_mosaic_frame_is_seen_and_can_be_left_out(rng):
    def red_pixels(n_framed):
        pixels = render(figures.signature_mosaic(grey, n_framed=n_framed)).astype(int)
        return (pixels[:, 0] - pixels[:, 1:3].max(axis=1) > 100).sum()

    grey = rng.normal(size=(16, 4, 4, 1))
    assert red_pixels(0) == 0
    assert 100 < red_pixels(4) < red_pixels(16)


def test_mosaic_says_best_first_only_of_an_order(rng):
    signatures = rng.normal(size=(10, 4, 4, 3))
    ax = figures.signature_mosaic(signatures)
    assert ax.get_xlabel() == "10 signatures" and not ax.patches
    ax = figures.signature_mosaic(signatures, np.arange(10))
    assert ax.get_xlabel() == "10 signatures, best first; first 10 framed"
    assert figures.signature_mosaic(signatures, n_framed=2).get_xlabel().endswith("first 2 framed")


def test_what_ranks_signatures_orders_the_mosaic(rng):
    """Ranked were the pooled features, whose numbers a mosaic of signatures does not know."""
    features = Pooling(("mean", "max"), (1, 2)).feature_names(6)
    labels = np.repeat(["a", "b"], 15)
    values = rng.random((30, len(features))).astype(np.float32)
    telling = [i for i, name in enumerate(features) if "Signature_0005" in name]
    values[labels == "b", telling[3]] += 3
    values[labels == "b", telling[7]] += 3
    order, importance = rank_signatures(Profiles(values, features, [""] * 30), labels)
    assert order[0] == 4 and len(order) == 6
    assert importance.sum() == pytest.approx(1)
    assert (np.diff(importance[order]) <= 0).all()
    ax = figures.signature_mosaic(rng.normal(size=(6, 4, 4, 3)), order)
    assert ax.get_xlabel().startswith("6 signatures, best first")


@pytest.mark.parametrize("order", [[0, 0], [3], [-1], [0.5], [], [[0]]])
def test_bad_order(order):
    with pytest.raises(ValueError, match="order"):
        figures.signature_mosaic(np.zeros((3, 2, 2, 3)), order)


# Cells and profiles


def test_reconstructions_pair_rows_per_type(rng):
    originals = [rng.integers(0, 256, (8, 6 + i, 3), dtype=np.uint8) for i in range(5)]
    rebuilt = [2.0 * image / 255 for image in originals]
    ax = figures.reconstructions(originals, rebuilt, ["b", "a", "b", None, "b"], n_per_type=2)
    assert texts(ax.get_yticklabels())[::2] == ["a", "b", "unlabelled"]
    assert set(texts(ax.get_yticklabels())[1::2]) == {"reconstruction"}
    drawn = [(picture.get_array(), picture.get_extent()) for picture in ax.images]
    assert len(drawn) == 2 * (1 + 2 + 1)
    for (image, extent), cell in zip(drawn[::2], [1, 0, 2, 3], strict=True):
        np.testing.assert_array_equal(image, originals[cell])
        left, right, bottom, top = extent
        height, width = originals[cell].shape[:2]
        assert (bottom - top) / (right - left) == pytest.approx(height / width)
    np.testing.assert_array_equal(drawn[1][0], np.clip(rebuilt[1], 0, 1))
    assert drawn[1][1][3] > drawn[0][1][3]
    assert drawn[0][1][:2] == drawn[1][1][:2]


def test_reconstructions_of_bad_or_many_cells():
    image = np.zeros((4, 4, 3), np.uint8)
    ax = figures.reconstructions([image] * 100, [image] * 100, range(100))
    assert len(ax.images) == 2 * figures.MAX_PANELS
    assert ax.get_xlabel() == "+76 more types"
    for originals, rebuilt, message in [
        ([], [], "at least one cell"),
        ([image], [], "rebuilt"),
        ([image], [image[1:]], "cell 0"),
        ([image[..., 0]], [image], "shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            figures.reconstructions(originals, rebuilt)
    with pytest.raises(ValueError, match="labels"):
        figures.reconstructions([image], [image], ["a", "b"])


def test_mean_profiles_are_class_means_in_rank_order_on_one_scale(cells, rng):
    values, labels = cells
    order = rng.permutation(12)
    drawn = figures.mean_profiles(values, [*labels[:-1], "rare"], order, n_top=5)
    assert list(drawn.parts) == [*TYPES, "rare"]
    for name, panel in drawn.parts.items():
        rows = values[-1:] if name == "rare" else values[:-1][np.array(labels[:-1]) == name]
        (step,) = (patch for patch in panel.patches if isinstance(patch, StepPatch))
        np.testing.assert_allclose(step.get_data().values, rows.mean(axis=0)[order[:5]])
        assert f"(n = {len(rows)})" in panel.get_ylabel()
    assert len({panel.get_ylim() for panel in drawn.parts.values()}) == 1


def test_mean_profiles_rank_signatures_by_separation_by_default(rng):
    labels = ["a", "b"] * 30
    values = rng.normal(size=(60, 6))
    values[::2, 4] += 20
    values[:, 2] = 0.1
    drawn = figures.mean_profiles(values, labels, n_top=1)
    assert drawn.parts["a"].patches[0].get_data().values[0] > 15
    everything = figures.mean_profiles(values, labels)
    assert len(everything.parts["a"].patches[0].get_data().values) == 6


def test_means_say_what_they_are_means_of(cells):
    values, labels = cells
    panels = figures.mean_profiles(values, labels, columns="signature (mean)")
    assert panels.parts["monocyte"].get_xlabel().startswith("signature (mean), best first; bars:")
    panels = figures.mean_profiles(values, None)  # nothing ranks them
    assert panels.parts["unlabelled"].get_xlabel() == "feature; bars:\nits mean over cells"
    heights = panels.parts["unlabelled"].patches[0].get_data().values
    np.testing.assert_allclose(heights, values.mean(axis=0))


def test_heatmap_is_normalised_and_only_reordered(cells):
    values, labels = cells
    values[:, 3] = 0.1
    drawn = figures.heatmap(values, labels, clip=1.5)
    expected = np.clip((values - values.mean(axis=0)) / values.std(axis=0), -1.5, 1.5)
    expected[:, 3] = 0
    shown = np.asarray(drawn.parts["heatmap"].images[0].get_array())
    assert drawn.parts["heatmap"].images[0].get_clim() == (-1.5, 1.5)
    columns = [np.abs(np.sort(expected.T) - np.sort(c)).sum(axis=1).argmin() for c in shown.T]
    assert sorted(columns) == list(range(12))
    rows = [np.abs(expected[:, columns] - row).sum(axis=1).argmin() for row in shown]
    assert sorted(rows) == list(range(60))
    np.testing.assert_allclose(shown, expected[np.ix_(rows, columns)], atol=1e-12)
    stripe = drawn.parts["types"].images[0].get_array()[:, 0]
    colours = figures.type_colours(labels)
    np.testing.assert_allclose(stripe, [to_rgb(colours[labels[row]]) for row in rows])
    # Separated types end up as one run each, and the trees have one bracket per merge.
    assert (np.diff(stripe, axis=0) != 0).any(axis=1).sum() == 2
    for side, n in (("rows", 60), ("columns", 12)):
        (tree,) = (c for c in drawn.parts[side].collections if isinstance(c, LineCollection))
        assert len(tree.get_segments()) == n - 1
    assert texts(drawn.frame.get_legend().get_texts()) == TYPES


def test_heatmap_tree_joins_nearest_cells_first():
    drawn = figures.heatmap([[0.0], [10.0], [0.1], [10.3]], None)
    shown = np.asarray(drawn.parts["heatmap"].images[0].get_array())[:, 0]
    low = shown < 0
    assert low.tolist() in ([True, True, False, False], [False, False, True, True])
    brackets = np.array(drawn.parts["rows"].collections[0].get_segments())
    np.testing.assert_allclose(brackets[0, :, 1], [0.5, 0.5, 1.5, 1.5] if low[0] else
                               [2.5, 2.5, 3.5, 3.5])  # fmt: skip
    assert (brackets[0, 1:3, 0] == brackets[0, :, 0].max()).all()
    np.testing.assert_allclose(brackets[2, [0, 3], 1], [1, 3])


def test_heatmap_samples_many_cells_and_says_so(rng):
    drawn = figures.heatmap(rng.normal(size=(90, 4)), None, n_cells=40)
    assert drawn.parts["heatmap"].images[0].get_array().shape == (40, 4)
    assert "40 cells drawn at random from 90" in drawn.parts["heatmap"].get_xlabel()


def test_heatmap_of_two_thousand_alike_cells_does_not_recurse(rng):
    values = np.zeros((2000, 3))
    values[0] = 1
    assert render(figures.heatmap(values, None)).any()


def test_heatmap_of_one_cell_says_why_not():
    with pytest.raises(ValueError, match="at least 2 cells"):
        figures.heatmap([[1.0, 2.0]], ["a"])


def test_mean_profiles_of_a_single_cell():
    drawn = figures.mean_profiles([[1.0, 3.0]], None)
    panel = drawn.parts["unlabelled"]
    np.testing.assert_array_equal(panel.patches[0].get_data().values, [1, 3])
    assert render(drawn).any()


@pytest.mark.parametrize("draw", [figures.mean_profiles, figures.heatmap, embed])
def test_bad_profiles(draw):
    for values, labels, message in [
        (np.zeros(5), None, "shape"),
        (np.zeros((0, 5)), [], "shape"),
        ([[np.nan, 1.0]] * 4, None, "NaN"),
        (np.zeros((4, 2)), ["a"], r"labels \(1\).*cells \(4\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            draw(values, labels)


def test_numbers_out_of_range(cells):
    with pytest.raises(ValueError, match="n_cells must be an integer of at least 2, got 1"):
        figures.heatmap(*cells, n_cells=1)
    with pytest.raises(ValueError, match="clip must be positive and finite, got 0"):
        figures.heatmap(*cells, clip=0)
    with pytest.raises(ValueError, match="n_top must be a positive integer, got 0"):
        figures.mean_profiles(*cells, n_top=0)
    with pytest.raises(ValueError, match="n_bins must be a positive integer, got 0"):
        figures.calibration(["a"], [[1.0]], ["a"], n_bins=0)


# Embeddings


@pytest.mark.parametrize("method", ["tsne", "lda", "pca"])
def test_embedding_draws_every_cell_in_its_colour_and_separates_types(method, cells):
    values, labels = cells
    labels = [None, *labels[1:]]
    points = embed(values, labels, method)
    np.testing.assert_array_equal(points, embed(values, labels, method))
    ax = figures.embedding(points, labels, method)
    where = {tuple(point): i for i, point in enumerate(points)}
    colours, drawn = figures.type_colours(labels), []
    for scatter in (c for c in ax.collections if isinstance(c, PathCollection)):
        own = [where[tuple(point)] for point in np.asarray(scatter.get_offsets())]
        assert [to_hex(c).upper() for c in scatter.get_facecolors()] == [
            colours[labels[i] or "unlabelled"].upper() for i in own
        ]
        drawn += own
    assert sorted(drawn) == list(range(60))
    assert texts(ax.get_legend().get_texts()) == [*TYPES, "unlabelled"]
    apart = np.linalg.norm(points[1:, None] - points[1:], axis=2)
    np.fill_diagonal(apart, np.inf)
    nearest = np.array(labels[1:])[apart.argmin(axis=1)]
    assert (nearest == labels[1:]).mean() > 0.9


def test_lda_of_two_types_takes_the_first_component_second(cells):
    values, labels = cells
    labels = [None if name == "monocyte" else name for name in labels]
    points = embed(values, labels, "lda")
    np.testing.assert_array_equal(points[:, 1], embed(values, None, "pca")[:, 0])
    assert figures.embedding(points, labels, "lda").get_ylabel() == "PC 1"


@pytest.mark.parametrize("labels", [None, ["a"] * 60, list(range(60)), ["a", "b"] + [None] * 58])
def test_lda_needs_types(labels, cells):
    with pytest.raises(ValueError, match="LDA needs"):
        embed(cells[0], labels, "lda")


def test_embedding_of_too_little_says_why_not(cells):
    for values, message in [
        (np.eye(2), "at least 3 cells"),
        (np.zeros((1, 5)), "at least 3 cells"),
        (np.arange(5.0)[:, None], "2 signatures"),
        (np.ones((5, 3)), "same profile"),
    ]:
        with pytest.raises(ValueError, match=message):
            embed(values)
    with pytest.raises(ValueError, match="method"):
        embed(cells[0], method="mds")


@pytest.mark.parametrize("points", [np.zeros((4, 3)), np.zeros(4), np.full((4, 2), np.nan)])
def test_points_that_are_no_map_are_refused(points):
    with pytest.raises(ValueError, match=r"points must be finite, of shape \(cells, 2\)"):
        figures.embedding(points, None)


def test_tsne_of_three_cells(rng):
    assert np.isfinite(embed(rng.normal(size=(3, 4)))).all()


def test_umap_missing_is_named(monkeypatch, cells):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match="umap-learn"):
        embed(cells[0], method="umap")


def test_umap_gets_components_and_no_more_neighbours_than_there_are(monkeypatch, rng):
    class UMAP:
        def __init__(self, n_neighbors, random_state):
            assert (n_neighbors, random_state) == (5, 0)

        def fit_transform(self, components):
            return components[:, :2].astype(np.float32)

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
    values = rng.normal(size=(6, 9))
    points = embed(values, method="umap")
    assert points.dtype == np.float64
    np.testing.assert_allclose(points, embed(values, method="pca"), rtol=1e-6)


# Evaluation


def heights(ax):
    return [
        [bar.get_height() for bar in bars] for bars in ax.containers if hasattr(bars, "patches")
    ]


def half_spreads(ax):
    return [
        [np.ptp(segment[:, 1]) / 2 if len(segment) else np.nan for segment in lines.get_segments()]
        for lines in ax.collections
        if isinstance(lines, LineCollection)
    ]


def test_f1_of_runs_is_mean_and_sample_deviation_and_average_is_per_run():
    runs = [{"a": 0.7, "b": 0.6}, {"a": 0.9, "b": 0.7}]
    ax = figures.f1_bars(runs)
    np.testing.assert_allclose(heights(ax), [[0.8, 0.65, 0.725]])
    spread = [np.std(x, ddof=1) for x in ([0.7, 0.9], [0.6, 0.7], [0.65, 0.8])]
    np.testing.assert_allclose(half_spreads(ax), [spread])
    assert texts(ax.get_xticklabels()) == ["a", "b", "average"]
    assert ax.get_legend() is None


def test_f1_methods_side_by_side_with_undefined_and_given_average():
    methods = {"first": {"a": (0.5, 0.1), "b": (0.7, 0.2)}, MATHS: [{"b": 0.4, "c": np.nan}]}
    ax = figures.f1_bars(methods, average={"first": (0.55, 0.05), MATHS: (0.4, 0)})
    nan = np.nan
    np.testing.assert_allclose(heights(ax), [[0.5, 0.7, nan, 0.55], [nan, 0.4, nan, 0.4]])
    np.testing.assert_allclose(half_spreads(ax)[0], [0.1, 0.2, nan, 0.05])
    edges = np.sort([[bar.get_x(), bar.get_x() + bar.get_width()] for bar in ax.patches], axis=0)
    assert (edges[1:, 0] >= edges[:-1, 1]).all()
    assert len(ax.get_legend().get_texts()) == 2
    np.testing.assert_allclose(heights(figures.f1_bars(methods))[0], [0.5, 0.7, nan, 0.6])


def test_f1_of_evaluations_within_proportions():
    evaluation = an_evaluation()
    ax = figures.f1_bars({"profiles": evaluation, "histogram": evaluation.baseline})
    np.testing.assert_allclose(heights(ax), [[0.75, 0.85, 0.8], [0.75, 0.75, 0.6]])
    np.testing.assert_allclose(half_spreads(ax), [[0.05, 0.05, 0.02], [0.05, 0.05, 0.1]])
    np.testing.assert_allclose(heights(figures.f1_bars(evaluation)), [[0.75, 0.85, 0.8]])
    ax = figures.f1_bars({"a": (0.98, 0.1), "b": (0.01, 0.1), "c": (np.nan, np.nan)})
    ends = [segment[:, 1] for segment in ax.collections[0].get_segments() if len(segment)]
    assert np.nanmin(ends) == 0 and np.nanmax(ends) == 1 and ax.get_ylim() == (0, 1)
    assert [text.get_text() for text in ax.texts] == ["0.98", "0.01", DASH, "0.49"]
    with pytest.raises(ValueError, match="could not be scored: all alike"):
        figures.f1_bars({"profiles": evaluation, "histogram": {"failed": "all alike"}})


def test_bad_f1():
    for empty in ({}, [], {"a": {}}):
        with pytest.raises(ValueError, match="empty"):
            figures.f1_bars(empty)
    with pytest.raises(ValueError, match="average"):
        figures.f1_bars({"m": [{"a": 1.0}]}, average={"n": (1, 0)})


def test_confusion_writes_rounded_counts_and_shares():
    matrix = np.array([[8.6, 1.4, 0], [5, 1234, 0], [0, 0, 0]])
    cases = {
        False: ["8.6", "1.4", "0.0", "5.0", "1,234.0", "0.0", "0.0", "0.0", "0.0"],
        True: ["0.86", "0.14", "0.00", "0.00", "1.00", "0.00", DASH, DASH, DASH],
        "called": ["0.63", "0.00", DASH, "0.37", "1.00", DASH, "0.00", "0.00", DASH],
    }
    for normalize, expected in cases.items():
        ax = figures.confusion(matrix, TYPES, normalize)
        numbers = {text.get_position(): text.get_text() for text in ax.texts}
        assert [numbers[column, row] for row in range(3) for column in range(3)] == expected
        assert ax.images[0].get_clim() == (0, 1 if normalize else 1234)
        assert texts(ax.get_yticklabels()) == texts(ax.get_xticklabels()) == TYPES
    assert ax.get_ylabel() == "true"


def an_evaluation():
    row = {"f1": 0.75, "f1_std": 0.05, "sensitivity": 0.8, "specificity": 0.9, "n_images": 8}
    counts = [[3.5, 0.5], [1.0, 3.0]]
    return Evaluation(
        macro_f1=0.8, macro_f1_std=0.02, sensitivity=0.8, specificity=0.9,
        per_type={"a": row, "b": row | {"f1": 0.85}},
        confusion={"types": ["a", "b"], "mean_counts": counts, "row_normalised": counts},
        runs=[0.78, 0.82], signatures="", repeats=2, seed=0, seeds=[1, 2], n_images=16,
        n_groups=None, n_copies=0, parameters={},
        baseline={"macro_f1": 0.6, "macro_f1_std": 0.1, "per_type": {"a": row, "b": row}},
    )  # fmt: skip


def test_confusion_takes_what_the_api_gives(rng):
    evaluation = an_evaluation()
    for given in (evaluation, evaluation.confusion):
        ax = figures.confusion(given)
        assert texts(ax.texts) == ["3.5", "0.5", "1.0", "3.0"]
        assert texts(ax.get_xticklabels()) == ["a", "b"]
    values, labels = rng.normal(size=(20, 3)), ["a", "b"] * 10
    classifier = TypeClassifier().fit(values, labels)
    stored = TypeMachines.from_arrays(*classifier.to_arrays())
    for given in (classifier, stored):
        shown = [float(text) for text in texts(figures.confusion(given).texts)]
        assert shown == classifier.confusion.ravel().tolist()
    stored.confusion_ = None
    with pytest.raises(ValueError, match="no cell could be left out"):
        figures.confusion(stored)
    with pytest.raises(ValueError, match="leave it out"):
        figures.confusion(evaluation, ["a", "b"])
    with pytest.raises(ValueError, match="needs type_names"):
        figures.confusion(np.eye(2))


def test_learning_curves_of_what_was_learnt():
    history = [{"objective": 2.0}, {"objective": 1.0}]
    model = Model([], history=[history])
    for given in (model, SimpleNamespace(model_=model), SimpleNamespace(history_=history)):
        ax = figures.learning_curve(given)
        assert ax.lines[0].get_ydata().tolist() == [entry["objective"] for entry in history]
    with pytest.raises(ValueError, match="layer must be one of the 1"):
        figures.learning_curve(model, layer=1)


def test_bad_confusion():
    for matrix, names, message in [
        (np.eye(2), TYPES, "shape"),
        (np.zeros((0, 0)), [], "shape"),
        (-np.eye(3), TYPES, "0 or more"),
    ]:
        with pytest.raises(ValueError, match=message):
            figures.confusion(matrix, names)
    with pytest.raises(ValueError, match="normalize"):
        figures.confusion(np.eye(3), TYPES, "row")


def test_learning_curve_counts_from_one_and_leaves_gaps():
    history = [
        {"objective": 3.0, "l1": 1},
        {"objective": np.inf, "l1": 1},
        {"objective": 2, "l1": 0},
    ]
    ax = figures.learning_curve(history, terms=["l1"])
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[1, 3], [2, np.inf], [3, 2]])
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), [1, 1, 0])
    assert len(figures.learning_curve(history[:1]).lines) == 1
    with pytest.raises(ValueError, match="empty"):
        figures.learning_curve([])
    with pytest.raises(ValueError, match="'l2' throughout"):
        figures.learning_curve(history, terms=["l2"])


@pytest.mark.parametrize(("patch", "step"), [(6, 2), (5, 5), (3, 4)])
@pytest.mark.parametrize("sign", [1, -1])
def test_response_map_averages_the_windows_over_each_pixel(patch, step, sign, rng):
    image = rng.integers(0, 256, (17, 23, 3), dtype=np.uint8)
    codes = sign * rng.uniform(0, 2, ((17 - patch) // step + 1, (23 - patch) // step + 1))
    total, count = np.zeros((17, 23)), np.zeros((17, 23))
    for (i, j), code in np.ndenumerate(codes):
        window = np.s_[i * step : i * step + patch, j * step : j * step + patch]
        total[window] += code
        count[window] += 1
    base, overlay = figures.response_map(image, codes, patch, step).images
    np.testing.assert_array_equal(base.get_array(), image)
    response = overlay.get_array()
    np.testing.assert_array_equal(response.mask, count == 0)
    np.testing.assert_allclose(response.compressed(), (total / np.maximum(count, 1))[count > 0])
    most = np.abs(response).max()
    np.testing.assert_allclose(overlay.get_clim(), (-most if sign < 0 else 0, most))
    assert overlay.get_alpha().max() == pytest.approx(0.85)
    assert (overlay.get_alpha()[count == 0] == 0).all()


def test_response_map_of_silence_and_bad_input():
    image = np.full((10, 10, 3), 200, np.uint8)
    silent = figures.response_map(image, np.zeros((2, 2)), 5, 5)
    assert (silent.images[1].get_alpha() == 0).all()
    for codes, patch, step, message in [
        (np.zeros((3, 2)), 5, 5, r"shape \(2, 2\).*got \(3, 2\)"),
        (np.full((2, 2), np.nan), 5, 5, "finite"),
        (np.zeros((1, 1)), 11, 1, "patch_size"),
        (np.zeros((1, 1)), 5, 0, "step"),
    ]:
        with pytest.raises(ValueError, match=message):
            figures.response_map(image, codes, patch, step)


def test_calibration_points_and_error():
    probabilities = np.array([[0.9, 0.1], [0.92, 0.08], [0.45, 0.55], [0.3, 0.7], [0.6, 0.4]])
    truth = ["a", "b", "b", "unknown type", None]
    ax = figures.calibration(truth, probabilities, ["a", "b"])
    called, first, second, _ = ax.lines
    np.testing.assert_allclose(called.get_xydata(), [[0.55, 1], [0.7, 0], [0.91, 0.5]])
    np.testing.assert_allclose(first.get_xydata(), [[0.3, 0], [0.45, 0], [0.91, 0.5]])
    np.testing.assert_allclose(second.get_xydata()[-1], [0.7, 0])
    error = (0.45 + 0.7 + 2 * 0.41) / 4
    assert texts(ax.get_legend().get_texts()) == [f"called type (ECE {error:.3f})", "a", "b"]


def test_accuracy_coverage_keeps_ties_together():
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.8, 0.2], [0.5, 0.5]])
    ax = figures.accuracy_coverage(["b", "a", "b", "b", None], probabilities, ["a", "b"])
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[0.25, 1], [0.75, 2 / 3], [1, 0.5]])
    assert ax.texts[0].get_text() == "all cells: 0.500"


@pytest.mark.parametrize("draw", [figures.calibration, figures.accuracy_coverage])
def test_bad_probabilities(draw):
    for truth, probabilities, names, message in [
        (["a"], [[0.5, 0.6]], ["a", "b"], "sum to 1"),
        (["a"], [[np.nan, 1.0]], ["a", "b"], "sum to 1"),
        (["a"], [[1.0]], ["a", "b"], "shape"),
        (["a", "b"], [[0.5, 0.5]], ["a", "b"], "labels"),
        ([None], [[0.5, 0.5]], ["a", "b"], "no labelled cell"),
        (["a"], [[0.5, 0.5]], ["a", "a"], "distinct"),
    ]:
        with pytest.raises(ValueError, match=message):
            draw(truth, probabilities, names)


# Two methods


def test_method_line_is_passing_bablok_with_identity_and_band(rng):
    x = rng.uniform(0.2, 0.8, 25)
    y = 0.1 + 0.8 * x + rng.normal(0, 0.01, 25)
    ax = figures.method_line(x, y)
    line = passing_bablok(x, y)
    identity, drawn = (line.get_xydata() for line in ax.lines)
    np.testing.assert_array_equal(identity[:, 0], identity[:, 1])
    np.testing.assert_allclose(drawn[:, 1], line.intercept + line.slope * drawn[:, 0])
    np.testing.assert_array_equal(ax.collections[1].get_offsets(), np.column_stack([x, y]))
    (outline,) = ax.collections[0].get_paths()
    assert outline.contains_points(drawn[1:-1]).all()
    assert f"slope {line.slope:.3g}" in ax.get_legend().get_texts()[1].get_text()


@pytest.mark.parametrize("percent", [False, True])
def test_difference_plot_shows_bias_and_limits(percent, rng):
    x = rng.uniform(0.2, 0.8, 25)
    y = x + rng.normal(0.02, 0.01, 25)
    ax = figures.difference_plot(x, y, percent=percent)
    found = bland_altman(x, y, percent=percent)
    heights = [line.get_ydata()[0] for line in ax.lines[:4]]
    assert heights == [0, found.bias, found.lower, found.upper]
    expected = 100 * (y - x) / ((x + y) / 2) if percent else y - x
    np.testing.assert_allclose(ax.collections[0].get_offsets()[:, 1], expected)
    assert ax.get_ylabel().endswith("% of mean") == percent
    boxes = [patch.get_window_extent().transformed(ax.transData.inverted()) for patch in ax.patches]
    assert boxes[1].intervaly == pytest.approx((found.lower_low, found.lower_high))


def test_a_trend_is_drawn_where_there_is_one(rng):
    x = rng.uniform(0.2, 0.8, 25)
    assert len(figures.difference_plot(x, 1.3 * x + rng.normal(0, 0.01, 25)).lines) == 5
    with pytest.raises(ValueError, match="names must be two"):
        figures.difference_plot(x, x, "both")


def test_axes_of_proportions_end_at_0_and_1():
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8]])
    for truth in (["a", "a", "b"], ["b", "b", "a"]):
        for draw in (figures.calibration, figures.accuracy_coverage):
            ax = draw(truth, probabilities, ["a", "b"])
            for low, high in (ax.get_xlim(), ax.get_ylim()):
                assert 0 <= low < high == 1
    x = np.linspace(0, 1, 12)
    ax = figures.method_line(x, 0.9 * x)
    assert ax.get_xlim() == ax.get_ylim() == (0, 1)
    assert figures.difference_plot(x, 0.9 * x).get_xlim()[0] == 0
    low, high = figures.method_line(3 * x - 1, 3 * x - 1.1).get_xlim()
    assert low < -1.1 and high > 2


# Files


def test_files_hold_text_as_text(tmp_path):
    ax = figures.f1_bars({"neutrophil": (0.9, 0.1)})
    figures.save(ax, tmp_path / "f1.pdf")
    figures.save(ax, tmp_path / "f1.SVG")
    content = (tmp_path / "f1.pdf").read_bytes()
    assert b"/CIDFontType2" in content and b"/Type3" not in content
    assert ">neutrophil</text>" in (tmp_path / "f1.SVG").read_text()
    assert matplotlib.rcParams["pdf.fonttype"] == 3  # as people have it


def test_files_have_the_width_asked_for(cells, tmp_path):
    for drawn in (figures.heatmap(*cells), figures.embedding(np.eye(2), ["a", "b"])):
        before = drawn.figure.get_size_inches().tolist()
        figures.save(drawn, tmp_path / "f.png", width=85)
        with Image.open(tmp_path / "f.png") as picture:
            assert picture.width == pytest.approx(85 / 25.4 * 300, abs=1)
            assert picture.height / picture.width == pytest.approx(before[1] / before[0], abs=0.01)
        assert drawn.figure.get_size_inches().tolist() == before
    for wrong in ({"width": 5}, {"width": "wide"}):
        with pytest.raises(ValueError, match="width must be"):
            figures.save(drawn, tmp_path / "g.png", **wrong)
    with pytest.raises(ValueError, match=r"called \*.pdf or \*.svg or \*.png"):
        figures.save(drawn, tmp_path / "g.tif")
    assert [path.name for path in tmp_path.iterdir()] == ["f.png"]


LONG = ["immature_granulocyte", "atypical_lymphocyte", "monocyte"]


@pytest.mark.parametrize("name", sorted(set(FIGURES) - {"methods"}))
def test_nothing_is_cut_in_a_column_of_a_journal(name, cells):
    values, labels = cells
    long = dict(zip(TYPES, LONG))
    drawn = every_figure(values, [long[label] for label in labels], LONG)[name](None)
    figure, width = drawn.figure, 85 / 25.4
    height = figure.get_size_inches()[1] * width / figure.get_size_inches()[0]
    figure.set_size_inches(width, height)
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    assert min(box.x0, box.y0) > -0.03 and box.x1 < width + 0.03 and box.y1 < height + 0.03


# All of them


def test_type_colours_are_stable_and_grey_without_a_label():
    colours = figures.type_colours(["b", None, "a", float("nan"), "b", ""])
    assert colours == {
        "a": figures.PALETTE[0],
        "b": figures.PALETTE[1],
        "unlabelled": "#999999",
    }
    many = figures.type_colours(range(1000))
    assert len(many) == 1000
    assert set(many.values()) == set(figures.PALETTE)


def test_axes_given_are_drawn_in_and_the_rest_is_made_outside_pyplot(cells):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    for name, draw in every_figure(*cells, TYPES).items():
        own = Figure().add_subplot()
        for given in (own, None):
            drawn = draw(given)
            ax = drawn.frame if isinstance(drawn, figures.Panels) else drawn
            assert isinstance(ax, Axes), name
            assert ax is given or given is None, name
            assert len(np.unique(render(drawn), axis=0)) > 2, name
    assert plt.get_fignums() == before


def test_text_of_data_is_drawn_literally(cells):
    values, labels = cells
    odd = {"basophil": MATHS, "lymphocyte": "$\\undefined$", "monocyte": "_$" + "long " * 30}
    for name, draw in every_figure(values, [odd[x] for x in labels], [*odd.values()]).items():
        assert render(draw(None)).any(), name
    assert figures._literal("a$b$\nc") == r"a\$b\$ c"
    escaped, plain = Figure(), Figure()
    escaped.text(0.1, 0.5, figures._literal("a $x$ b"))
    plain.text(0.1, 0.5, "a $x$ b", parse_math=False)
    np.testing.assert_array_equal(render(escaped.add_subplot()), render(plain.add_subplot()))


def test_thousands_of_types_and_missing_labels(rng):
    labels = [f"type {i:04d}" for i in range(1500)]
    names = [*labels[1:], "unlabelled"]
    values = rng.normal(size=(1500, 4))
    draws = every_figure(values, [None, *labels[1:]], names)
    del draws["methods"]
    drawn = {name: draw(None) for name, draw in draws.items()}
    legends = [drawn["embedding"].get_legend(), drawn["heatmap"].frame.get_legend()]
    for legend in legends:
        shown = texts(legend.get_texts())
        assert len(shown) == figures.MAX_LEGEND + 1
        assert shown[-1] == "+1,480 more"
    assert sum(len(c.get_offsets()) for c in drawn["embedding"].collections) == 1500
    assert len(drawn["means"].parts) == figures.MAX_PANELS
    assert "+1,476 more types" in list(drawn["means"].parts.values())[-1].get_xlabel()
    assert len(drawn["f1"].patches) == figures.MAX_BARS + 1
    assert drawn["f1"].get_xlabel() == "+1,460 more types"
    assert not drawn["confusion"].texts
    assert not drawn["confusion"].get_xticklabels()
    assert "1,500 types" in drawn["confusion"].get_xlabel()
    assert len(drawn["calibration"].lines) == 2


def test_types_differ_by_marker_as_well_as_colour(cells, rng):
    values, labels = cells
    shapes = [h.get_marker() for h in figures.heatmap(*cells).frame.get_legend().legend_handles]
    assert len(set(shapes)) == len(TYPES)
    ax = figures.embedding(values[:, :2], labels, "pca")
    assert [handle.get_marker() for handle in ax.get_legend().legend_handles] == shapes
    assert len({path.get_paths()[0].vertices.tobytes() for path in ax.collections}) == len(TYPES)
    curves = figures.calibration(labels, np.full((60, 3), 1 / 3), TYPES).lines[1:4]
    assert [curve.get_marker() for curve in curves] == shapes
    n = len(figures.PALETTE) + 3
    ax = figures.embedding(rng.normal(size=(n, 2)), range(n), "pca")
    handles = ax.get_legend().legend_handles
    looks = {(to_hex(handle.get_color()), handle.get_marker()) for handle in handles}
    assert len(looks) == n


def test_figures_are_alike_every_time_and_from_threads(cells):
    draws = every_figure(*cells, TYPES)
    with ThreadPoolExecutor(4) as pool:
        for name in ("means", "heatmap", "embedding", "confusion", "response", "calibration"):
            first = render(draws[name](None))
            for again in pool.map(lambda _: render(draws[name](None)), range(4)):
                np.testing.assert_array_equal(again, first)


def test_importing_and_drawing_stays_light_and_away_from_pyplot():
    code = (
        "import sys; from wbcprof import figures\n"
        "assert not {'matplotlib', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "import numpy as np; figures.heatmap(np.eye(5), list('aabbc'))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)  # -P: not the source folder


# As before: pictures of the functions above on fixed generated data, beside stored ones.
# WBCPROF_STORE_FIGURES=1 stores them anew; look at them before you commit them.

BASELINE = Path(__file__).parents[1] / "baseline"


@pytest.mark.skipif(
    matplotlib.__version_info__ < (3, 11), reason="letters have other shapes before Matplotlib 3.11"
)
@pytest.mark.parametrize("name", FIGURES)
def test_figures_look_as_before(name, cells, tmp_path):
    values, labels = cells
    drawn = every_figure(values, labels, TYPES)[name](None)
    stored, now = BASELINE / f"{name}.png", tmp_path / f"{name}.png"
    path = stored if os.environ.get("WBCPROF_STORE_FIGURES") else now
    drawn.figure.savefig(path, dpi=50, metadata={"Software": None})
    assert compare_images(stored, path, tol=12) is None


def test_f1_bars_take_what_an_evaluation_gives():
    rows = {"a": {"f1": 0.9, "f1_std": 0.1, "sensitivity": 1.0}, "b": {"f1": 0.7, "f1_std": 0.0}}
    pairs = {"a": (0.9, 0.1), "b": (0.7, 0.0)}
    for one, other in ((rows, pairs), ({"x": rows, "y": rows}, {"x": pairs, "y": pairs})):
        drawn = [[bar.get_height() for bar in figures.f1_bars(x).patches] for x in (one, other)]
        assert drawn[0] == drawn[1]
