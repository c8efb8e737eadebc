"""A person who knows cells and has no labels: how many names does it take?

    python bench/accuracy/labelling.py               # part of `train` held back, two draws
    python bench/accuracy/labelling.py --model M     # signatures of a model; else they are learnt
    python bench/accuracy/labelling.py --val         # learnt on all of `train`, a look at `val`

Simulated, on six types of PBC: cells are grouped without labels; the person names each group by the
type of the majority of its nine most typical cells, then answers what the page asks, ten cells at a
time, rightly. What is then called 90 % surely has a label, and `TypeClassifier` learns from these
profiles alone, without copies. Beside it: the same groups and answers to cells drawn at random, and
as many labels drawn at random from each type without any group.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from pathlib import Path

import baselines
import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_mutual_info_score, f1_score
from sklearn.preprocessing import StandardScaler

import wbcprof
from wbcprof.analysis import group_profiles, spread_labels
from wbcprof.images.source import open_images

DATA = Path(__file__).resolve().parents[3] / "shared/data/pbc"
ANSWERS, ROUND, MEDOIDS, SURE = (0, 20, 40, 60), 10, 9, 0.9
GROUPS = (6, 12, 30)  # beside the number that is suggested
DRAWS, HELD_BACK = 2, 600


def read(split):
    with open(DATA / "labels.csv", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == split]
    return [str(DATA / row["path"]) for row in rows], np.array([row["label"] for row in rows])


def score(profiles, labels, test, truth):
    classifier = wbcprof.TypeClassifier().fit(profiles, labels)
    return f1_score(truth, classifier.predict(test), average="macro")


def answered(profiles, truth, n_groups, draw, asks):
    """Labels (n,), None where unsure, after so many answers each: of cells that the page asks for
    or, where `asks` is False, drawn at random; and the groups."""
    groups = group_profiles(profiles, n_groups, random_state=draw)
    names = {
        group: Counter(truth[groups.typical(group, MEDOIDS)]).most_common(1)[0][0]
        for group in range(groups.n_groups)
    }
    order = np.random.default_rng(draw).permutation(len(truth)).tolist()
    singles, found = {}, {}
    while True:
        spread = spread_labels(groups, names, singles)
        if len(singles) in ANSWERS:
            found[len(singles)] = np.where(spread.sureness >= SURE, spread.calls, None)
        if len(singles) >= max(ANSWERS):
            return found, groups
        asked = spread.ask_next(ROUND) if asks else order[len(singles) : len(singles) + ROUND]
        singles |= {i: truth[i] for i in asked}


def run(profiles, truth, test, test_truth, draw, kinds):
    """Print, by row of the table and number of answers: macro-F1, groups, share of labels right."""
    for kind, (n_groups, asks) in kinds.items():
        found, groups = answered(profiles, truth, n_groups, draw, asks)
        for n, labels in found.items():
            known = np.flatnonzero([label is not None for label in labels])
            f1 = score(profiles.at(known), labels[known], test, test_truth)
            right = (labels[known] == truth[known]).mean()
            print(
                f"{kind}, {n} answers: {f1:.4f}, {groups.n_groups} groups, {right:.4f}", flush=True
            )
    order = np.random.default_rng(draw).permutation(len(truth))
    of_type = [order[truth[order] == name] for name in np.unique(truth)]
    in_turn = [own[k] for k in range(len(truth)) for own in of_type if k < len(own)]
    for n in (*ANSWERS[1:], len(truth)):
        f1 = score(profiles.at(in_turn[:n]), truth[in_turn[:n]], test, test_truth)
        print(f"{n} labels: {f1:.4f}", flush=True)


def agreement(profiles, truth, paths):
    """Adjusted mutual information of groups with types."""
    images = [cell.pixels for cell in open_images(paths)]
    histogram = baselines.histogram(images, crop=2 / 3)
    network = baselines.efficientnet(images, 0, crop=2 / 3)
    white = PCA(64, whiten=True, random_state=0).fit_transform(
        StandardScaler().fit_transform(network)
    )
    peers = {"histogram": histogram, "roots": np.sqrt(histogram),
             "network": network, "network, 64 components of unit variance": white}  # fmt: skip
    for n_groups in (None, 6, 12):
        groups = group_profiles(profiles, n_groups)
        print(f"groups {groups.n_groups}", adjusted_mutual_info_score(truth, groups.group))
        for name, features in peers.items():
            means = KMeans(groups.n_groups, n_init=4, random_state=0).fit_predict(features)
            print(f"{name} {groups.n_groups}", adjusted_mutual_info_score(truth, means), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="model file; by default signatures are learnt, seed 0")
    parser.add_argument("--val", action="store_true", help="test on `val`")
    options = parser.parse_args()
    paths, truth = read("train")
    model = wbcprof.load(options.model) if options.model else wbcprof.fit(paths, random_state=0)
    profiles = model.profile(paths)
    kinds = {"asked": (None, True), "random": (None, False)}
    if options.val:
        test_paths, test_truth = read("val")
        run(profiles, truth, model.profile(test_paths), test_truth, 0, kinds)
        return
    agreement(profiles, truth, paths)
    kinds |= {f"asked, {n} groups": (n, True) for n in GROUPS}
    for draw in range(DRAWS):
        order = np.random.default_rng(draw).permutation(len(truth))
        rest, back = order[HELD_BACK:], order[:HELD_BACK]
        run(profiles.at(rest), truth[rest], profiles.at(back), truth[back], draw, kinds)


if __name__ == "__main__":
    main()
