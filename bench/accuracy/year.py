"""A laboratory's year, simulated: days until a fading lamp or another stain is flagged.

    python bench/accuracy/year.py                              # learns a model first
    python bench/accuracy/year.py --model cells.wbcprof --page year.html

"Flagged before": slides between the baseline and the change, by chance, in whichever chart; "days
until": from the change to the first slide flagged after it, which for rules that often flag by
chance says little.

Real: cells of PBC (split `val`), changed as images, measured and profiled anew: the lamp loses 0 to
15 % of its light (in linear light, all colours alike), the stain takes up more or less (optical
densities of red, green and blue times 1.12, 1.06 and 0.97). Between the seven lights that were
imaged, measures and probabilities of each cell are interpolated.

Simulated: which cells a slide shows (100, by a patient's differential about 59 % neutrophils, 30 %
lymphocytes, 7 % monocytes, 3 % eosinophils, 1 % basophils; Dirichlet, concentration 40), and how
slides differ besides: light by 1.5 % and each colour by 0.5 %, densities by 5 %, blur by 8 %, size
by 1 % (standard deviations). PBC is one laboratory and one instrument: what slides of others differ
by decides how soon a change is seen, and is not known here.
"""

from __future__ import annotations

import argparse
from datetime import date, timedelta
from itertools import product
from pathlib import Path

import numpy as np
from study import HERE, cached, digest
from travel import DATA, learn_from, read

import wbcprof
from wbcprof.analysis import Monitor, SlideSummary
from wbcprof.analysis.charts import REJECTIONS
from wbcprof.analysis.monitoring import ALARMS, STRANGE, model_identity
from wbcprof.report import write_monitor
from wbcprof.smear.measures import MEASURES, OF_INSTRUMENT

TYPES = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
SHARES, CONCENTRATION = (0.01, 0.03, 0.30, 0.07, 0.59), 40
PER_TYPE, N_SLIDES, N_CELLS, N_DAYS = 50, 300, 100, 365
FADED = np.linspace(0, 0.15, 7)  # of the light, lost
STAIN = np.array([1.12, 1.06, 0.97])  # of the densities of red, green, blue
LAMP_FROM, STAIN_FROM = 100, 200  # slides
SPREADS = {"Nu": 0.01, "Ba": 0.005, "De": 0.02, "Fo": 0.08}  # log, of one measure
COLUMNS = [MEASURES.index(name) for name in OF_INSTRUMENT]
LIGHT, DENSITY = 0.015, 0.05  # log, that all of one kind have in common
YEARS = {"nothing": (), "lamp": ("lamp",), "stain": ("stain",), "both": ("lamp", "stain")}
SIGNALS = {
    "alarm": lambda flag: flag.kind in ALARMS,
    "moving average": lambda flag: flag.rule == "EWMA",
    "single slide": lambda flag: flag.rule == "single",
    "1-3s": lambda flag: flag.rule == "1-3s",
    "any that rejects": lambda flag: flag.rule in REJECTIONS,
}


def change(image, lost, stained):
    """An image with so much less light, and perhaps with the other stain."""
    pixels = image / 255.0
    linear = np.where(pixels <= 0.04045, pixels / 12.92, ((pixels + 0.055) / 1.055) ** 2.4)
    if stained:
        white = np.percentile(linear.reshape(-1, 3), 95, axis=0)
        density = np.maximum(np.log(white / np.maximum(linear, 1e-4)), 0)
        linear = np.where(density > 0, white * np.exp(-STAIN * density), linear)
    linear = linear * (1 - lost)
    coded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.clip(np.rint(255 * coded), 0, 255).astype(np.uint8)


def imaged(model):
    """Of each cell under each light and stain, measures (2, 7, n, 8), probabilities and how strange
    it is."""
    images, labels = read(DATA / "pbc", "val")
    rows = np.concatenate([np.flatnonzero(labels == name)[:PER_TYPE] for name in TYPES])
    measures, probabilities, strange = [], [], []
    for stained in (False, True):
        for lost in FADED:
            changed = [change(images[i], lost, stained) for i in rows]
            profiles = model.profile(changed)
            measures.append(profiles.measures[:, COLUMNS])
            p = model.classifier.strangeness(profiles.values, profiles.measures).p
            strange.append(np.nan_to_num(p)[:, None])
            probabilities.append(model.classifier.predict_proba(profiles.values))
            print(f"imaged: {lost:.1%} of the light lost, stain {'new' if stained else 'old'}")
    shape = (2, len(FADED), len(rows), -1)
    return {
        "measures": np.array(measures).reshape(shape),
        "probabilities": np.array(probabilities).reshape(shape),
        "strange": np.array(strange).reshape(shape),
        "types": labels[rows],
    }


def between(values, stained, lost):
    """Values (cells, k) at a loss of light between those imaged."""
    at = lost / FADED[1]
    low = min(int(at), len(FADED) - 2)
    return values[stained, low] + (at - low) * (values[stained, low + 1] - values[stained, low])


def year(model, cells, changes, random, baseline):
    """A monitor of one year."""
    monitor = Monitor(model, baseline=baseline)
    names = model.classifier.classes_.tolist()
    of_type = [np.flatnonzero(cells["types"] == name) for name in TYPES]
    for i in range(N_SLIDES):
        lost = 0.15 * max(0, i - LAMP_FROM) / (N_SLIDES - 1 - LAMP_FROM) * ("lamp" in changes)
        stained = int("stain" in changes and i >= STAIN_FROM)
        patient = random.dirichlet(CONCENTRATION * np.array(SHARES))
        counts = random.multinomial(N_CELLS, patient)
        drawn = np.concatenate([random.choice(o, n) for o, n in zip(of_type, counts, strict=True)])
        chance = between(cells["probabilities"], stained, lost)[drawn]
        values = np.nanmedian(between(cells["measures"], stained, lost)[drawn], axis=0)
        light, density = random.normal(0, LIGHT), random.normal(0, DENSITY)
        called = np.bincount(chance.argmax(axis=1), minlength=len(names)) / N_CELLS
        found = {f"share of {n}": float(share) for n, share in zip(names, called, strict=True)}
        found["sureness"] = float(chance.max(axis=1).mean())
        p = between(cells["strange"], stained, lost)[drawn]
        found[STRANGE] = float((p <= 0.05).mean())
        for (name, words), value in zip(OF_INSTRUMENT.items(), values, strict=True):
            kind = name[:2]
            common = {"Ba": light, "De": density}.get(kind, 0.0)
            found[words] = float(value * np.exp(common + random.normal(0, SPREADS[kind])))
        day = date(2026, 1, 1) + timedelta(days=i * N_DAYS // N_SLIDES)
        monitor.append(SlideSummary(f"slide {i:03}", day.isoformat(), N_CELLS, found))
    return monitor


def flagged(monitor):
    """Slides that each signal flags, by their numbers."""
    found = {signal: set() for signal in SIGNALS}
    for flag in monitor.flags():
        for signal, holds in SIGNALS.items():
            if holds(flag):
                found[signal].add(int(flag.slide.split()[1]))
    return found


def tell(kind, start, baseline, found):
    """A row for each signal, over all years."""
    for signal in SIGNALS:
        before = [sum(i < start for i in year[signal]) for year in found]
        after = [min((i for i in year[signal] if i >= start), default=None) for year in found]
        days = np.array([(i - start) * N_DAYS / N_SLIDES for i in after if i is not None])
        quartiles = (
            "-"
            if not len(days)
            else "{:.0f} ({:.0f} to {:.0f})".format(*np.percentile(days, [50, 10, 90]))
        )
        clean = np.mean([n == 0 for n in before])
        print(
            f"| {baseline} | {kind} | {signal} | {np.mean(before):.2f} of {start - baseline} | "
            f"{clean:.0%} | {quartiles} | {len(days)} of {len(found)} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="learnt from PBC's split train; else learnt")
    parser.add_argument("--years", type=int, default=50)
    parser.add_argument("--baselines", type=int, nargs="+", default=[20, 50])
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--page", type=Path, help="write the page of the first year with both")
    parser.add_argument("--cache", type=Path, default=HERE / ".cache")
    options = parser.parse_args()
    if options.model is None:
        images, labels = learn_from()
        model = wbcprof.fit(images, random_state=0)
        model.classifier = wbcprof.train(model, images, labels)
    else:
        model = wbcprof.load(options.model)
    options.cache.mkdir(exist_ok=True)
    key = digest(model_identity(model), PER_TYPE, FADED, STAIN)
    cells = cached(options.cache / f"year_{key}.npz", lambda: imaged(model))
    head = "| baseline | what changes | signal | slides flagged before | years without any |"
    print(f"{head} days until, median (10 % to 90 %) | found |")
    print("|---|---|---|---|---|---|---|")
    for baseline, kind in product(options.baselines, YEARS):
        monitors = [
            year(model, cells, YEARS[kind], np.random.default_rng((options.seed, n)), baseline)
            for n in range(options.years)
        ]
        start = {"nothing": N_SLIDES, "stain": STAIN_FROM}.get(kind, LAMP_FROM)
        tell(kind, start, baseline, [flagged(monitor) for monitor in monitors])
        if kind == "both" and baseline == options.baselines[0] and options.page:
            note = (
                "Simulated from real cells: a fading lamp from May, another stain from September."
            )
            write_monitor(monitors[0], options.page, note=note)
            print(f"{options.page}: {options.page.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
