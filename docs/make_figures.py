"""Make the figures of the README from generated cells (drawn by a program, not real data).

python docs/make_figures.py
"""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

import wbcprof
from wbcprof.analysis import figures
from wbcprof.analysis.classify import rank_signatures
from wbcprof.analysis.embedding import embed
from wbcprof.datasets import LEUKOCYTE_TYPES, make_leukocytes
from wbcprof.demo import LEARNING

FOLDER = Path(__file__).parent
N_PER_TYPE = 40
DRAWN = 100  # signatures
PER_TYPE = 3
EXAMPLES = [LEUKOCYTE_TYPES.index(name) for name in ("eosinophil", "lymphocyte", "neutrophil")]


def main() -> None:
    cells = make_leukocytes(N_PER_TYPE)
    model = wbcprof.fit(cells.images, **LEARNING)
    profiles = model.profile(cells.images)
    order, _ = rank_signatures(profiles, cells.labels)
    shown = [N_PER_TYPE * type_ + i for type_ in EXAMPLES for i in range(PER_TYPE)]
    rebuilt = [model.reconstruct(cells.images[i]) for i in shown]
    pictures = {
        "signatures": figures.signature_mosaic(model.signatures, order[:DRAWN], n_framed=20),
        "reconstructions": figures.reconstructions(
            [model.as_read(cells.images[i]) for i in shown], rebuilt, cells.labels[shown]
        ),
        "embedding": figures.embedding(embed(np.sqrt(profiles.values)), cells.labels),
    }
    for name, picture in pictures.items():
        picture.figure.suptitle("Generated cells, not real data", fontsize=8, color="0.4")
        stream = BytesIO()
        picture.figure.savefig(stream, format="png", dpi=100)
        Image.open(stream).convert("RGB").save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
