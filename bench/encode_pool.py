"""Encode-and-pool beside its peers: one table of ratios, all from one run.

Every contender computes the mean over windows of sigmoid(W x + b) for the same images with the
same number of threads. Contenders take turns within each repeat: a noisy machine slows all alike.

    python bench/encode_pool.py                           everything
    python bench/encode_pool.py --quick                   300 and 120 px, batch 1, one thread
    python bench/encode_pool.py --instruction-set avx2    all capped to AVX2
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

parser = argparse.ArgumentParser(description="Encode-and-pool beside its peers")
parser.add_argument("--quick", action="store_true", help="300 and 120 px, batch 1, one thread")
parser.add_argument("--sides", type=int, nargs="+", help="image sides in pixels")
parser.add_argument("--batches", type=int, nargs="+", help="images per call")
parser.add_argument("--threads", type=int, nargs="+", help="numbers of threads")
parser.add_argument("--instruction-set", choices=["avx2"], help="cap for all contenders")
parser.add_argument("--repeats", type=int, default=7)
parser.add_argument("--model", help="a model file, for the table of tolerances")
parser.add_argument("--images", help="a folder of images, to go with it")
arguments = parser.parse_args()

if arguments.instruction_set == "avx2":  # read when the libraries load
    os.environ |= {
        "WBCPROF_INSTRUCTION_SET": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "DNNL_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
    }

import numpy as np  # noqa: E402
from threadpoolctl import threadpool_limits  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
import sizes  # noqa: E402

import wbcprof  # noqa: E402
from wbcprof import _core  # noqa: E402
from wbcprof.images.source import open_images  # noqa: E402
from wbcprof.model.approximation import approximate  # noqa: E402
from wbcprof.model.encoder import Encoder  # noqa: E402
from wbcprof.model.pooling import Pooling  # noqa: E402

PEER_BATCH = (
    4  # images at a time: the fastest of 1, 4, 16 for the peers, and their memory is bounded
)
TURN_SECONDS = 0.05
REST_SECONDS = 0.2
Contender = Callable[[np.ndarray], np.ndarray]


def contender_wbcprof(encoder: Encoder, n_threads: int) -> Contender:
    return lambda images: encoder.encode_pool(images, n_threads=n_threads)


def contender_numpy(filters: np.ndarray, offset: np.ndarray, gain: np.ndarray) -> Contender:
    weights = filters.reshape(len(filters), -1).T.astype(np.float32)
    offset, gain = offset.astype(np.float32), gain.astype(np.float32)
    patch, step = filters.shape[1], sizes.STEP

    def run(images: np.ndarray) -> np.ndarray:
        rows = []
        for image in images:
            pixels = image.astype(np.float32) / 255
            windows = np.lib.stride_tricks.sliding_window_view(pixels, (patch, patch), (0, 1))
            windows = windows[::step, ::step].transpose(0, 1, 3, 4, 2)
            codes = windows.reshape(-1, len(weights)) @ weights
            codes += offset
            np.negative(codes, out=codes)
            np.exp(codes, out=codes)
            codes += 1
            np.reciprocal(codes, out=codes)
            rows.append(codes.mean(axis=0) * gain)
        return np.array(rows)

    return run


def contenders_torch(
    filters: np.ndarray, offset: np.ndarray, gain: np.ndarray
) -> Iterator[tuple[str, Contender]]:
    import torch
    from torch.nn.functional import conv2d, pixel_unshuffle

    kernels = torch.tensor(filters.transpose(0, 3, 1, 2).copy(), dtype=torch.float32)
    bias, scale = (torch.tensor(a, dtype=torch.float32) for a in (offset, gain))
    step = sizes.STEP

    def finish(codes: torch.Tensor) -> np.ndarray:
        return (codes.sigmoid_().mean(dim=(2, 3)) * scale).numpy()

    def run(images: np.ndarray, layout: torch.memory_format, to_depth: bool) -> np.ndarray:
        weights = pixel_unshuffle(kernels, step) if to_depth else kernels
        weights = weights.contiguous(memory_format=layout)
        rows = []
        with torch.inference_mode():
            for start in range(0, len(images), PEER_BATCH):
                pixels = torch.from_numpy(images[start : start + PEER_BATCH]).permute(0, 3, 1, 2)
                pixels = (pixels.float() / 255).contiguous(memory_format=layout)
                if to_depth:
                    pixels = pixel_unshuffle(pixels, step).contiguous(memory_format=layout)
                rows.append(finish(conv2d(pixels, weights, bias, 1 if to_depth else step)))
        return np.concatenate(rows)

    layouts = {"": torch.contiguous_format, " channels last": torch.channels_last}
    for layout_name, layout in layouts.items():
        for to_depth in (False, True):
            name = f"torch conv2d{layout_name}{' space to depth' if to_depth else ''}"
            yield name, lambda images, a=layout, b=to_depth: run(images, a, b)


def contender_openvino(
    filters: np.ndarray, offset: np.ndarray, gain: np.ndarray, side: int, n_threads: int
) -> Contender:
    import openvino
    from openvino import opset8 as ops

    pixels = ops.parameter([-1, side, side, sizes.CHANNELS], np.uint8)
    values = ops.divide(ops.convert(pixels, "f32"), np.float32(255))
    values = ops.transpose(values, np.array([0, 3, 1, 2]))
    kernels = filters.transpose(0, 3, 1, 2).astype(np.float32).copy()
    stride = [sizes.STEP] * 2
    codes = ops.convolution(values, kernels, stride, [0, 0], [0, 0], [1, 1])
    codes = ops.sigmoid(ops.add(codes, offset.astype(np.float32).reshape(1, -1, 1, 1)))
    profile = ops.multiply(ops.reduce_mean(codes, np.array([2, 3])), gain.astype(np.float32))
    options = {
        "INFERENCE_NUM_THREADS": n_threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = openvino.Core().compile_model(openvino.Model([profile], [pixels]), "CPU", options)

    def run(images: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [
                model(images[start : start + PEER_BATCH])[0].copy()
                for start in range(0, len(images), PEER_BATCH)
            ]
        )

    return run


def sgemm_rate(repeats: int) -> float:
    """GFLOP/s of the product that the plain form of a 300 px image needs, by the better library."""
    import torch

    rng = np.random.default_rng(0)
    left = rng.standard_normal((3249, 1200), dtype=np.float32)
    right = rng.standard_normal((1200, 1024), dtype=np.float32)
    left_torch, right_torch = torch.from_numpy(left), torch.from_numpy(right)
    products = {"NumPy": lambda: left @ right, "torch": lambda: left_torch @ right_torch}
    work = 2e-9 * left.size * right.shape[1]
    return work / min(min(seconds) for seconds in take_turns(products, repeats).values())


def take_turns(contenders: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds per call in every turn of every contender, after unmeasured calls.

    A turn is several calls in a row where one is short: each finds the caches as it left them.
    Threads that another library has left spinning for work get time to fall asleep first.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    calls = {}
    for name, run in contenders.items():
        run()
        start = time.perf_counter()
        run()
        calls[name] = max(1, round(TURN_SECONDS / (time.perf_counter() - start)))
    for _ in range(repeats):
        for name, run in contenders.items():
            time.sleep(REST_SECONDS)
            run()
            start = time.perf_counter()
            for _ in range(calls[name]):
                run()
            seconds[name].append((time.perf_counter() - start) / calls[name])
    return seconds


def spread(seconds: list[float]) -> float:
    """Half the range between the quartiles, relative to the median."""
    if len(seconds) < 3:
        return float("nan")
    low, middle, high = statistics.quantiles(seconds, n=4)
    return (high - low) / 2 / middle


def compare(side: int, batch: int, n_threads: int, repeats: int) -> None:
    import torch

    arrays = sizes.encoder_arrays()
    encoder = Encoder(*arrays, nonlinearity="sigmoid", step=sizes.STEP)
    images = sizes.generated_images(batch, side)
    torch.set_num_threads(n_threads)
    runs = {
        "wbcprof": contender_wbcprof(encoder, n_threads),
        "NumPy windows + BLAS": contender_numpy(*arrays),
        **dict(contenders_torch(*arrays)),
        "OpenVINO": contender_openvino(*arrays, side, n_threads),
    }
    with threadpool_limits(n_threads, user_api="blas"):
        expected = runs["NumPy windows + BLAS"](images[:2])
        for name, run in runs.items():
            np.testing.assert_allclose(run(images[:2]), expected, atol=2e-5, err_msg=name)
        seconds = take_turns({n: (lambda r=r: r(images)) for n, r in runs.items()}, repeats)
        rate = sgemm_rate(3)

    medians = {name: statistics.median(s) for name, s in seconds.items()}
    ours = medians.pop("wbcprof")
    peer = min(medians, key=lambda name: medians[name])
    best = min(min(s) for n, s in seconds.items() if n != "wbcprof") / min(seconds["wbcprof"])
    description = encoder.describe(side, side)
    plain = 2e-9 * description["windows"] * encoder.n_signatures * sizes.PATCH**2 * sizes.CHANNELS
    print(
        f"| {side} | {batch} | {n_threads} | {description['form']} | {1e3 * ours / batch:.2f} "
        f"| {100 * spread(seconds['wbcprof']):.0f} % "
        f"| {peer} | {1e3 * medians[peer] / batch:.2f} | {medians[peer] / ours:.1f} | {best:.1f} "
        f"| {medians['NumPy windows + BLAS'] / ours:.1f} "
        f"| {plain * batch / ours:.0f} | {rate:.0f} | {plain * batch / ours / rate:.1f} |",
        flush=True,
    )


def growth(repeats: int) -> None:
    """How the cost of one image grows, one thread."""
    print("\n| side | step | signatures | form | products per window | prepare, s | ms |")
    print("|---|---|---|---|---|---|---|")
    cases = [
        *((300, sizes.STEP, n) for n in (128, 256, 512, 1024, 2048)),
        *((side, sizes.STEP, 1024) for side in (120, 240, 480, 960)),
        *((300, step, 1024) for step in (20, 10, 7, 5, 4, 3)),
    ]
    for side, step, n_signatures in cases:
        encoder = Encoder(
            *sizes.encoder_arrays(n_signatures), nonlinearity="sigmoid", step=step
        )  # fmt: skip
        image = sizes.generated_images(1, side)
        start = time.perf_counter()
        encoder.prepare(side, side)
        preparation = time.perf_counter() - start
        run = contender_wbcprof(encoder, 1)
        seconds = take_turns({"run": lambda run=run, image=image: run(image)}, repeats)["run"]
        description = encoder.describe(side, side)
        print(
            f"| {side} | {step} | {n_signatures} | {description['form']} "
            f"| {description['products_per_window']:.0f} of "
            f"{description['direct_products_per_window']} | {preparation:.2f} "
            f"| {1e3 * statistics.median(seconds):.2f} |",
            flush=True,
        )


def time_approximate(repeats: int) -> None:
    """Projected squares against exact ones, one thread; fitted to other images than are timed."""
    print(
        "\n| images | tolerance | error | products per window | ms exact | ms approximate | ratio |"
    )
    print("|---" * 7 + "|")
    images = sizes.generated_images(16, 300)
    arrays = sizes.encoder_arrays()
    encoder = Encoder(*arrays, nonlinearity="sigmoid", step=sizes.STEP)
    for tolerance in (1e-3, 1e-4):
        compare_approximate("generated", encoder, images, Pooling(), tolerance, repeats)
    if arguments.model:
        model = wbcprof.load(arguments.model)
        cells = [cell.pixels for cell in open_images(arguments.images)]
        cells = np.stack([pixels for pixels in cells if pixels.shape == cells[0].shape])
        for tolerance in (1e-2, 1e-3, 1e-4):
            compare_approximate(
                "given", model.layers[0].encoder(), cells, model.pooling, tolerance, 3
            )


def compare_approximate(
    name: str,
    encoder: Encoder,
    images: np.ndarray,
    pooling: Pooling,
    tolerance: float,
    repeats: int,
) -> None:
    """A line of the table: fitted to 32 images spread over all, or half; timed on the others."""
    sample = np.unique(np.linspace(0, len(images) - 1, min(32, len(images) // 2)).astype(int))
    others = np.delete(images, sample, axis=0)
    runs = {
        "exact": encoder,
        "approximate": approximate(encoder, images[sample], tolerance, pooling),
    }
    exact, fewer = (run.encode_pool(others, pooling) for run in runs.values())
    error = np.linalg.norm(fewer - exact) / np.linalg.norm(exact)
    seconds = take_turns(
        {n: (lambda e=e: e.encode_pool(others, pooling, n_threads=1)) for n, e in runs.items()},
        repeats,
    )
    medians = {n: 1e3 * statistics.median(s) / len(others) for n, s in seconds.items()}
    products = runs["approximate"].describe(*images.shape[1:3])["products_per_window"]
    print(
        f"| {len(others)} {name}, {images.shape[2]} x {images.shape[1]} px | {tolerance:g} "
        f"| {error:.1e} | {products:.0f} "
        f"| {medians['exact']:.2f} | {medians['approximate']:.2f} "
        f"| {medians['exact'] / medians['approximate']:.2f} |",
        flush=True,
    )


def main() -> None:
    print(f"wbcprof instruction set: {_core.instruction_set()}\n")
    print(
        "| side | batch | threads | form | ms per image | spread | fastest peer | ms per image "
        "| peer / wbcprof | best / best | NumPy / wbcprof | effective GFLOP/s | sgemm GFLOP/s "
        "| ratio |"
    )
    print("|---" * 14 + "|")
    quick = arguments.quick
    for n_threads in arguments.threads or ((1,) if quick else sizes.THREADS):
        for batch in arguments.batches or ((1,) if quick else sizes.BATCHES):
            for side in arguments.sides or ((300, 120) if quick else sizes.IMAGE_SIDES):
                compare(side, batch, n_threads, arguments.repeats if batch == 1 else 3)
    if quick:
        return
    growth(arguments.repeats)
    time_approximate(arguments.repeats)


if __name__ == "__main__":
    main()
