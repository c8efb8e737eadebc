"""Sizes that the benchmarks and the regression tests share: those of the paper, and around them."""

from __future__ import annotations

import numpy as np

IMAGE_SIDES = (80, 120, 200, 300, 360)  # pixels; 360 is a raw PBC image
BATCHES = (1, 64)
THREADS = (1, 2)

PATCH = 20
STEP = 5
CHANNELS = 3
N_SIGNATURES = 1024


def encoder_arrays(
    n_signatures: int = N_SIGNATURES, patch: int = PATCH
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Generated filters, offsets and gains with responses of the order of 1."""
    rng = np.random.default_rng(0)
    filters = rng.standard_normal((n_signatures, patch, patch, CHANNELS)) / patch
    return filters, rng.standard_normal(n_signatures), rng.uniform(0, 0.3, n_signatures)


def generated_images(n: int, side: int) -> np.ndarray:
    """Generated smooth images, (n, side, side, 3) uint8."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:side, :side] / side
    waves = rng.uniform(2, 12, (n, 3, 2))
    images = np.empty((n, side, side, CHANNELS), np.uint8)
    for image, wave in zip(images, waves, strict=True):
        for channel in range(CHANNELS):
            shade = np.sin(wave[channel, 0] * x + channel) * np.cos(wave[channel, 1] * y)
            noise = rng.normal(0, 5, (side, side))
            image[:, :, channel] = np.clip(128 + 100 * shade + noise, 0, 255)
    return images
