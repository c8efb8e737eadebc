"""Naive NumPy twins of the compiled functions: the readable statement of each algorithm."""

from __future__ import annotations

import numpy as np


def sparse_code(
    patches, components, alpha, kappa=0.0, prediction=None, *, positive=False, tol=1e-9,
    max_iter=20000,
):
    """Cyclic coordinate descent in float64; returns dense codes (n, h) and relative gaps (n,)."""
    x, b = np.asarray(patches, np.float64), np.asarray(components, np.float64)
    f = np.zeros((len(x), len(b))) if prediction is None else np.asarray(prediction, np.float64)
    q_matrix = b @ b.T + kappa * np.eye(len(b))
    linear = x @ b.T + kappa * f
    energy = (x**2).sum(1) + kappa * (f**2).sum(1)
    codes, gaps = np.zeros_like(f), np.zeros(len(x))
    for z, q, e, row in zip(codes, linear, energy, range(len(x)), strict=True):
        r = q.copy()
        for _ in range(max_iter):
            for j in range(len(b)):
                v = r[j] + q_matrix[j, j] * z[j]
                new = np.sign(v) * max(abs(v) - alpha, 0) / q_matrix[j, j]
                new = max(new, 0) if positive else new
                r -= (new - z[j]) * q_matrix[j]
                z[j] = new
            gaps[row] = relative_gap(z, q, r, e, alpha, positive)
            if gaps[row] <= tol:
                break
    return codes, gaps


def relative_gap(z, q, r, energy, alpha, positive=False):
    """Duality gap of z over its objective; q the linear term, r = q - Qz, energy = |y|^2."""
    rho2, y_rho = energy - z @ q - z @ r, energy - z @ q
    primal = 0.5 * rho2 + alpha * np.abs(z).sum()
    peak = max(r.max(), 0) if positive else np.abs(r).max()
    t = np.clip(y_rho / rho2, 0, None) if rho2 > 0 else 1.0
    t = min(t, alpha / peak) if peak > 0 else t
    gap = primal - t * y_rho + 0.5 * t**2 * rho2
    return max(gap, 0) / primal if primal > 0 else 0.0
