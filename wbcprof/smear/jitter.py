"""Jittered copies: one image as other microscopes, stains and files would show it.

Learnt from as well, they teach what to be indifferent to. Everything that differs between
laboratories is drawn at random: the uptake of stains (optical densities mixed and scaled), stray
light, focus, scale, lamp, its falloff over the field, gamma, noise, JPEG.
"""

from __future__ import annotations

import io
from zlib import crc32

import numpy as np

from wbcprof.smear.stain import check_image

_MIX = 0.18  # spread of the entries of the matrix that mixes densities
_DENSITY = 0.2  # of its strength, natural logarithm
_BLUR = 3.2  # px, at most, of half of the copies
_SCALES = (-0.7, 0.2)  # natural logarithm
_VEIL = 0.8  # stray light over that of the lamp, at most, of half of the copies
_LIGHT = 0.1  # spread of the lamp's channels and of gamma, natural logarithm
_FALLOFF = 0.3  # of the light, at most, from one edge to the other
_NOISE = 5.0  # grey levels, at most
_QUALITIES = (55, 97)  # of JPEG
_LEVELS = np.arange(256.0)
N_TURNS = 8
_SMALLEST = 32  # px: no side is made smaller


def jitter(image: np.ndarray, seed: int, copy: int, strength: float = 1.0) -> np.ndarray:
    """A copy of an image (H, W, 3), uint8, of another size, as another laboratory might have it.

    Parameters
    ----------
    image : ndarray of shape (H, W, 3), uint8
    seed, copy : int
        The same image, seed and number of the copy give the same; the number says how it is turned.
    strength : float
        Of all that is changed but the scale; 1 is what learning takes.

    Returns
    -------
    ndarray of shape (H', W', 3), uint8
        Sides are 0.5 to 1.22 times the image's, which change places in every second copy.

    Raises
    ------
    ValueError
        What is given is no image.

    Examples
    --------
    >>> from wbcprof.datasets import make_leukocytes
    >>> from wbcprof.smear.jitter import jitter
    >>> (image,) = make_leukocytes(1, size=96, types=["neutrophil"]).images  # generated
    >>> copies = [jitter(image, seed=0, copy=k) for k in (1, 2, 1)]
    >>> copies[0].dtype.name, copies[0].shape == copies[1].shape
    ('uint8', False)
    >>> bool((copies[0] == copies[2]).all())
    True
    """
    from PIL import Image, ImageFilter

    rng = np.random.default_rng((seed, copy, _number(check_image(image))))
    mix = np.eye(3) + strength * _MIX * rng.normal(size=(3, 3))
    mix /= np.maximum(mix.sum(axis=1, keepdims=True), 0.4)
    mix *= np.exp(strength * rng.normal(0, _DENSITY))
    veil = strength * rng.integers(2) * rng.uniform(0, _VEIL)
    blur = strength * rng.integers(2) * rng.uniform(0, _BLUR)
    scale = np.exp(rng.uniform(*_SCALES))

    # At the new size first: what follows is done to fewer pixels, in most copies.
    height, width = (max(min(side, _SMALLEST), round(side * scale)) for side in image.shape[:2])
    smaller = Image.fromarray(np.ascontiguousarray(image)).resize(
        (width, height), Image.Resampling.BILINEAR if scale > 1 else Image.Resampling.BOX
    )
    background = _background(image)
    density = np.maximum(np.log((background[:, None] + 2) / (_LEVELS + 2)), -0.1)
    passed = np.exp(-mix.T[:, None] * density[:, :, None])  # of density's channel: level, channel
    light = _product(passed, np.asarray(smaller))
    light += np.float32(veil)
    light *= (background / (1 + veil)).astype(np.float32)
    pixels = _bytes(light)
    if blur > 0.2:
        sigma = blur * width / image.shape[1], blur * height / image.shape[0]
        blurred = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma))
        pixels = np.asarray(blurred)

    falloff = rng.uniform(0, _FALLOFF) * strength * np.linspace(-0.5, 0.5, width)[:, None]
    lamp = np.exp(rng.normal(0, _LIGHT * strength, 3))
    gamma = np.exp(rng.normal(0, _LIGHT * strength))
    light = (255 * (_LEVELS / 255) ** gamma).astype(np.float32).take(pixels)
    light *= ((lamp * (1 - falloff)) ** gamma).astype(np.float32)
    np.minimum(light, 255, out=light)
    spread = np.float32(rng.uniform(0, _NOISE) * strength)
    light += spread * rng.standard_normal(light.shape, np.float32)
    stream = io.BytesIO()
    quality = int(rng.uniform(*_QUALITIES))
    Image.fromarray(_bytes(light)).save(stream, "JPEG", quality=quality)
    return turned(np.asarray(Image.open(stream).convert("RGB")), copy)


def turned(image: np.ndarray, turn: int) -> np.ndarray:
    """An image (H, W, ...) in one of the `N_TURNS` ways that its edges can lie, which are counted
    over again: by quarters, then mirrored by quarters; 0 leaves it as it is."""
    quarters = np.rot90(image, turn % 4)
    return np.ascontiguousarray(quarters[:, ::-1] if turn % N_TURNS > 3 else quarters)


def jitter_some(image: np.ndarray, seed: int) -> np.ndarray:
    """Of half of all images a copy, the others as they are; which depends on the image alone."""
    return jitter(image, seed, 0) if _number(check_image(image)) % 2 else image


def _number(image: np.ndarray) -> int:
    """The same for the same pixels."""
    return crc32(np.ascontiguousarray(image).data)


def _background(image: np.ndarray) -> np.ndarray:
    """Median colour (3,) of the brightest pixels."""
    sample = image[::4, ::4].reshape(-1, 3)
    brightness = sample.sum(axis=1, dtype=np.uint16)
    bright = sample[brightness >= np.quantile(brightness, 0.85)]
    result: np.ndarray = np.median(bright, axis=0)
    return result


def _product(tables: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Of each channel's table (256, 3) at its grey levels; (H, W, 3), float32."""
    planes = [plane.astype(np.intp) for plane in np.moveaxis(pixels, 2, 0)]
    result = np.empty(pixels.shape, np.float32)
    for channel in range(3):
        red, green, blue = (
            table.take(plane)
            for table, plane in zip(tables[..., channel].astype(np.float32), planes, strict=True)
        )
        red *= green
        np.multiply(red, blue, out=result[..., channel])
    return result


def _bytes(light: np.ndarray) -> np.ndarray:
    """Grey levels, float32, rounded in place and within 0 to 255."""
    np.rint(light, out=light)
    np.clip(light, 0, 255, out=light)
    return light.astype(np.uint8)
