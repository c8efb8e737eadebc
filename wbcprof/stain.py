"""Stain normalisation: images of one laboratory brought to the colours of another's.

Every method first scales each channel so that the empty background has the reference's colour:
light source, exposure and white balance are then alike. ``background`` stops there; the others go
on with what is stained:

reinhard   mean and spread of each channel of logarithmic cone space, over stained pixels
           (Reinhard et al., Color transfer between images, 2001)
macenko    two stains, the extremes of the plane of optical densities, and how strongly they are
           taken up (Macenko et al., A method for normalizing histology slides, 2009)
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from .images import open_images

METHODS = ("background", "reinhard", "macenko")
_STAINED = 0.15  # least mean optical density over the background, natural log, of a stained pixel
_BRIGHTEST = 0.1  # of the pixels, whose median colour is the background's
_MIN_STAINED = 50  # pixels; images with fewer are left as they are
_PERCENTILES = (1, 99)  # of angles and of concentrations in macenko
_REFERENCE_PIXELS = 200_000
_CONES = np.array(
    [[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]]
)  # RGB to LMS
_OPPONENTS = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ [[1, 1, 1], [1, 1, -2], [1, -1, 0]]


class StainNormaliser(TransformerMixin, BaseEstimator):
    """Brings images to the colours of those that it was fitted on.

    Parameters
    ----------
    method : {"background", "reinhard", "macenko"}
        See the module's description.

    Attributes
    ----------
    background_ : ndarray of shape (3,)
        Grey levels of the reference's background: medians over its images.
    centre_, spread_ : ndarray of shape (3,)
        Of the reference's stained pixels, in logarithmic opponent colours ("reinhard").
    stains_ : ndarray of shape (2, 3)
        Optical density of unit amounts of the reference's stains ("macenko").
    strength_ : ndarray of shape (2,)
        99th percentile of the amount of each stain ("macenko").
    """

    def __init__(self, method: str = "reinhard") -> None:
        self.method = method

    def fit(self, images: Any, y: Any = None) -> Self:
        """Learn the colours of reference images, as `wbcprof.images.open_images` takes them.

        Raises
        ------
        ValueError
            An unknown method, or too few stained pixels.
        """
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, got {self.method!r}")
        source = open_images(images)
        if source.n_hint is None:
            source = open_images([cell.pixels for cell in source])
        backgrounds = [_background(cell.pixels) for cell in source]
        self.background_ = np.median(backgrounds, axis=0)
        if self.method == "background":
            return self
        share = max(1, _REFERENCE_PIXELS // len(backgrounds))
        samples = []
        for cell in source:
            stained = self._stained(self._balance(cell.pixels))
            samples.append(stained[:: max(1, len(stained) // share)])
        pixels = np.concatenate(samples)
        if len(pixels) < _MIN_STAINED:
            raise ValueError(
                f"the reference images hold {len(pixels)} stained pixels; at least "
                f"{_MIN_STAINED} are needed whose mean optical density is {_STAINED} above the "
                "background's"
            )
        if self.method == "reinhard":
            colours = _to_opponents(pixels)
            self.centre_, self.spread_ = colours.mean(axis=0), colours.std(axis=0)
        else:
            density = self._density(pixels)
            self.stains_ = _find_stains(density)
            self.strength_ = _strength(density, self.stains_)
        return self

    def transform(self, images: Any) -> list[np.ndarray]:
        """Normalised images, uint8 (H, W, 3) each; one with too little stain is left as it is."""
        check_is_fitted(self, "background_")
        return [self._normalise(cell.pixels) for cell in open_images(images)]

    def _balance(self, image: np.ndarray) -> np.ndarray:
        """The image with the reference's background."""
        ratio = self.background_ / np.maximum(_background(image), 1)
        return _to_bytes(image * ratio)

    def _density(self, pixels: np.ndarray) -> np.ndarray:
        """Optical density over the background, natural logarithm."""
        return -np.log((pixels + 1.0) / (self.background_ + 1))

    def _stained(self, image: np.ndarray) -> np.ndarray:
        pixels = image.reshape(-1, 3)
        return pixels[self._density(pixels).mean(axis=1) > _STAINED]

    def _normalise(self, image: np.ndarray) -> np.ndarray:
        image = self._balance(image)
        if self.method == "background":
            return image
        stained = self._stained(image)
        if len(stained) < _MIN_STAINED:
            return image
        pixels = image.reshape(-1, 3)
        if self.method == "reinhard":
            own = _to_opponents(stained)
            ratio = self.spread_ / np.maximum(own.std(axis=0), 1e-6)
            colours = (_to_opponents(pixels) - own.mean(axis=0)) * ratio + self.centre_
            rgb = 10 ** (colours @ np.linalg.inv(_OPPONENTS).T) @ np.linalg.inv(_CONES).T - 1
        else:
            own = _find_stains(density := self._density(stained))
            ratio = self.strength_ / np.maximum(_strength(density, own), 1e-6)
            density = self._density(pixels)
            amounts = _amounts(density, own)
            rest = density - amounts @ own  # what two stains do not explain
            rgb = (self.background_ + 1) * np.exp(-(amounts * ratio @ self.stains_ + rest)) - 1
        return _to_bytes(rgb).reshape(image.shape)


def _to_bytes(levels: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def _background(image: np.ndarray) -> np.ndarray:
    """Median colour (3,) of the brightest pixels."""
    pixels = image.reshape(-1, 3)
    brightness = pixels.sum(axis=1, dtype=np.uint16)
    least = np.quantile(brightness, 1 - _BRIGHTEST, method="lower")
    return np.median(pixels[brightness >= least], axis=0)


def _to_opponents(pixels: np.ndarray) -> np.ndarray:
    return np.log10((pixels.astype(np.float64) + 1) @ _CONES.T) @ _OPPONENTS.T


def _find_stains(density: np.ndarray) -> np.ndarray:
    """Unit densities (2, 3) at the extreme angles of the plane of largest variance, the bluer
    stain (more density of red light) first."""
    plane = np.linalg.eigh(np.cov(density.T))[1][:, :0:-1]
    plane *= np.where(plane.sum(axis=0) < 0, -1, 1)
    angle = np.arctan2(*(density @ plane).T[::-1])
    extremes = np.percentile(angle, _PERCENTILES)
    stains = np.column_stack([np.cos(extremes), np.sin(extremes)]) @ plane.T
    return stains[np.argsort(-stains[:, 0], kind="stable")]


def _amounts(density: np.ndarray, stains: np.ndarray) -> np.ndarray:
    return density @ np.linalg.pinv(stains)


def _strength(density: np.ndarray, stains: np.ndarray) -> np.ndarray:
    return np.percentile(_amounts(density, stains), _PERCENTILES[1], axis=0)
