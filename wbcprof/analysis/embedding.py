"""A map of cells: profiles brought to two dimensions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from wbcprof.analysis.figures import AXIS_NAMES, check_cells
from wbcprof.checks import UNLABELLED, Choice

_MANY_CELLS = 5000  # below, threads wait for one another longer than they work, on busy cores


def embed(
    values: ArrayLike,
    labels: Iterable[Any] | None = None,
    method: str = "tsne",
    random_state: int = 0,
) -> np.ndarray:
    """Two coordinates per cell, (n, 2) float64; what `wbcprof.figures.embedding` draws.

    Parameters
    ----------
    values : (n, h) float
        Profiles, not all alike, in the scaling that distances should be taken in; at least three
        cells and two signatures.
    labels : sequence, optional
        Used by LDA only, which is fitted on the labelled cells: two types at least, and more
        cells than types.
    method : {"tsne", "lda", "umap", "pca"}
        All but PCA start from the first 50 principal components. t-SNE takes perplexity
        ``min(30, (n - 1) / 3)``. LDA has seen the labels, so on the cells it was fitted on it
        shows more separation than new cells would have; two types give one discriminant, and the
        second coordinate is then the first principal component. "umap" raises ImportError where
        umap-learn is not installed.

    Examples
    --------
    >>> import wbcprof
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(2, size=48)  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1)
    >>> profiles = wbcprof.profile(cells.images, model, labels=cells.labels)
    >>> points = wbcprof.analysis.embed(profiles)
    >>> points.shape
    (12, 2)
    >>> ax = wbcprof.figures.embedding(points, profiles.labels)
    """
    from sklearn.decomposition import PCA

    Choice(tuple(AXIS_NAMES)).check("method", method)
    values, names = check_cells(values, labels)
    n, h = values.shape
    if n < 3 or h < 2:
        raise ValueError(f"an embedding needs at least 3 cells and 2 signatures, got {n} and {h}")
    if np.ptp(values, axis=0).max() == 0:
        raise ValueError("all cells have the same profile: there is nothing to embed")
    components = PCA(min(50, n - 1, h), random_state=random_state).fit_transform(values)
    if method == "pca":
        points: np.ndarray = components[:, :2]
        return points
    if method == "tsne":
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits

        model = TSNE(perplexity=min(30, max(1, (n - 1) / 3)), init="pca", random_state=random_state)
        with threadpool_limits(1 if n < _MANY_CELLS else None, user_api="openmp"):  # of this thread
            return np.asarray(model.fit_transform(components), dtype=np.float64)
    if method == "umap":
        try:
            from umap import UMAP
        except ImportError as error:
            raise ImportError(
                "method='umap' needs umap-learn (pip install umap-learn); "
                "method='tsne' needs nothing more"
            ) from error
        model = UMAP(n_neighbors=min(15, n - 1), random_state=random_state)
        return np.asarray(model.fit_transform(components), dtype=np.float64)
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    known = names != UNLABELLED
    k = len(set(names[known]))
    if k < 2 or known.sum() <= k:
        raise ValueError(
            f"LDA needs at least 2 types and more labelled cells than types, got "
            f"{k} types and {known.sum()} labelled cells"
        )
    components = components[:, components.std(axis=0) > 1e-9 * components[:, 0].std()]
    model = LinearDiscriminantAnalysis(n_components=min(2, k - 1, components.shape[1]))
    found = model.fit(components[known], names[known].astype(str)).transform(components)
    return np.column_stack([found, components[:, 0]])[:, :2]
