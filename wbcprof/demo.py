"""The whole job on generated cells and fields: learn, profile, evaluate, draw, report, count."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wbcprof.files import replacing

if TYPE_CHECKING:
    from wbcprof.analysis.evaluation import Evaluation
    from wbcprof.model.model import Model
    from wbcprof.model.profiles import Profiles

N_PER_TYPE = 40
LEARNING: dict[str, Any] = {
    "n_signatures": 256,
    "patch_size": 8,
    "step": 4,
    "n_patches": 15_000,
    "max_iter": 6,
}
REPEATS = 5
EXAMPLES_PER_TYPE = 6
MARK = "wbcprof-demo.txt"
FIELDS: dict[str, Any] = {"n_fields": 12, "size": (600, 800), "n_leukocytes": 8}


def run_demo(folder: Path, n_threads: int | None, say: Callable[[str], None]) -> None:
    """Write model, profiles, evaluation, pictures, a report of generated cells and the page of a
    generated smear into `folder`.

    Parameters
    ----------
    folder : Path
        Made where missing; files of an earlier demo are replaced.
    n_threads : int or None
    say : callable
        Receives one line per stage.

    Raises
    ------
    FileExistsError
        The folder holds files, and no demo has written to it.
    """
    from wbcprof.analysis.classify import rank_signatures, train
    from wbcprof.analysis.evaluation import evaluate
    from wbcprof.datasets.leukocytes import make_leukocytes
    from wbcprof.datasets.smears import make_smear
    from wbcprof.learning.profiler import fit
    from wbcprof.report.page import write_report
    from wbcprof.report.smear import write_smear

    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder)
    cells = make_leukocytes(N_PER_TYPE)
    images, labels = list(cells.images), list(cells.labels)
    say(f"{len(images)} generated cells (drawn by a program, not real data)")

    say(f"learning {LEARNING['n_signatures']} signatures")
    model = fit(images, n_threads=n_threads, **LEARNING)
    profiles = model.profile(images, labels=labels, n_threads=n_threads)
    profiles.ids = list(cells.ids)
    model.classifier = train(model, images, labels, n_threads=n_threads)
    model.save(folder / "model.wbcprof")
    profiles.save(folder / "profiles.csv")

    say(f"evaluating: half-half protocol, {REPEATS} repeats, signatures learnt on each half")
    evaluation = evaluate(images, labels, repeats=REPEATS, n_threads=n_threads, **LEARNING)
    text = f"Generated cells, not real data.\n\n{evaluation.to_text()}\n"
    with replacing(folder / "evaluation.txt") as temporary:
        temporary.write_text(text)
    evaluation.to_json(folder / "evaluation.json")
    say(text)

    say("drawing")
    order, _ = rank_signatures(profiles, labels)
    _draw(folder, model, profiles, evaluation, images, order)
    write_report(
        model,
        images,
        folder / "report.html",
        labels=labels,
        note="Generated cells, not real data",
        n_threads=n_threads,
    )
    say("counting a smear")
    smear = make_smear(**FIELDS)
    counted = write_smear(
        model,
        smear.images,
        folder / "smear.html",
        slides=["generated smear"] * len(smear.images),
        adapt=True,
        note="Generated fields, not real data",
        n_threads=n_threads,
    )
    say(counted.to_text())
    say(f"model, profiles, evaluation, pictures, report.html and smear.html are in {folder}")


def _claim(folder: Path) -> None:
    """Mark a folder as one whose files a demo may replace."""
    there = next(folder.iterdir(), None)
    if there is not None and not (folder / MARK).is_file():
        raise FileExistsError(
            f"expected a new or empty folder, or that of an earlier demo, got {str(folder)!r}, "
            f"which holds {there.name!r}; name another with --out"
        )
    with replacing(folder / MARK) as temporary:
        temporary.write_text("wbcprof demo writes to this folder, and replaces what it wrote.\n")


def _draw(
    folder: Path,
    model: Model,
    profiles: Profiles,
    evaluation: Evaluation,
    images: list[np.ndarray],
    order: np.ndarray,
) -> None:
    from wbcprof.analysis import figures
    from wbcprof.analysis.embedding import embed

    labels = np.array(profiles.labels)
    examples = [
        index
        for label in np.unique(labels)
        for index in np.flatnonzero(labels == label)[:EXAMPLES_PER_TYPE]
    ]
    pictures: dict[str, Any] = {
        "signatures": figures.signature_mosaic(model.signatures, order),
        "reconstructions": figures.reconstructions(
            [model.as_read(images[i]) for i in examples],
            [model.reconstruct(images[i]) for i in examples],
            labels[examples],
        ),
        "embedding": figures.embedding(embed(profiles.values), profiles.labels),
        "confusion": figures.confusion(evaluation, normalize=True),
        "learning_curve": figures.learning_curve(model),
    }
    for name, picture in pictures.items():
        picture.figure.suptitle("Generated cells, not real data", fontsize=8, color="0.4")
        figures.save(picture, folder / f"{name}.png")
