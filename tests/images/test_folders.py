"""A folder becomes a list of images with labels: levels, masks, systems, suffixes, and words."""

import warnings

import numpy as np
import pytest
from PIL import Image

from wbcprof.cli import main
from wbcprof.images import open_images


def fill(root, *names):
    """Files of these names; images where the suffix says so."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".png", ".tif"):
            noise = np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
        else:
            path.write_bytes(b"nothing that is read")
    return root


def opened(folder, **options):
    """The source, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source = open_images(folder, **options)
    return source, [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    "above",
    [("train", "test"), ("Training", "Validation"), ("fold1", "fold2"), ("images",), ("TestSet",)],
)
def test_folders_that_hold_types_are_no_types(tmp_path, above):
    names = [f"{a}/{t}/{i}.png" for a in above for t in ("x", "y") for i in range(2)]
    fill(tmp_path, *names)
    _, said = opened(tmp_path)
    assert len(said) == 1 and "--level 2" in said[0] and above[0] in said[0]
    source, said = opened(tmp_path, level=2)
    assert not said and source.labels == [name.split("/")[1] for name in sorted(names)]
    source, said = opened(tmp_path, level=1)
    assert not said and set(source.labels) == set(above)


def test_patients_above_types_are_no_types(tmp_path):
    fill(tmp_path, *(f"p{p}/{t}/a.png" for p in range(3) for t in ("neutrophil", "monocyte")))
    _, said = opened(tmp_path)
    assert len(said) == 1 and "monocyte, neutrophil" in said[0] and "level=2" in said[0]


@pytest.mark.parametrize("below", ["p1", "train", "neutrophil_old"])
def test_types_above_anything_are_types(tmp_path, below):
    fill(tmp_path, *(f"{t}/{below}/a.png" for t in ("neutrophil", "monocyte")))
    source, said = opened(tmp_path)
    assert not said and source.labels == ["monocyte", "neutrophil"]


def test_train_of_images_alone_is_a_type(tmp_path):
    """Nothing lies below, so there is no other level to advise."""
    assert opened(fill(tmp_path, "train/a.png", "other/a.png"))[1] == []


def test_what_lies_less_deep_has_no_type(tmp_path):
    source, _ = opened(fill(tmp_path, "train/x/a.png", "train/b.png", "c.png"), level=2)
    assert dict(zip(source.ids(), source.labels, strict=True)) == {
        "c.png": None, "train/b.png": None, "train/x/a.png": "x",
    }  # fmt: skip


@pytest.mark.parametrize("bad", [0, -1, 1.5, "2", True])
def test_levels_are_positive_integers(tmp_path, bad):
    with pytest.raises(ValueError, match="level must be a positive integer"):
        open_images(fill(tmp_path, "x/a.png"), level=bad)


@pytest.mark.parametrize(
    "masks",
    ["masks/a.png", "Mask/a.png", "x/cell_masks/a.png", "labels/a.png", "labels_png/a.tif",
     "x/masks_2/b/a.png", "ground truth/a.png", "GT/a.png", "x/a_mask.png", "x/a_cp_masks.tif",
     "annotations/a.png"],
)  # fmt: skip
def test_masks_are_named_and_left_out(tmp_path, masks):
    source, said = opened(fill(tmp_path, "x/a.png", "y/b.png", masks))
    assert source.ids() == ["x/a.png", "y/b.png"] and source.labels == ["x", "y"]
    parent = masks.rpartition("/")[0].removesuffix("/b")
    assert len(said) == 1 and "masks in" in said[0] and f"{parent}/ 1" in said[0]


@pytest.mark.parametrize("name", ["segmented", "seg", "band", "label_2", "unmasked", "gtx"])
def test_types_are_not_taken_for_masks(tmp_path, name):
    source, said = opened(fill(tmp_path, f"{name}/a.png", "y/lonely_mask.png"))
    assert not said and sorted(source.labels) == sorted([name, "y"])


@pytest.mark.parametrize(
    "system",
    ["@eaDir", "$RECYCLE.BIN", "__MACOSX", "Thumbs", "#recycle", "lost+found", ".hidden",
     "System Volume Information"],
)  # fmt: skip
def test_folders_of_systems_are_never_read(tmp_path, system):
    names = [f"{system}/a.png", f"x/{system}/a.png", f"x/{system}/deep/a.png", f"{system}/a.czi"]
    source, said = opened(fill(tmp_path, "x/a.png", *names))
    assert source.ids() == ["x/a.png"] and not said and source.listing.suffixes == {}
    assert open_images(f"{tmp_path}/**/*.png").ids() == [(tmp_path / "x/a.png").as_posix()]


def test_images_of_suffixes_that_are_not_read_are_told_of(tmp_path):
    names = ["x/a.png", "notes.txt", "y/a.czi", "y/b.CZI", "x/c.heic"]
    source, said = opened(fill(tmp_path, *names))
    assert source.labels == ["x"] and len(said) == 1
    assert "3 files" in said[0] and ".czi 2" in said[0] and ".heic 1" in said[0]
    assert "nothing is read of y;" in said[0]
    assert "not read, by suffix: .txt 1, .heic 1, .czi 2" in source.describe()


def test_a_folder_of_nothing_readable_says_what_it_holds(tmp_path):
    with pytest.raises(ValueError, match=r"masks were left out, in masks/ 1; got \.czi 1"):
        open_images(fill(tmp_path, "masks/a.png", "x/a.czi"))


def test_what_was_found_is_said_in_words(tmp_path):
    fill(tmp_path, *(f"x/{i}.png" for i in range(3)), "y/a.png", "z.png")
    assert opened(tmp_path)[0].describe() == [
        "found 5 images of 2 types: x 3, y 1; 1 without a type",
        "odd: one image only of y; --min-per-type 2 leaves such out",
    ]
    assert open_images(np.zeros((2, 9, 9, 3), np.uint8)).describe() == ["found 2 images"]
    one = open_images(np.zeros((2, 9, 9, 3), np.uint8), ["x", "x"]).describe()
    assert one == ["found 2 images of 1 type: x 2", "odd: there is one type only"]


def test_names_that_repeat_are_pointed_out(tmp_path):
    fill(tmp_path, *(f"{p}/{t}/a.png" for p in "ab" for t in "cd"))
    source, said = opened(tmp_path)
    assert not said and any("c, d; if these are the types" in line for line in source.describe())


def test_images_are_chosen_by_pattern_and_number(tmp_path):
    fill(tmp_path, "x/1.png", "x/2.png", "x/old/3.png", "y/1.png", "4.png")
    source = open_images(tmp_path)
    assert source.choose() is source
    assert source.choose(only=["x/*"]).ids() == ["x/1.png", "x/2.png", "x/old/3.png"]
    chosen = source.choose(exclude=["*/old/*", "*2.png"])
    assert chosen.ids() == ["4.png", "x/1.png", "y/1.png"] and chosen.labels == [None, "x", "y"]
    assert [cell.label for cell in chosen] == [None, "x", "y"]
    assert source.choose(min_per_type=2).labels == [None, "x", "x", "x"]
    assert source.choose(exclude=["x/[12]*"], min_per_type=2).labels == [None]
    with pytest.raises(ValueError, match=r"none of the 5 images is left: only=\['q\*'\]"):
        source.choose(only=["q*"])
    with pytest.raises(TypeError, match="from an iterator"):
        open_images(iter([np.zeros((9, 9, 3), np.uint8)])).choose(only=["*"])


def test_commands_refuse_folders_that_are_no_types(tmp_path, capsys):
    """Before anything is learnt; with the level they go on."""
    types = ("neutrophil", "monocyte")
    fill(tmp_path / "in", *(f"{a}/{t}/{i}.png" for a in ("train", "test") for t in types
                            for i in range(2)))  # fmt: skip
    for command in (["fit", "-o", str(tmp_path / "m")], ["evaluate"]):
        assert main([command[0], str(tmp_path / "in"), *command[1:]]) == 1
        error = capsys.readouterr().err
        assert "give level=2, on the command line --level 2; or --level 1" in error
    assert not (tmp_path / "m").exists()
    nothing = ["fit", str(tmp_path / "in"), "-o", str(tmp_path / "m"), "--only", "nothing"]
    assert main([*nothing, "--level", "2"]) == 1
    assert "none of the 8 images is left" in capsys.readouterr().err
    assert main([*nothing[:-1], "train/*", "--level", "2", "--min-per-type", "9"]) == 1
    assert "none of the 8 images is left" in capsys.readouterr().err
