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

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import mul
from typing import Any, Self

import numpy as np

from wbcprof._shown import Shown
from wbcprof.checks import Choice
from wbcprof.threads import go_on

STAINS = {
    "background": (),
    "reinhard": ("centre", "spread"),
    "macenko": ("stains", "strength"),
}
"""Methods, and what each knows of the reference beside its background."""

RULE = Choice(tuple(STAINS))
"""What the name of a method may be."""

_SHAPES = {"background": (3,), "centre": (3,), "spread": (3,), "stains": (2, 3), "strength": (2,)}
_RANGES = {  # of what images of 256 grey levels can give
    "background": (0, 255),
    "centre": (-10, 10),
    "spread": (0, 10),
    "stains": (-1.001, 1.001),
    "strength": (0, 1000),
}
_STAINED = 0.15  # least mean optical density over the background, natural log, of a stained pixel
_BRIGHTEST = 0.1  # of the pixels, whose median colour is the background's
_MOST_BRIGHTER = 4  # times that a channel of the background is made brighter, at most
DARKEST = 12
"""Grey level of the brightest channel: darker is black, as beyond the edge of a field."""
_MOST_BLACK = 0.3  # of the pixels
_MIN_STAINED = 50  # pixels; images with fewer get the background alone
_PERCENTILES = (1, 99)  # of angles and of concentrations in macenko
_SAMPLED_PIXELS = 1 << 14  # of an image, at most
_BRIGHTEST_LEVEL = 1024.0  # grey level beyond which all is white: few stained pixels tell little
_CHUNK = 1 << 13  # pixels at a time: they stay in the cache
_CONES = np.array(
    [[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]]
)  # RGB to LMS
_OPPONENTS = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ [[1, 1, 1], [1, 1, -2], [1, -1, 0]]


# In double precision: grey levels after rounding are then the same on every CPU, but for one in
# billions, and so are profiles.
@dataclass(frozen=True, eq=False, repr=False)
class StainNormaliser(Shown):
    """Brings images to the colours of those that it was learnt from; see `StainNormaliser.learn`.

    Parameters
    ----------
    method : {"background", "reinhard", "macenko"}
        See the module's description.
    background : ndarray of shape (3,), float64
        Grey levels of the reference's background: medians over its images.
    centre, spread : ndarray of shape (3,), float64
        Of the reference's stained pixels, in logarithmic opponent colours ("reinhard").
    stains : ndarray of shape (2, 3), float64
        Optical density of unit amounts of the reference's stains ("macenko").
    strength : ndarray of shape (2,), float64
        99th percentile of the amount of each stain ("macenko").

    Examples
    --------
    The light of a dimmer lamp, brought back:

    >>> import numpy as np
    >>> import wbcprof
    >>> from wbcprof.datasets import make_leukocytes
    >>> images = make_leukocytes(1, size=64).images  # generated
    >>> stain = wbcprof.StainNormaliser.learn(images, "background")
    >>> dim = (0.7 * images).astype(np.uint8)
    >>> restored = np.stack([stain.normalise(image) for image in dim])
    >>> print(round(dim.mean() / images.mean(), 1), round(restored.mean() / images.mean(), 1))
    0.7 1.0
    """

    method: str
    background: np.ndarray
    centre: np.ndarray | None = None
    spread: np.ndarray | None = None
    stains: np.ndarray | None = None
    strength: np.ndarray | None = None

    def __post_init__(self) -> None:
        RULE.check("the stain method", self.method)
        for name, shape in _SHAPES.items():
            value = getattr(self, name)
            if name != "background" and name not in STAINS[self.method]:
                if value is not None:
                    raise ValueError(f"{name} does not go with the method {self.method!r}")
                continue
            value = np.asarray(value, np.float64)
            if value.shape != shape or not np.isfinite(value).all():
                raise ValueError(f"{name} must be {shape} finite numbers, got {value.tolist()}")
            least, most = _RANGES[name]
            if not ((value >= least) & (value <= most)).all():
                raise ValueError(f"{name} must be from {least} to {most}, got {value.tolist()}")
            if name == "stains" and not np.allclose(np.linalg.norm(value, axis=1), 1, atol=1e-3):
                raise ValueError(f"stains must be of length 1, got {value.tolist()}")
            object.__setattr__(self, name, value)

    @classmethod
    def learn(cls, images: Iterable[np.ndarray], method: str = "reinhard") -> Self:
        """Learn the colours of reference images (H, W, 3), uint8; a few hundred are enough.

        Raises
        ------
        ValueError
            An unknown method, no images, or too few stained pixels.

        Examples
        --------
        >>> import wbcprof
        >>> from wbcprof.datasets import make_leukocytes
        >>> images = make_leukocytes(1, size=64).images  # generated
        >>> stain = wbcprof.StainNormaliser.learn(images, "macenko")
        >>> stain.stains.shape
        (2, 3)
        """
        RULE.check("the stain method", method)
        backgrounds, samples = [], []
        n = 0
        for image in images:
            n += 1
            sample = _sampled(image)
            if not _is_black(sample):
                samples.append(sample)
                backgrounds.append(_background(sample))
        if not samples:
            raise ValueError(
                "reference images on a lit background are needed to learn stain colours from, got "
                f"none among {n}"
            )
        middle = np.median(backgrounds, axis=0)
        kept = [i for i, own in enumerate(backgrounds) if _is_plausible(own, middle)]
        samples, backgrounds = [samples[i] for i in kept], [backgrounds[i] for i in kept]
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

    def to_json(self) -> dict[str, Any]:
        """The arguments that make it again, as JSON has them."""
        names = ("background", *STAINS[self.method])
        return {"method": self.method, **{name: getattr(self, name).tolist() for name in names}}

    def normalise(self, image: np.ndarray) -> np.ndarray:
        """The image (H, W, 3), uint8, in the reference's colours.

        Examples
        --------
        >>> import wbcprof
        >>> from wbcprof.datasets import make_leukocytes
        >>> images = make_leukocytes(1, size=64).images  # generated
        >>> stain = wbcprof.StainNormaliser.learn(images[:3])
        >>> restained = stain.normalise(images[3])
        >>> restained.shape, restained.dtype.name
        ((64, 64, 3), 'uint8')
        """
        return self.change(image)[0]

    @staticmethod
    def least_side(side: int) -> int:
        """Of an image that is to have this side, px, when changed."""
        return side

    def change(self, image: np.ndarray) -> tuple[np.ndarray, str]:
        """`normalise`, and in words what could not be measured; "" where all could."""
        sample = _sampled(image)
        background = _background(sample)
        if _is_black(sample) or not _is_plausible(background, self.background):
            return image, "no background"
        restain = self._restainer(self._balance(sample, background))
        pixels = image.reshape(-1, 3)
        out = np.empty_like(pixels)
        for start in range(0, len(pixels), _CHUNK):
            go_on()
            chunk = slice(start, start + _CHUNK)
            planes = np.ascontiguousarray(pixels[chunk].T)
            out[chunk] = restain(self._balance(planes, background)).T
        return out.reshape(image.shape), ""

    def _balance(self, planes: np.ndarray, background: np.ndarray) -> np.ndarray:
        """Pixels of an image with that background, given the reference's."""
        ratio = self.background / np.maximum(background, 1)
        return _look_up(_to_bytes(np.arange(256) * ratio[:, None]), planes)

    def _restainer(self, sample: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """What gives pixels (3, n), balanced, of the image of this sample the reference's stain."""
        sample = sample[:, self._is_stained(sample)]
        if self.method == "background" or sample.shape[1] < _MIN_STAINED:
            return lambda planes: planes
        matrix, shift = self._map_logarithms(sample)
        into = _CONES if self.method == "reinhard" else np.eye(3)
        back = np.linalg.inv(into)
        most = np.log(_BRIGHTEST_LEVEL * into.sum(axis=1, keepdims=True))

        def restain(planes: np.ndarray) -> np.ndarray:
            logarithms = _mix(matrix, np.log(_mix(into, planes + 1.0))) + shift[:, None]
            return _to_bytes(_mix(back, np.exp(np.minimum(logarithms, most))) - 1)

        return restain

    def _map_logarithms(self, sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Matrix (3, 3) and shift (3,) from the logarithms of an image's cones ("reinhard") or grey
        levels ("macenko") to the reference's, from its stained pixels."""
        if self.method == "reinhard":
            own = _to_opponents(sample)
            ratio = self.spread / np.maximum(own.std(axis=1), 1e-6)
            back = np.linalg.inv(_OPPONENTS)
            return (back * ratio) @ _OPPONENTS, back @ (self.centre - ratio * own.mean(axis=1))
        density = self._density(sample)
        own = _find_stains(density)
        ratio = self.strength / np.maximum(_strength(density, own), 1e-6)
        # What two stains do not explain is left as it is.
        change = (self.stains * ratio[:, None] - own).T @ np.linalg.pinv(own).T
        return np.eye(3) + change, -change @ np.log(self.background + 1)

    def _density(self, planes: np.ndarray) -> np.ndarray:
        """Optical density over the background, natural logarithm."""
        table = np.log((self.background[:, None] + 1) / (np.arange(256) + 1))
        return _look_up(table, planes)

    def _is_stained(self, planes: np.ndarray) -> np.ndarray:
        result: np.ndarray = self._density(planes).sum(axis=0) > 3 * _STAINED
        return result


def _to_bytes(levels: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return result


def check_image(image: np.ndarray) -> np.ndarray:
    """The image, if it is (H, W, 3), uint8, and has pixels; ValueError of anything else."""
    if (
        not isinstance(image, np.ndarray)
        or image.dtype != np.uint8
        or image.shape[2:] != (3,)
        or image.size == 0
    ):
        got = (
            f"{image.dtype} of shape {image.shape}"
            if isinstance(image, np.ndarray)
            else type(image).__name__
        )
        raise ValueError(
            f"an image must be uint8 (H, W, 3), got {got}; "
            "wbcprof.images.open_images reads such from anything that holds images"
        )
    return image


def _sampled(image: np.ndarray) -> np.ndarray:
    """Evenly spaced pixels by channel (3, n), `_SAMPLED_PIXELS` at most."""
    pixels = check_image(image).reshape(-1, 3)
    return np.ascontiguousarray(pixels[:: -(-len(pixels) // _SAMPLED_PIXELS)].T)


def _look_up(tables: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """Each channel's pixels through its own table of 256."""
    return np.stack(list(map(np.take, tables, planes)))


def _background(planes: np.ndarray) -> np.ndarray:
    """Median colour (3,) of the brightest pixels."""
    brightness = planes.sum(axis=0, dtype=np.uint16)
    counts = np.bincount(brightness)[::-1].cumsum()[::-1]  # of pixels at least as bright
    least = np.flatnonzero(counts >= _BRIGHTEST * len(brightness))[-1]
    result: np.ndarray = np.median(planes[:, brightness >= least], axis=1)
    return result


def _is_black(planes: np.ndarray) -> bool:
    """Whether so much is black that the brightest pixels may be the cell: one that was cut out."""
    return bool((planes.max(axis=0) <= DARKEST).mean() > _MOST_BLACK)


def _is_plausible(background: np.ndarray, reference: np.ndarray) -> bool:
    """Whether it can be the light of a lamp: cells cut out on black show none."""
    ratio = reference / np.maximum(background, 1)
    return bool(ratio.max() <= _MOST_BRIGHTER)


def _mix(matrix: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """matrix @ planes. Not by BLAS, which rounds differently for each number of threads."""
    return np.stack([sum(map(mul, row, planes)) for row in matrix])


def _to_opponents(planes: np.ndarray) -> np.ndarray:
    return _mix(_OPPONENTS, np.log(_mix(_CONES, planes + 1.0)))


def _find_stains(density: np.ndarray) -> np.ndarray:
    """Unit densities (2, 3) at the extreme angles of the plane of largest variance, the bluer
    stain (more density of red light) first."""
    centred = density - density.mean(axis=1, keepdims=True)
    covariance = [[(a * b).mean() for b in centred] for a in centred]
    plane = np.linalg.eigh(covariance)[1][:, :0:-1]
    plane *= np.where(plane.sum(axis=0) < 0, -1, 1)
    angle = np.arctan2(*_mix(plane.T, density)[::-1])
    extremes = np.percentile(angle, _PERCENTILES)
    stains = np.column_stack([np.cos(extremes), np.sin(extremes)]) @ plane.T
    result: np.ndarray = stains[np.argsort(-stains[:, 0], kind="stable")]
    return result


def _amounts(density: np.ndarray, stains: np.ndarray) -> np.ndarray:
    return _mix(np.linalg.pinv(stains).T, density)


def _strength(density: np.ndarray, stains: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.percentile(_amounts(density, stains), _PERCENTILES[1], axis=1)
    return result
