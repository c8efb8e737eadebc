"""Leukocytes of generated fields as a model learns them."""

from wbcprof.images import Box, open_fields
from wbcprof.smear import Ruler, cut_out

SIDES = ("left", "top", "right", "bottom")


def crops_of(smear):
    """Crops and types of the whole leukocytes of generated fields."""
    crops, labels = [], []
    for field in open_fields(smear.images):
        number = int(field.image_id.rsplit("_", 1)[1])
        truth = smear.truth[(smear.truth["field"] == number) & (smear.truth["number"] > 0)]
        boxes = [
            Box(field.image_id, *(float(row[side]) for side in SIDES), label=str(row["label"]))
            for row in truth[~truth["cut"]]
        ]
        made = cut_out(field, Ruler(7.5 / smear.pixel_size, "given"), boxes)
        crops += [cell.crop for cell in made.cells]
        labels += [cell.label for cell in made.cells]
    return crops, labels
