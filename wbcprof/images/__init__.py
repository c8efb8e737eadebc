"""What is given becomes RGB pixels."""

from typing import TYPE_CHECKING

from wbcprof._lazy import attach

if TYPE_CHECKING:  # what `__getattr__` gives
    from wbcprof.images.attributes import read_attributes as read_attributes
    from wbcprof.images.boxes import Box as Box
    from wbcprof.images.boxes import read_boxes as read_boxes
    from wbcprof.images.copies import DuplicateWarning as DuplicateWarning
    from wbcprof.images.copies import find_copies as find_copies
    from wbcprof.images.fields import Field as Field
    from wbcprof.images.fields import FieldSource as FieldSource
    from wbcprof.images.fields import open_fields as open_fields
    from wbcprof.images.groups import read_groups as read_groups
    from wbcprof.images.labels import Labels as Labels
    from wbcprof.images.labels import read_labels as read_labels
    from wbcprof.images.source import ImageWarning as ImageWarning
    from wbcprof.images.source import open_images as open_images

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "attributes": ["read_attributes"],
        "boxes": ["Box", "read_boxes"],
        "copies": ["DuplicateWarning", "find_copies"],
        "fields": ["Field", "FieldSource", "open_fields"],
        "groups": ["read_groups"],
        "labels": ["Labels", "read_labels"],
        "source": ["ImageWarning", "open_images"],
    },
)
