"""Jittered copies: one image as other microscopes, stains and files would show it.

Learnt from as well, they teach what to be indifferent to. Everything that differs between
laboratories is drawn at random: the uptake of stains (optical densities mixed and scaled), stray
light, focus, scale, lamp, its falloff over the field, gamma, noise, JPEG.
"""

from __future__ import annotations

import io
from zlib import crc32

import numpy as np

_MIX = 0.18  # spread of the entries of the matrix that mixes densities
_DENSITY = 0.2  # of its strength, natural logarithm
_BLUR = 3.2  # px, at most, of half of the copies
_SCALES = (-0.7, 0.2)  # natural logarithm
_VEIL = 0.8  # stray light over that of the lamp, at most, of half of the copies
_LIGHT = 0.1  # spread of the lamp's channels and of gamma, natural logarithm
_FALLOFF = 0.3  # of the light, at most, from one edge to the other
_NOISE = 5.0  # grey levels, at most
_QUALITIES = (55, 97)  # of JPEG
_SMALLEST = 32  # px: no side is made smaller


def jitter(image: np.ndarray, seed: int, copy: int, strength: float = 1.0) -> np.ndarray:
    """A copy of an image (H, W, 3), uint8, of another size, as another laboratory might have it.

    Parameters
    ----------
    image : ndarray of shape (H, W, 3), uint8
    seed, copy : int
        The same image, seed and number of the copy give the same.
    strength : float
        Of all that is changed but the scale; 1 is what learning takes.

    Examples
    --------
    >>> from wbcprof.datasets import make_leukocytes
    >>> from wbcprof.smear import jitter
    >>> (image,) = make_leukocytes(1, size=96, types=["neutrophil"]).images  # generated
    >>> copies = [jitter(image, seed=0, copy=k) for k in (1, 2, 1)]
    >>> copies[0].dtype.name, copies[0].shape == copies[1].shape
    ('uint8', False)
    >>> bool((copies[0] == copies[2]).all())
    True
    """
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng((seed, copy, crc32(np.ascontiguousarray(image))))
    pixels = image.astype(np.float32)
    brightness = pixels.sum(axis=2)
    bright = pixels[brightness >= np.quantile(brightness[::4, ::4], 0.85)]
    background = np.median(bright, axis=0)
    density = np.maximum(np.log((background + 2) / (pixels + 2)), -0.1)
    mix = np.eye(3) + strength * _MIX * rng.normal(size=(3, 3))
    mix /= np.maximum(mix.sum(axis=1, keepdims=True), 0.4)
    density = density @ (mix.T * np.exp(strength * rng.normal(0, _DENSITY))).astype(np.float32)
    veil = strength * rng.integers(2) * rng.uniform(0, _VEIL)
    light = (np.exp(-density) + veil) / (1 + veil) * background
    blur = strength * rng.integers(2) * rng.uniform(0, _BLUR)
    if blur > 0.2:
        light = gaussian_filter(light, (blur, blur, 0))
    scale = np.exp(rng.uniform(*_SCALES))
    height, width = (max(min(side, _SMALLEST), round(side * scale)) for side in image.shape[:2])
    smaller = Image.fromarray(_bytes(light)).resize(
        (width, height), Image.Resampling.BILINEAR if scale > 1 else Image.Resampling.BOX
    )
    light = np.asarray(smaller).astype(np.float32)
    falloff = rng.uniform(0, _FALLOFF) * strength * np.linspace(-0.5, 0.5, width)[:, None]
    light *= (np.exp(rng.normal(0, _LIGHT * strength, 3)) * (1 - falloff)).astype(np.float32)
    light = 255 * np.clip(light / 255, 0, 1) ** np.exp(rng.normal(0, _LIGHT * strength))
    noise = rng.uniform(0, _NOISE) * strength
    light += noise * rng.standard_normal(light.shape, np.float32)
    stream = io.BytesIO()
    quality = int(rng.uniform(*_QUALITIES))
    Image.fromarray(_bytes(light)).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream).convert("RGB"))


def jitter_some(image: np.ndarray, seed: int) -> np.ndarray:
    """Of half of all images a copy, the others as they are; which depends on the image alone."""
    return jitter(image, seed, 0) if crc32(np.ascontiguousarray(image)) % 2 else image


def _bytes(light: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.clip(np.rint(light), 0, 255).astype(np.uint8)
    return result
