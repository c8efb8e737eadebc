"""A folder becomes a list of images with labels, and what was found is said in words."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from wbcprof.checks import known_label

MASK_ENDINGS = ("_cp_masks", "_masks", "_mask", "_labels", "_label", "_objects", "_seg")
"""What file names of label images have behind the name of their image."""

# Of Synology, QNAP, Windows, macOS, Linux and of viewers of images; never anybody's cells.
_SYSTEM = frozenset(
    "@eadir @tmp @recycle @recently-snapshot #recycle #snapshot $recycle.bin recycler __macosx "
    "lost+found thumbs thumbnails __pycache__ thumbs.db desktop.ini".split()
) | {"system volume information"}
_MASKS = re.compile(
    r"(?:.+[ _-])?(?:masks?|labels|segmentations?|annotations?|ground[ _-]?truth|gt)"
    r"(?:[ _-](?:png|tiff?|bmp|images?|imgs?|binary|\d+))?",
    re.IGNORECASE,
)
# Folders that hold types, where they all are called so.
_ABOVE = re.compile(
    r"(?:train(?:ing)?|test(?:ing)?|val(?:id|idation)?|dev|hold[ _-]?out|(?:fold|split)[ _-]?\d+"
    r"|images?|imgs?|data)(?:[ _-]?(?:set|data|images?|\d+))?",
    re.IGNORECASE,
)
_TYPE = re.compile(r"phil|cyte|blast|platelet|thrombo|smudge|(?:^|[ _-])(?:band|seg|ig)s?$", re.I)
# Such as may hold cells though they are not read; tables and notes beside images are no surprise.
IMAGE_SUFFIXES = frozenset(
    ".avif .bmp .btf .cr2 .czi .dcm .dng .gif .heic .heif .j2k .jfif .jp2 .jpe .jpeg .jpf .jpg "
    ".jpx .jxl .jxr .lif .lsm .mrxs .nd2 .ndpi .nef .npy .oib .oif .pam .pbm .pdf .pgm .png .pnm "
    ".ppm .psd .raw .scn .stk .svs .tga .tif .tiff .vsi .wdp .webp .zip .tar".split()
)


@dataclass(frozen=True)
class Listing:
    """Images of a folder, and what else lies in it.

    Attributes
    ----------
    folder : path
    names : list of str
        POSIX paths of the images relative to the folder, sorted.
    level : int
        Which folder below it names the type.
    suffixes : Counter of str
        Of files that are not read, and how many.
    unread : list of str
        Folders of the type's level none of whose files is read.
    masks : Counter of str
        Folders of masks, and single masks beside their images under their folder, left out; how
        many files.
    """

    folder: Path
    names: list[str]
    level: int = 1
    suffixes: Counter[str] = field(default_factory=Counter)
    unread: list[str] = field(default_factory=list)
    masks: Counter[str] = field(default_factory=Counter)

    def label(self, name: str) -> str | None:
        """Type of an image: the folder at the level; None where it lies less deep."""
        folders = name.split("/")[:-1]
        return known_label(folders[self.level - 1]) if len(folders) >= self.level else None

    def warnings(self) -> Iterator[str]:
        """What nobody should learn of later, in one sentence each."""
        if self.masks:
            yield (
                f"masks in '{self.folder}' were left out, {_counted(self.masks)}; rename folders "
                "and files that are cells"
            )
        like = Counter(
            {suffix: n for suffix, n in self.suffixes.items() if suffix in IMAGE_SUFFIXES}
        )
        if like:
            nothing = f"; nothing is read of {_some(self.unread)}" if self.unread else ""
            yield (
                f"{like.total()} files in '{self.folder}' are of suffixes that are not read: "
                f"{_counted(like)}{nothing}; save them as PNG or TIFF"
            )

    def oddity(self) -> str:
        """Why the folders at this level are unlikely to be types; "" where they may well be."""
        outer, inner = self._levels()
        if not inner:
            return ""
        advice = f"give level={self.level + 1}, on the command line --level {self.level + 1}"
        held = f"'{self.folder}': {_some(outer)} hold {_some(inner)}"
        if all(map(_ABOVE.fullmatch, outer)):
            return f"folders that are no types lie above others in {held}; for these, {advice}"
        if not any(map(_TYPE.search, outer)) and 2 * len(list(filter(_TYPE.search, inner))) >= len(
            inner
        ):
            return f"folders lie above such as are called like types in {held}; for these, {advice}"
        return ""

    def hint(self) -> str:
        """What may be odd about the folders, where names do not tell."""
        outer, inner = self._levels()
        pairs = {pair for pair in map(self._pair, self.names) if len(pair) > 1}
        if len(outer) > 1 and len(pairs) > len(inner) and not any(map(_TYPE.search, outer)):
            return (
                f"folders of the same names lie in several types: {_some(inner)}; if these are the "
                f"types, give --level {self.level + 1}"
            )
        return ""

    def _levels(self) -> tuple[list[str], list[str]]:
        """Names of folders of the type's level and of the next."""
        pairs = [pair for pair in map(self._pair, self.names) if pair]
        return sorted({pair[0] for pair in pairs}), sorted({p[1] for p in pairs if len(p) > 1})

    def _pair(self, name: str) -> tuple[str, ...]:
        return tuple(name.split("/")[:-1][self.level - 1 : self.level + 1])


def list_folder(folder: Path, suffixes: Sequence[str], level: int = 1) -> Listing:
    """Find the images of a folder; folders of systems and hidden files are passed over.

    Raises
    ------
    ValueError
        There is none.
    """
    names: list[str] = []
    others: list[str] = []
    masks: Counter[str] = Counter()
    for name in _files(folder):
        path = PurePosixPath(name)
        masked = next(
            (n for n, part in enumerate(path.parts[:-1], 1) if _MASKS.fullmatch(part)), None
        )
        if path.suffix.lower() not in suffixes:
            others += [name] if masked is None else []
        elif masked is not None:
            masks["/".join(path.parts[:masked]) + "/"] += 1
        else:
            names.append(name)
    beside = _masks_beside(names)
    masks.update(f"{PurePosixPath(name).parent}/" for name in beside)
    names = sorted(set(names) - beside)
    if not names:
        raise ValueError(
            f"No images in folder '{folder}': expected files ending in {', '.join(suffixes)}, "
            "in one sub-folder per cell type or directly in the folder"
            + (f"; masks were left out, in {_counted(masks)}" if masks else "")
            + (f"; got {_counted(_suffixes(others))}." if others else ".")
        )
    read = {tuple(name.split("/")[:level]) for name in names}
    unread = {tuple(name.split("/")[:level]) for name in others if name.count("/") >= level} - read
    return Listing(
        folder, names, level, _suffixes(others), sorted("/".join(parts) for parts in unread), masks
    )


def describe(
    n: int | None, labels: Iterable[str | None] | None, listing: Listing | None
) -> list[str]:
    """What was found, a line for each thing: types and how many images of each, what was left
    out, what looks odd."""
    types = Counter(label for label in labels or () if label is not None)
    unknown = 0 if n is None else n - types.total()
    counted = _counted(dict(sorted(types.items())), len(types))
    lines = [f"found {'images of an iterator' if n is None else f'{n} images'}"]
    if types:
        lines[0] += f" of {len(types)} {'type' if len(types) == 1 else 'types'}: {counted}"
        lines[0] += f"; {unknown} without a type" if unknown else ""
    if listing is not None:
        if listing.suffixes:
            lines.append(f"not read, by suffix: {_counted(listing.suffixes, 20)}")
        if listing.masks:
            lines.append(f"masks left out: {_counted(listing.masks)}")
        if hint := listing.hint():
            lines.append(f"odd: {hint}")
    if len(types) == 1:
        lines.append("odd: there is one type only")
    if single := sorted(name for name, k in types.items() if k == 1):
        lines.append(f"odd: one image only of {_some(single)}; --min-per-type 2 leaves such out")
    return lines


def is_users(name: str) -> bool:
    """Whether a file or folder of this name is the user's, neither hidden nor a system's."""
    return not name.startswith(".") and name.lower() not in _SYSTEM


def _files(folder: Path) -> Iterator[str]:
    """POSIX paths, relative to `folder`, of files that are neither hidden nor a system's."""

    def fail(error: OSError) -> None:
        raise error

    for entry in sorted(folder.iterdir()):
        if not entry.is_dir():
            if is_users(entry.name):
                yield entry.name
        # A link to the folder itself, or to one above it, would list everything again.
        elif is_users(entry.name) and not folder.resolve().is_relative_to(entry.resolve()):
            for root, folders, files in os.walk(entry, onerror=fail):
                folders[:] = filter(is_users, folders)
                for name in filter(is_users, files):
                    yield Path(root, name).relative_to(folder).as_posix()


def _masks_beside(names: Sequence[str]) -> set[str]:
    """Of these images, those that are called as the mask of another in their folder."""
    stems = {os.path.splitext(name)[0] for name in names}
    found = set()
    for name in names:
        stem = os.path.splitext(name)[0]
        if any(stem.endswith(end) and stem.removesuffix(end) in stems for end in MASK_ENDINGS):
            found.add(name)
    return found


def _suffixes(names: Iterable[str]) -> Counter[str]:
    return Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in names)


def _counted(counts: Mapping[str, int], most: int = 5) -> str:
    shown = [f"{name} {n}" for name, n in list(counts.items())[:most]]
    return ", ".join(shown) + (f" and {len(counts) - most} more" if len(counts) > most else "")


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
