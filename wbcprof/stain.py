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

from collections.abc import Iterable
from dataclasses import dataclass
from operator import mul
from typing import Self

import numpy as np

STAINS = {
    "background": (),
    "reinhard": ("centre", "spread"),
    "macenko": ("stains", "strength"),
}
"""Methods, and what each knows of the reference beside its background."""

_SHAPES = {"background": (3,), "centre": (3,), "spread": (3,), "stains": (2, 3), "strength": (2,)}
_STAINED = 0.15  # least mean optical density over the background, natural log, of a stained pixel
_BRIGHTEST = 0.1  # of the pixels, whose median colour is the background's
_MIN_STAINED = 50  # pixels; images with fewer get the background alone
_PERCENTILES = (1, 99)  # of angles and of concentrations in macenko
_SAMPLED_PIXELS = 4096  # of each reference image, at most
_CONES = np.array(
    [[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]], np.float32
)  # RGB to LMS
_OPPONENTS = np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]], np.float32)
_OPPONENTS /= np.linalg.norm(_OPPONENTS, axis=1, keepdims=True)


@dataclass(frozen=True, eq=False)
class StainNormaliser:
    """Brings images to the colours of those that it was learnt from; see `StainNormaliser.learn`.

    Parameters
    ----------
    method : {"background", "reinhard", "macenko"}
        See the module's description.
    background : ndarray of shape (3,), float32
        Grey levels of the reference's background: medians over its images.
    centre, spread : ndarray of shape (3,), float32
        Of the reference's stained pixels, in logarithmic opponent colours ("reinhard").
    stains : ndarray of shape (2, 3), float32
        Optical density of unit amounts of the reference's stains ("macenko").
    strength : ndarray of shape (2,), float32
        99th percentile of the amount of each stain ("macenko").
    """

    method: str
    background: np.ndarray
    centre: np.ndarray | None = None
    spread: np.ndarray | None = None
    stains: np.ndarray | None = None
    strength: np.ndarray | None = None

    def __post_init__(self):
        check_stain(self.method)
        for name, shape in _SHAPES.items():
            value = getattr(self, name)
            if name != "background" and name not in STAINS[self.method]:
                if value is not None:
                    raise ValueError(f"{name} does not go with the method {self.method!r}")
                continue
            value = np.asarray(value, np.float32)
            if value.shape != shape or not np.isfinite(value).all():
                raise ValueError(f"{name} must be {shape} finite numbers, got {value.tolist()}")
            object.__setattr__(self, name, value)

    @classmethod
    def learn(cls, images: Iterable[np.ndarray], method: str = "reinhard") -> Self:
        """Learn the colours of reference images (H, W, 3), uint8; a few hundred are enough.

        Raises
        ------
        ValueError
            An unknown method, no images, or too few stained pixels.
        """
        check_stain(method)
        backgrounds, samples = [], []
        for image in images:
            backgrounds.append(_background(image))
            planes = _planes(image)
            samples.append(planes[:, :: -(-planes.shape[1] // _SAMPLED_PIXELS)])
        if not samples:
            raise ValueError("reference images are needed to learn stain colours from, got none")
        background = np.median(backgrounds, axis=0)
        reference = cls("background", background)
        if method == "background":
            return reference
        planes = np.concatenate(
            [reference._balance(*pair) for pair in zip(samples, backgrounds, strict=True)], axis=1
        )
        planes = planes[:, reference._is_stained(planes)]
        if planes.shape[1] < _MIN_STAINED:
            raise ValueError(
                f"the reference images hold {planes.shape[1]} stained pixels; at least "
                f"{_MIN_STAINED} are needed whose mean optical density is {_STAINED} above the "
                "background's. Give images of stained cells, or no stain method"
            )
        if method == "reinhard":
            colours = _to_opponents(planes)
            return cls(method, background, centre=colours.mean(axis=1), spread=colours.std(axis=1))
        density = reference._density(planes)
        stains = _find_stains(density)
        return cls(method, background, stains=stains, strength=_strength(density, stains))

    def normalise(self, image: np.ndarray) -> np.ndarray:
        """The image (H, W, 3), uint8, in the reference's colours."""
        planes = self._restain(self._balance(_planes(image), _background(image)))
        return np.ascontiguousarray(planes.T).reshape(image.shape)

    def _balance(self, planes: np.ndarray, background: np.ndarray) -> np.ndarray:
        """Pixels of an image with that background, given the reference's."""
        ratio = self.background / np.maximum(background, 1)
        return _look_up(_to_bytes(np.arange(256, dtype=np.float32) * ratio[:, None]), planes)

    def _restain(self, planes: np.ndarray) -> np.ndarray:
        if self.method == "background":
            return planes
        stained = self._is_stained(planes)
        if stained.sum() < _MIN_STAINED:
            return planes
        if self.method == "reinhard":
            colours = _to_opponents(planes)
            own = colours[:, stained]
            ratio = self.spread / np.maximum(own.std(axis=1), 1e-6)
            colours *= ratio[:, None]
            colours += (self.centre - ratio * own.mean(axis=1))[:, None]
            cones = np.exp(_mix(np.linalg.inv(_OPPONENTS), colours))
            return _to_bytes(_mix(np.linalg.inv(_CONES), cones) - 1)
        density = self._density(planes)
        own = _find_stains(density[:, stained])
        ratio = self.strength / np.maximum(_strength(density[:, stained], own), 1e-6)
        # Restained, with what two stains do not explain left as it is.
        density += _mix((self.stains * ratio[:, None] - own).T, _amounts(density, own))
        return _to_bytes((self.background[:, None] + 1) * np.exp(-density) - 1)

    def _density(self, planes: np.ndarray) -> np.ndarray:
        """Optical density over the background, natural logarithm."""
        table = np.log((self.background[:, None] + 1) / (np.arange(256, dtype=np.float32) + 1))
        return _look_up(table, planes)

    def _is_stained(self, planes: np.ndarray) -> np.ndarray:
        return self._density(planes).sum(axis=0) > 3 * _STAINED


def check_stain(method: str) -> None:
    if method not in STAINS:
        raise ValueError(f"the stain method must be one of {tuple(STAINS)}, got {method!r}")


def _to_bytes(levels: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def _planes(image: np.ndarray) -> np.ndarray:
    """Pixels by channel, (3, n)."""
    return np.ascontiguousarray(image.reshape(-1, 3).T)


def _look_up(tables: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """Each channel's pixels through its own table of 256."""
    return np.stack(list(map(np.take, tables, planes)))


def _background(image: np.ndarray) -> np.ndarray:
    """Median colour (3,) of the brightest pixels."""
    pixels = image.reshape(-1, 3)
    brightness = pixels.sum(axis=1, dtype=np.uint16)
    counts = np.bincount(brightness)[::-1].cumsum()[::-1]  # of pixels at least as bright
    least = np.flatnonzero(counts >= _BRIGHTEST * len(pixels))[-1]
    return np.median(pixels[brightness >= least], axis=0).astype(np.float32)


def _mix(matrix: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """matrix @ planes. Not by BLAS, which rounds differently for each number of threads."""
    return np.stack([sum(map(mul, row, planes)) for row in matrix])


def _to_opponents(planes: np.ndarray) -> np.ndarray:
    return _mix(_OPPONENTS, np.log(_mix(_CONES, planes.astype(np.float32) + 1)))


def _find_stains(density: np.ndarray) -> np.ndarray:
    """Unit densities (2, 3) at the extreme angles of the plane of largest variance, the bluer
    stain (more density of red light) first."""
    centred = density - density.mean(axis=1, keepdims=True)
    covariance = [[(a * b).mean(dtype=np.float64) for b in centred] for a in centred]
    plane = np.linalg.eigh(covariance)[1].astype(np.float32)[:, :0:-1]
    plane *= np.where(plane.sum(axis=0) < 0, -1, 1)
    angle = np.arctan2(*_mix(plane.T, density)[::-1])
    extremes = np.percentile(angle, _PERCENTILES)
    stains = np.column_stack([np.cos(extremes), np.sin(extremes)]).astype(np.float32) @ plane.T
    return stains[np.argsort(-stains[:, 0], kind="stable")]


def _amounts(density: np.ndarray, stains: np.ndarray) -> np.ndarray:
    return _mix(np.linalg.pinv(stains).T, density)


def _strength(density: np.ndarray, stains: np.ndarray) -> np.ndarray:
    return np.percentile(_amounts(density, stains), _PERCENTILES[1], axis=1).astype(np.float32)
