"""Boxes and masks that people have of the cells in their images, whatever tool wrote them."""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

from wbcprof._shown import Shown
from wbcprof.checks import shown, told
from wbcprof.files import SHEETS, TableWarning, from_csv_text, naming, regular, to_number
from wbcprof.images.decode import open_picture, reasons, stated_shape
from wbcprof.images.fields import IMAGES_AND_SLIDES, FieldSource
from wbcprof.images.folders import MASK_ENDINGS, is_users
from wbcprof.images.source import SUFFIXES, ImageWarning, open_images
from wbcprof.images.tables import IMAGE_COLUMNS, LABEL_COLUMNS, Names, read_table, stated

__all__ = ["Box", "read_boxes"]

ACCEPTED = (
    "a CSV file, a Pascal VOC .xml file or a folder of them, a folder of YOLO .txt files, a COCO "
    ".json file, or a label image or a folder of them"
)
FIELD_COLUMNS = ("field", *IMAGE_COLUMNS)  # beside a field, the path is that of the cell cut out
_CORNERS = ("left", "top", "right", "bottom")
_VOC = ("xmin", "ymin", "xmax", "ymax")
_SPAN = ("x", "y", "width", "height")
NUCLEUS = "nucleus_px"  # in tables of this package alone
_KINDS = {
    "leukocyte": ("leukocyte", "leucocyte", "wbc", "white blood cell", "white cell"),
    "red_cell": ("red cell", "rbc", "red blood cell", "erythrocyte"),
    "platelet": ("platelet", "plt", "thrombocyte"),
}
_KIND_OF = {word: kind for kind, words in _KINDS.items() for word in words}
_NOT_BOXES = re.compile(r"classes\.txt|readme.*", re.IGNORECASE)  # among files of YOLO
_QUOTED = re.compile(r"""((?:^|(?<=[,:\s]))(?:"[^"]*"|'(?:[^']|'')*'))""")  # of YAML
_ROUNDING = 1.0  # px that a box may reach beyond its image without a warning


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Box(Shown):
    """Where something lies in an image.

    Attributes
    ----------
    image_id : str
        As `wbcprof.images.open_images` has it.
    left, top, right, bottom : float
        In pixels from the upper left corner of the image; right and bottom are excluded.
    kind : str
        What lies there: ``"leukocyte"``, also where the source says nothing of it,
        ``"red_cell"``, ``"platelet"``, or what the source calls it.
    label : str or None
        Type of the cell, if known.
    mask : bool array (bottom - top, right - left) or None
        Its pixels within the box, if the source is a mask.
    x, y, nucleus : float or None
        Centre of the nucleus and square root of its area, px, if the source is a table of cells of
        this package.

    Examples
    --------
    >>> from wbcprof.images import Box
    >>> box = Box("field.png", 10, 20, 74, 84, label="monocyte")
    >>> box.kind, box.right - box.left
    ('leukocyte', 64)
    """

    image_id: str
    left: float
    top: float
    right: float
    bottom: float
    kind: str = "leukocyte"
    label: str | None = None
    mask: np.ndarray | None = None
    x: float | None = None
    y: float | None = None
    nucleus: float | None = None


def read_boxes(
    source: str | os.PathLike[str] | Mapping[str, Sequence[Box]] | Sequence[Box], images: Any
) -> dict[str, list[Box]]:
    """Boxes of what lies in each image, from the files of annotation and segmentation tools.

    Parameters
    ----------
    source : str, path, sequence of Box, or mapping of str to sequence of Box
        Boxes are checked as those of files are, which may be a

        - CSV file, in UTF-8: its first line names a column ``field`` (or ``path``, ``image``,
          ``file``, ``filename``; the first of these), columns ``left``, ``top``, ``right``,
          ``bottom`` (or ``xmin``, ``ymin``, ``xmax``, ``ymax``; or ``x``, ``y``, ``width``,
          ``height``, from the upper left corner), in pixels, and perhaps ``kind`` and ``label``. A
          row without numbers is of an image without boxes. In tables of this package, which have a
          column ``nucleus_px``, ``x`` and ``y`` are the centre of the nucleus; beside the corners
          of other tables they are not read.
        - Pascal VOC ``.xml`` file, or a folder of them. Numbers are taken as they stand.
        - Folder of YOLO ``.txt`` files, one for each image, by its name: ``class x y width
          height``, parts of the image. Names of classes come from ``classes.txt`` or ``data.yaml``
          in this folder or up to two above it; without them they are the numbers.
        - COCO ``.json`` file; of its segmentations, only the boxes.
        - Label image (PNG, TIFF ...: one whole number for each pixel, 0 for the background), as
          CellProfiler and Cellpose write them, or a folder of them, by the names of the images or
          with ``_mask``, ``_masks``, ``_cp_masks``, ``_label``, ``_labels``, ``_objects`` or
          ``_seg`` at their end. Where 1 or 255 is the only number, each connected component is one.
    images
        As `wbcprof.images.open_images` takes them, or what `wbcprof.images.open_fields` returned,
        for boxes in slides and other large images, in pixels of the whole; none is decoded. The
        source names one by its id, by the last parts of it, or the other way round, with or without
        the suffix.

    Returns
    -------
    dict of str to list of Box
        From the id of every image to its boxes, in the order of the source; an image may have none.
        A class named as leukocytes, red cells or platelets are ("WBC", "RBC" ...) is the kind of a
        box; any other is the label of a leukocyte, None where it says that the type is not known,
        see `wbcprof.images.tables.stated`.

    Warns
    -----
    ImageWarning
        Boxes reach beyond their image by more than a pixel, and are clipped; or have no area, as a
        click that slipped leaves, and are left out.
    TableWarning
        Boxes say again what others said, and are left out.

    Raises
    ------
    FileNotFoundError
        `source` does not exist.
    TypeError
        `images` can be read only once.
    ValueError
        A file cannot be read or is of another form; a box is not of numbers, has its corners
        swapped, is in parts of its image, where YOLO alone has these, or lies outside it; a nucleus
        lies outside its box; two boxes at one place say different things; two files or entries are
        of one image; a mask or a stated size is not that of the image; an image that is named is
        not there, or may be one of several.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from wbcprof.datasets import make_smear, write_smear
    >>> from wbcprof.images import read_boxes
    >>> smear = make_smear(1, size=(200, 200), pixel_size=0.2, n_leukocytes=2)  # generated
    >>> with TemporaryDirectory() as home:
    ...     folder = write_smear(smear, Path(home, "smear"))
    ...     boxes = read_boxes(folder / "boxes.csv", folder / "images")
    >>> [box.kind for box in boxes["generated_field_0000.png"]].count("leukocyte")
    2
    """
    known = _Images(_shapes(images))
    found: dict[str, list[Box]] = {image_id: [] for image_id in known.shapes}
    covered = dict.fromkeys(known.shapes, 0.0)  # pixels of squares about the boxes
    beyond, empty, repeated, n = [], [], [], 0
    first: dict[Hashable, tuple[str, Box]] = {}
    for where, box in _read(source, known):
        n += 1
        with naming(where):
            _check_numbers(box)
            if box.left == box.right or box.top == box.bottom:
                empty.append(where)
                continue
            shape = known.shape(box.image_id)
            inside, is_beyond = _inside(box, shape)
            _check_nucleus(inside)
            above, same = first.setdefault(_place(inside), (where, inside))
            if same is not inside:
                _check_alike(inside, same, above)
                repeated.append(where)
                continue
            side = max(inside.right - inside.left, inside.bottom - inside.top)
            covered[box.image_id] += side**2
            if covered[box.image_id] > _MOST_BOXES * max(shape) ** 2:
                raise ValueError(
                    f"the boxes of {box.image_id!r} cover it more than {_MOST_BOXES} times; "
                    "expected those of its cells, each once"
                )
        found[box.image_id].append(inside)
        beyond += [where] * is_beyond
    for places, done, category in (
        (beyond, "reached beyond their image and were clipped", ImageWarning),
        (empty, "had no area and were left out", ImageWarning),
        (repeated, "repeat others and were left out", TableWarning),
    ):
        if places:
            warnings.warn(
                f"{len(places)} of {n} boxes {done}; first: {places[0]}", category, stacklevel=2
            )
    return found


_MOST_BOXES = 16  # times that the boxes of an image may cover it

_Found = Iterator[tuple[str, Box]]  # where each box stands in the source, for errors


def _read(source: Any, images: _Images) -> _Found:
    if not isinstance(source, str | os.PathLike):
        return _from_boxes(source, images)
    path = Path(os.fspath(source))
    if not path.exists():
        raise FileNotFoundError(f"No such file or folder: '{path}'; boxes come from {ACCEPTED}")
    return _reader(path)(path, images)


def _from_boxes(source: Any, images: _Images) -> _Found:
    """Boxes from Python."""
    if isinstance(source, Mapping):
        groups = list(source.values())
        if all(isinstance(own, Iterable) for own in groups):
            source = [box for own in groups for box in own]
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise TypeError(
            "boxes must be a path, a list of Box, or a mapping from image ids to lists of Box, got "
            f"{shown(source)}"
        )
    for number, box in enumerate(source):
        where = f"box {number}"
        if not isinstance(box, Box):
            raise TypeError(
                "boxes must be a path, a list of Box, or a mapping from image ids to lists of Box, "
                f"got {shown(box)}"
            )
        with naming(where):
            image_id = images.find(box.image_id)
            left, top, right, bottom = _corners([getattr(box, side) for side in _CORNERS], False)
            place = [getattr(box, name) for name in ("x", "y", "nucleus")]
            x, y, nucleus = (None if value is None else _number(value) for value in place)
        kind, label = _kind_and_label(stated(box.label), stated(box.kind))
        yield where, replace(
            box, left=left, top=top, right=right, bottom=bottom, image_id=image_id, kind=kind,
            label=label, x=x, y=y, nucleus=nucleus,
        )  # fmt: skip


def _reader(path: Path) -> Callable[[Path, _Images], _Found]:
    if path.is_dir():
        kinds = {file.suffix.lower() for file in _files(path, (".xml", ".txt"))}
        if len(kinds) == 2:
            raise ValueError(
                f"'{path}' holds .xml files and .txt files: expected a folder of one kind; name a "
                "folder that holds only one"
            )
        if kinds:
            return _from_voc if kinds == {".xml"} else _from_yolo
        if _files(path, SUFFIXES):
            return _from_masks
    regular(path)
    readers = {**dict.fromkeys(SHEETS, _from_csv), ".json": _from_coco, ".xml": _from_voc}
    readers |= dict.fromkeys(SUFFIXES, _from_masks)
    if path.is_dir() or path.suffix.lower() not in readers:
        raise ValueError(f"expected {ACCEPTED}, got '{path}'")
    return readers[path.suffix.lower()]


def _files(path: Path, suffixes: Sequence[str]) -> list[Path]:
    """The file, or those of a folder, at any depth, that have boxes by their name."""
    if not path.is_dir():
        return [path]
    return sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in suffixes
        and all(map(is_users, file.relative_to(path).parts))
        and not (file.suffix.lower() == ".txt" and _NOT_BOXES.match(file.name))
        and file.is_file()
    )


def _name(file: Path, path: Path) -> str:
    """The name, below the folder and without its suffix, that the file shares with its image."""
    return (file.relative_to(path) if path.is_dir() else Path(file.name)).with_suffix("").as_posix()


def _check_numbers(box: Box) -> None:
    if not all(map(math.isfinite, (box.left, box.top, box.right, box.bottom))):
        raise ValueError(f"a box must be of finite numbers, got {_shown(box)}")
    if box.left > box.right or box.top > box.bottom:
        raise ValueError(f"a box must have left < right and top < bottom, got {_shown(box)}")


def _check_nucleus(box: Box) -> None:
    if (box.x is None) != (box.y is None):
        raise ValueError(f"a nucleus must have x and y, or neither, got {box.x} and {box.y}")
    if box.x is not None and box.y is not None:
        inside = box.left - _ROUNDING <= box.x <= box.right + _ROUNDING
        if not (inside and box.top - _ROUNDING <= box.y <= box.bottom + _ROUNDING):
            raise ValueError(
                f"the centre of a nucleus must lie in its box, {_shown(box)}; got x {box.x:g}, "
                f"y {box.y:g}"
            )
    if box.nucleus is not None and not 0 < box.nucleus < math.inf:
        raise ValueError(f"a nucleus must be larger than 0, got {box.nucleus:g}")


def _place(box: Box) -> Hashable:
    """Equal where two boxes are of the same pixels."""
    mask = None if box.mask is None else box.mask.tobytes()
    return box.image_id, box.left, box.top, box.right, box.bottom, mask


def _check_alike(box: Box, same: Box, above: str) -> None:
    """Refuse two boxes at one place that differ."""
    if (box.kind, box.label) != (same.kind, same.label):
        raise ValueError(
            f"the box is of {box.label or box.kind!r} here and of {same.label or same.kind!r} in "
            f"{above}; leave one"
        )


def _shown(box: Box) -> str:
    return f"left {box.left:g}, top {box.top:g}, right {box.right:g}, bottom {box.bottom:g}"


def _inside(box: Box, shape: tuple[int, int]) -> tuple[Box, bool]:
    """The box clipped to its image, and whether that took off more than rounding does."""
    height, width = shape
    clipped = replace(
        box,
        left=float(max(box.left, 0)),
        top=float(max(box.top, 0)),
        right=float(min(box.right, width)),
        bottom=float(min(box.bottom, height)),
    )
    if not (clipped.left < clipped.right and clipped.top < clipped.bottom):
        raise ValueError(
            f"a box must lie in its image of {width} x {height} px, got {_shown(box)}; is the "
            "box of this image, and in its pixels?"
        )
    is_beyond = (
        min(box.left, box.top) < -_ROUNDING
        or box.right > width + _ROUNDING
        or box.bottom > height + _ROUNDING
    )
    return clipped, is_beyond


def _kind_and_label(name: str | None, kind: str | None = None) -> tuple[str, str | None]:
    """What a class says, and a kind beside it: the kind of a box, and the label of a leukocyte."""
    known = None if kind is None else _KIND_OF.get(_word(kind), kind)
    if known not in (None, "leukocyte"):
        return known, name
    named = None if name is None else _KIND_OF.get(_word(name))
    return (named, None) if named else ("leukocyte", name)


def _word(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split()).removesuffix("s")


def _number(text: Any) -> float:
    try:
        return to_number(text) if isinstance(text, str) else float(text)
    except (TypeError, ValueError, OverflowError) as error:
        why = str(error) if isinstance(text, str) and "," in text else shown(text)
        raise ValueError(f"a box must be of numbers, got {why}") from None


# --- images by the names that others give them -------------------------------------------------


def _shapes(images: Any) -> dict[str, tuple[int, int] | None]:
    """Rows and columns of whole images by their ids."""
    if isinstance(images, FieldSource):
        return images.whole_images()
    source = open_images(images)
    if source.n_hint is None:
        raise TypeError(
            "images from an iterator can be read only once; give a list or a folder, so that they "
            "can be read after their boxes"
        )
    return dict(zip(source.ids(), source.shapes(), strict=True))


class _Images:
    """Ids and shapes of images, found by what a file calls them."""

    def __init__(self, shapes: dict[str, tuple[int, int] | None]):
        self.shapes = shapes
        self._names = Names(shapes, IMAGES_AND_SLIDES)

    def find(self, *names: str) -> str:
        """Id of the image that the first of these names means that means one."""
        for name in names:
            if (image_id := self._names.find(name)) is not None:
                return image_id
        raise ValueError(
            f"no image is named {names[0]!r}, the first of {len(self.shapes)} is "
            f"{next(iter(self.shapes))!r}; give all images that boxes are of, or take these out"
        )

    def shape(self, image_id: str) -> tuple[int, int]:
        shape = self.shapes[image_id]
        if shape is None:
            raise ValueError(f"the image {image_id!r} cannot be read, so its size is not known")
        return shape

    def check_shape(self, image_id: str, height: Any, width: Any) -> None:
        """Refuse boxes that are for an image of another size."""
        rows, columns = self.shape(image_id)
        if (_number(height), _number(width)) != (rows, columns):
            raise ValueError(
                f"expected the size of the image {image_id!r}, {columns} x {rows} px, got "
                f"{shown(width)} x {shown(height)}; give the image that this was made of"
            )


# --- formats -----------------------------------------------------------------------------------


def _from_csv(path: Path, images: _Images) -> _Found:
    table = read_table(path)
    field = table.find(FIELD_COLUMNS)
    columns = next((c for c in (_CORNERS, _VOC, _SPAN) if set(c) <= set(table.header)), None)
    has_nuclei = columns is not _SPAN and NUCLEUS in table.header
    # The type in tables of this package is what a cell was called.
    label_column = table.find([name for name in LABEL_COLUMNS if name != "type"])
    if field is None or columns is None:
        raise ValueError(
            f"'{path}': expected a first line with a column {' or '.join(FIELD_COLUMNS[:5])} "
            f"and columns {', '.join(_CORNERS)}, or {', '.join(_SPAN)}, got: "
            f"{table.shown()}"
        )
    for line, cells in table.rows:
        numbers = [cells[column] for column in columns]
        if not any(numbers):
            continue
        with naming(table.at(line)):
            image_id = images.find(from_csv_text(cells[field]) or "")
            corners = _corners(numbers, columns is _SPAN)
            x, y, nucleus = _nucleus(cells) if has_nuclei else (None,) * 3
            label, kind = (
                stated(from_csv_text(cells.get(column or "", "")))
                for column in (label_column, "kind")
            )
            kind_and_label = _kind_and_label(label, kind)
        yield table.at(line), Box(image_id, *corners, *kind_and_label, None, x, y, nucleus)


def _nucleus(cells: Mapping[str, str]) -> list[float | None]:
    """Centre and size of the nucleus, as tables of this package say."""
    return [_number(cells[name]) if cells.get(name) else None for name in ("x", "y", NUCLEUS)]


def _corners(numbers: Sequence[Any], is_span: bool) -> tuple[float, float, float, float]:
    """Left, top, right and bottom, px."""
    a, b, c, d = map(_number, numbers)
    box = (a, b, a + c, b + d) if is_span else (a, b, c, d)
    if box[0] < box[2] <= 1 and box[1] < box[3] <= 1:
        raise ValueError(
            f"a box must be in pixels, got {', '.join(map(shown, numbers))}, which seem to be "
            "parts of the image; multiply them by its width and height, or give them as YOLO .txt "
            "files"
        )
    return box


def _from_voc(path: Path, images: _Images) -> _Found:
    taken: dict[str, str] = {}
    for file in _files(path, (".xml",)):
        with naming(f"'{file}'"):
            root = _parse_xml(file.read_bytes())
            if root.tag != "annotation":
                raise ValueError(f"expected the element annotation of Pascal VOC, got {root.tag}")
            things = root.findall("object")
            if not things:
                continue
            filename = (root.findtext("filename") or "").strip()
            image_id = images.find(*filter(None, (filename, _name(file, path))))
            height, width = (root.findtext(f"size/{side}") for side in ("height", "width"))
            if height and width and height.strip() != "0":  # which some tools write
                images.check_shape(image_id, height, width)
            _take(taken, image_id, f"'{file}'")
        for number, thing in enumerate(things, 1):
            where = f"'{file}', object {number}"
            with naming(where):
                corners = _corners([thing.findtext(f"bndbox/{side}") for side in _VOC], False)
            name = stated((thing.findtext("name") or "").strip())
            yield where, Box(image_id, *corners, *_kind_and_label(name))


def _take(taken: dict[str, str], image_id: str, where: str) -> None:
    """Refuse a second file, or entry, that is of an image."""
    if taken.setdefault(image_id, where) != where:
        raise ValueError(f"the image {image_id!r} is also that of {taken[image_id]}; leave one")


def _parse_xml(content: bytes) -> ElementTree.Element:
    """The root element; refuses a DTD, the one thing in which entities are declared."""

    def refuse(*_: Any) -> None:
        raise ValueError("expected XML without a document type declaration (DOCTYPE); take it out")

    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, LookupError) as error:
        raise ValueError(f"damaged XML: {told(error)}") from error
    return builder.close()


def _from_yolo(path: Path, images: _Images) -> _Found:
    names = _yolo_names(path)
    taken: dict[str, str] = {}
    for file in _files(path, (".txt",)):
        for number, line in enumerate(_text(file).splitlines(), 1):
            if not line.strip():
                continue
            where = f"'{file}', line {number}"
            with naming(where):
                words = line.split()
                if len(words) not in (5, 6) or not words[0].isdecimal():
                    raise ValueError(
                        "expected class x y width height (and perhaps how sure), got "
                        f"{shown(line)}; polygons are not read"
                    )
                if names and int(words[0]) not in names:
                    raise ValueError(f"class {words[0]} has no name; there are {len(names)}")
                name = stated(names.get(int(words[0]), words[0]))
                image_id = images.find(_name(file, path))
                _take(taken, image_id, f"'{file}'")
                corners = _from_parts([_number(word) for word in words[1:5]], images, image_id)
            yield where, Box(image_id, *corners, *_kind_and_label(name))


def _from_parts(
    numbers: Sequence[float], images: _Images, image_id: str
) -> tuple[float, float, float, float]:
    """Corners in pixels of a middle and a size that are parts of the image."""
    rows, columns = images.shape(image_id)
    x, y, width, height = numbers
    left, top = (x - width / 2) * columns, (y - height / 2) * rows
    return left, top, left + width * columns, top + height * rows


def _yolo_names(path: Path) -> dict[int, str]:
    """Names of classes by number; none where no file has them."""
    for folder in [path, *path.resolve().parents[:2]]:
        if (folder / "classes.txt").is_file():
            return dict(enumerate(map(str.strip, _text(folder / "classes.txt").splitlines())))
        if (folder / "data.yaml").is_file():
            return _yaml_names(folder / "data.yaml")
    return {}


def _yaml_names(file: Path) -> dict[int, str]:
    """The entry ``names`` of a YAML file: a list or a mapping, in brackets or a line for each."""
    after = f"\n{_text(file)}".partition("\nnames:")[2].lstrip(" ")
    if after[:1] in ("[", "{"):
        items = _flow_items(after[1:], "]" if after[0] == "[" else "}")
    else:
        lines = (line for line in after.splitlines()[1:] if line.split("#")[0].strip())
        indented = takewhile(lambda line: line.startswith((" ", "-")), lines)
        items = [line.strip().removeprefix("-") for line in indented]
    items = [item.strip() for item in items if item.strip()]
    if not items:
        raise ValueError(
            f"'{file}': expected an entry names with a list or a mapping of names, got none; write "
            "them into classes.txt, a line for each"
        )
    return dict(_yaml_item(item, number) for number, item in enumerate(items))


def _flow_items(text: str, end: str) -> list[str]:
    """What commas part, up to the bracket that closes; none where it does not."""
    items = [""]
    for part in _QUOTED.split(text):
        if part[:1] in ("'", '"'):
            items[-1] += part
            continue
        before, closed, _ = part.partition(end)
        first, *others = before.split(",")
        items[-1] += first
        items += others
        if closed:
            return items
    return []


def _yaml_item(item: str, number: int) -> tuple[int, str]:
    key, colon, value = item.partition(":")
    if colon and key.strip().isdecimal():
        number, item = int(key), value
    item = item.strip()
    is_quoted = len(item) > 1 and item[0] == item[-1] and item[0] in "'\""
    if not is_quoted:
        return number, item.split(" #")[0].strip()
    return number, item[1:-1].replace("''", "'") if item[0] == "'" else item[1:-1]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"'{file}' is not text in UTF-8: {told(error)}") from error


def _from_coco(path: Path, images: _Images) -> _Found:
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{path}' is not a JSON file: {told(error)}") from error
    taken: dict[str, str] = {}
    with naming(f"'{path}'"):
        categories = _by_id(_listed(content, "categories", "name"), "categories")
        named = _by_id(_listed(content, "images", "file_name"), "images")
        annotations = _listed(content, "annotations", "bbox", "image_id")
    for number, thing in enumerate(annotations):
        where = f"'{path}', annotation {number}"
        with naming(where):
            image = _of_id(named, thing["image_id"], "image")
            image_id = images.find(str(image["file_name"]))
            _take(taken, image_id, f"the entry of id {shown(image['id'])}")
            if image.get("height") and image.get("width"):
                images.check_shape(image_id, image["height"], image["width"])
            bbox = thing["bbox"]
            if not isinstance(bbox, list) or len(bbox) != 4:
                raise ValueError(f"bbox must be [x, y, width, height], got {shown(bbox)}")
            corners = _corners(bbox, True)
            category = thing.get("category_id")
            name = (
                None
                if category is None
                else stated(_of_id(categories, category, "category")["name"])
            )
        yield where, Box(image_id, *corners, *_kind_and_label(name))


def _listed(content: Any, key: str, *fields: str) -> list[dict[str, Any]]:
    """The list `key` of a COCO file; each item has an id, a number or text, and these fields."""
    things = content.get(key) if isinstance(content, dict) else None
    if things is None and key == "categories":
        things = []
    needed = fields if key == "annotations" else ("id", *fields)
    if not isinstance(things, list):
        raise ValueError(f"expected a COCO file with the list {key}, got {shown(things)}")
    for number, thing in enumerate(things):
        if not isinstance(thing, dict) or not all(field in thing for field in needed):
            raise ValueError(
                f"{key} must hold objects with {', '.join(needed)}, got {shown(thing)} as number "
                f"{number}"
            )
        if "id" in needed and not isinstance(thing["id"], int | str):
            raise ValueError(f"ids must be numbers or text, got {shown(thing['id'])}")
    return things


def _by_id(things: Sequence[dict[str, Any]], key: str) -> dict[int | str, dict[str, Any]]:
    found: dict[int | str, dict[str, Any]] = {}
    for thing in things:
        if found.setdefault(thing["id"], thing) is not thing:
            raise ValueError(f"{key} must have ids of their own, got {shown(thing['id'])} twice")
    return found


def _of_id(things: Mapping[Any, Any], key: Any, what: str) -> Any:
    if not isinstance(key, int | str) or key not in things:
        raise ValueError(f"{what}_id {shown(key)} is the id of no {what}")
    return things[key]


# --- label images ------------------------------------------------------------------------------


def _from_masks(path: Path, images: _Images) -> _Found:
    taken: dict[str, str] = {}
    for file in _files(path, SUFFIXES):
        with naming(f"'{file}'"):
            name = _name(file, path)
            names = [name, *(name.removesuffix(end) for end in MASK_ENDINGS if name.endswith(end))]
            image_id = images.find(*names)
            _take(taken, image_id, f"'{file}'")
            outlines = _outlines(_read_labels(file, image_id, images))
        for number, (rows, columns, mask) in enumerate(outlines, 1):
            corners = columns.start, rows.start, columns.stop, rows.stop
            yield f"'{file}', object {number}", Box(image_id, *corners, mask=mask)


def _read_labels(file: Path, image_id: str, images: _Images) -> np.ndarray:
    """Numbers (H, W) of a label image."""
    if shape := stated_shape(file):  # first, so that no memory is taken for another size
        images.check_shape(image_id, *shape)
    with reasons(), open_picture(file) as image:
        frames, mode = getattr(image, "n_frames", 1), image.mode
        labels = np.asarray(image)
    if frames > 1 or labels.ndim != 2 or labels.dtype.kind not in "bui":
        raise ValueError(
            f"expected one whole number for each pixel, got {frames} frames of mode {mode}; save "
            "labels as one grey PNG or TIFF of 8 or 16 bits"
        )
    if labels.min() < 0:
        raise ValueError(f"labels must be 0 or above, got {labels.min()}")
    return labels


_MOST_OBJECTS, _FEWEST_PIXELS = 100, 16  # of a mask: so many, and one more for each so many pixels
_AS = "give the number of its cell for each pixel, 0 for none, and not a photograph"


def _outlines(labels: np.ndarray) -> list[tuple[slice, slice, np.ndarray]]:
    """Rows, columns and cropped mask of each object, by their numbers."""
    from scipy.ndimage import find_objects, label

    numbers = np.unique(labels)
    numbers = numbers[numbers > 0]
    if numbers.size == 1 and numbers[0] in (1, 255):
        objects, _ = label(labels, np.ones((3, 3)))
    else:
        objects = np.searchsorted(numbers, labels) + (labels > 0)
    n, most = int(objects.max()), _MOST_OBJECTS + labels.size // _FEWEST_PIXELS
    if n > most:
        raise ValueError(f"expected {most} objects at most on {labels.size} pixels, got {n}; {_AS}")
    places = find_objects(objects)
    area = sum((r.stop - r.start) * (c.stop - c.start) for r, c in places)
    if area > _MOST_BOXES * labels.size:
        raise ValueError(
            f"expected objects in one place each, got {n} whose boxes cover the image "
            f"{area // labels.size} times; {_AS}"
        )
    return [
        (rows, columns, objects[rows, columns] == number)
        for number, (rows, columns) in enumerate(places, 1)
    ]
