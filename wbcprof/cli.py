"""The command line: each command is a few lines over the public API.

Exit codes: 0 done; 1 the input or the environment does not allow it (one line says why);
2 the command line is wrong; 3 with --strict: done, but for images that could not be read;
130 interrupted; 143 and 129 ended by SIGTERM and SIGHUP, when nothing half-written is left either.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from wbcprof.analysis.scores import Scores
    from wbcprof.images.source import ImageSource, SkippedImage
    from wbcprof.model.model import Model
    from wbcprof.model.settings import Coding, LayerSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    try:
        options = _parser().parse_args(arguments)  # much is imported for it
    except KeyboardInterrupt:
        _say("wbcprof: interrupted")
        return 130
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be text
        sys.stdout.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings(), _unwinding():  # the first puts back what shows warnings
        warnings.showwarning = _show_warning
        return _run(options)


class _Ended(KeyboardInterrupt):
    """A signal asks the process to end."""


@contextmanager
def _unwinding() -> Iterator[None]:
    """Meanwhile signals that would end the process at once interrupt it, so that what is being
    written is removed; unless they are ignored, as by nohup."""

    def end(number: int, frame: object) -> None:
        raise _Ended(number)

    taken = []
    if threading.current_thread() is threading.main_thread():
        named = (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP"))
        taken = [one for one in named if one and signal.getsignal(one) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _run(options: argparse.Namespace) -> int:
    try:
        _spare_inputs(options)
        options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the output has what it wanted; nothing is left to flush to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except MemoryError as error:
        _say(f"wbcprof {options.command}: out of memory. {error}")
        return 1
    except (ValueError, TypeError, OSError, ImportError, RuntimeError, csv.Error) as error:
        _say(f"wbcprof {options.command}: {_by_option(str(error), options.parser)}")
        return 1
    except _Incomplete as error:
        _say(f"wbcprof {options.command}: {error}")
        return 3
    except _Ended as error:
        _say(f"wbcprof {options.command}: ended by {signal.Signals(error.args[0]).name}")
        return 128 + int(error.args[0])
    except KeyboardInterrupt:
        _say("")
        _say(f"wbcprof {options.command}: interrupted")
        return 130
    return 0


_WRITTEN = ("output", "json", "csv", "latex", "cells", "checkpoint", "state")
_READ = (
    "images",
    "model",
    "test",
    "labels",
    "groups",
    "boxes",
    "times",
    "slides",
    "slide_of",
    "samples",
    "attributes",
)


def _spare_inputs(options: argparse.Namespace) -> None:
    """Refuse an output in the place of what is read, or of an image, which would be lost."""
    from wbcprof.images.folders import IMAGE_SUFFIXES

    inputs = [
        (name, path)
        for name, given in ((name, getattr(options, name, None)) for name in _READ)
        for path in (given if isinstance(given, list) else [given])
    ]
    for name in _WRITTEN:
        path = getattr(options, name, None)
        if path is None or not os.path.isfile(path):
            continue
        if Path(path).suffix.lower() in IMAGE_SUFFIXES:
            raise ValueError(f"--{name} would replace the image {path!r}; name another file")
        for read, given in inputs:
            if isinstance(given, str) and os.path.isfile(given) and os.path.samefile(path, given):
                raise ValueError(
                    f"--{name} would replace {path!r}, which is read as {read.replace('_', ' ')}; "
                    "name another file"
                )


_PARAMETERS = {"random_state": "seed", "n_threads": "threads"}


def _by_option(text: str, parser: argparse.ArgumentParser) -> str:
    """An error that begins with the name of a parameter, with that of its option."""
    name, _, rest = text.partition(" ")
    for action in parser._actions:
        if action.dest == _PARAMETERS.get(name, name) and action.option_strings:
            return f"{action.option_strings[-1]} {rest.replace('must be None or ', 'must be ')}"
    return text


def _parser() -> argparse.ArgumentParser:
    from wbcprof._version import __version__

    parser = argparse.ArgumentParser(
        prog="wbcprof",
        description="Learn visual signatures of white blood cells, profile cells, name their type.",
        epilog="example: wbcprof demo --out wbcprof-demo",
    )
    parser.add_argument("--version", action="version", version=f"wbcprof {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (run, add_options, summary, example) in _COMMANDS.items():
        sub = commands.add_parser(
            name, help=summary, description=summary, epilog=f"example: wbcprof {name} {example}"
        )
        sub.set_defaults(run=run, parser=sub)
        add_options(sub)
    return parser


def _demo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", default="wbcprof-demo", metavar="DIR", help="folder for the results"
    )
    _add_threads(parser)


def _fit_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", metavar="IMAGES", help="folder, one sub-folder per type, or image"
    )
    parser.add_argument("-o", "--output", required=True, metavar="MODEL", help="file to write")
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="keep the state of learning in this file; where it exists, go on from it",
    )
    parser.add_argument(
        "--model",
        metavar="OLD",
        help="go on learning the signatures of this model, at its settings; its types are not kept",
    )
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="say of each iteration also how many codes are not zero, and how many signatures were "
        "replaced",
    )
    _add_labels(parser)
    _add_groups(parser, "where the classifier is tuned and calibrated")
    _add_dask(parser, "learn signatures on the workers of this Dask scheduler")
    _add_learning(parser)
    _add_choice(parser)


def _profile_options(parser: argparse.ArgumentParser) -> None:
    from wbcprof.model.settings import Coding

    _add_model(parser, "model file")
    parser.add_argument("images", metavar="IMAGES", help="folder or image")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="table to write, .csv, .parquet or .h5ad; or a folder, for any number of images: "
        "parquet shards, written as they fill; the same command again goes on after an "
        "interruption",
    )
    _add_shard_size(parser)
    _add_dask(parser, "profile into a folder on the workers of this Dask scheduler")
    _add_strict(parser)
    _add_settings(parser, Coding)
    _add_threads(parser)
    _add_choice(parser)


def _classify_options(parser: argparse.ArgumentParser) -> None:
    _add_model(parser, "model file with a classifier")
    parser.add_argument("images", metavar="IMAGES", help="folder or image")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help=".csv, .xlsx, .parquet or .jsonl file to write (default: print CSV); or a folder, for "
        "any number of images: parquet shards, as of profile",
    )
    _add_shard_size(parser)
    parser.add_argument(
        "--reject-below",
        type=float,
        default=0.0,
        metavar="P",
        help="call a cell 'unsure' where its most probable type has less than this; default 0",
    )
    parser.add_argument(
        "--false-alarms",
        type=float,
        default=0.01,
        metavar="P",
        help="share of cells of known types that are called 'unsure' or 'unlike' by chance, and of "
        "sets of cells that are found strange; default 0.01",
    )
    _add_drop(parser)
    _add_strict(parser)
    _add_threads(parser)
    _add_choice(parser)


def _suggest_options(parser: argparse.ArgumentParser) -> None:
    _add_model(parser, "model file with a classifier")
    parser.add_argument("images", metavar="IMAGES", help="folder or image")
    parser.add_argument("-n", type=int, default=50, metavar="N", help="cells; default 50")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help=".csv, .xlsx, .parquet or .jsonl file to write (default: print CSV)",
    )
    _add_threads(parser)
    _add_choice(parser)


def _adapt_options(parser: argparse.ArgumentParser) -> None:
    _add_model(parser, "model file with a classifier")
    parser.add_argument("images", metavar="IMAGES", help="folder or image of the other laboratory")
    parser.add_argument("-o", "--output", required=True, metavar="MODEL", help="file to write")
    _add_labels(parser)
    _add_pixel_size(parser)
    _add_threads(parser)
    _add_choice(parser)


def _agree_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", metavar="IMAGES", help="folder or image; none is decoded")
    parser.add_argument(
        "labels",
        metavar="CSV",
        nargs="+",
        help="columns image and label, of a person each, or one with a column person",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help=".csv, .xlsx, .parquet or .jsonl file to write cells to that were called differently",
    )


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", metavar="IMAGES", nargs="?", help="folder with one sub-folder per type"
    )
    parser.add_argument(
        "--test",
        metavar="LABELLED",
        help="in place of IMAGES: score the types that --model names on this folder, with limits; "
        "any number of images a type",
    )
    parser.add_argument(
        "--model",
        metavar="M",
        help="use this model's signatures; by default signatures are learnt from the training "
        "half of each repeat",
    )
    parser.add_argument("--repeats", type=int, metavar="N", help="default 10")
    _add_labels(parser)
    _add_groups(parser, "of a split")
    parser.add_argument("--json", metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--csv", metavar="FILE", help="write the table of types as CSV")
    parser.add_argument("--latex", metavar="FILE", help="write the table of types in LaTeX")
    _add_figures(parser)
    _add_learning(parser)
    _add_choice(parser)


def _report_options(parser: argparse.ArgumentParser) -> None:
    _add_model(parser, "model file")
    parser.add_argument("images", metavar="IMAGES", help="folder, or one sub-folder per type")
    parser.add_argument("-o", "--output", required=True, metavar="HTML", help="file to write")
    parser.add_argument(
        "--calls",
        choices=("cross-validated", "model"),
        default="cross-validated",
        help="types by cross-validation on these images (default), or by the model's classifier",
    )
    _add_labels(parser)
    _add_groups(parser, "of the cross-validation")
    parser.add_argument(
        "--samples", metavar="CSV", help="columns image and sample: a differential count of each"
    )
    parser.add_argument(
        "--attributes",
        metavar="CSV",
        help="column image and others, of what was noted of the cells (size, lobes, granules): "
        "which signatures agree with it",
    )
    _add_figures(parser)
    parser.add_argument("--title", metavar="TEXT", help="heading of the page")
    _add_strict(parser)
    _add_threads(parser)
    _add_choice(parser)


def _label_options(parser: argparse.ArgumentParser) -> None:
    _add_model(parser, "model file; it needs no classifier")
    parser.add_argument("images", metavar="IMAGES", help="folder or image; labels are not used")
    parser.add_argument("-o", "--output", required=True, metavar="HTML", help="file to write")
    parser.add_argument(
        "--types",
        type=lambda text: [name.strip() for name in text.split(",")],
        metavar="A,B",
        help="names that the keys 1 to 9 give; default: those of the model, or the five of blood",
    )
    parser.add_argument(
        "--groups",
        dest="n_groups",
        type=int,
        metavar="N",
        help="groups of like cells; default: as many as describe the cells best",
    )
    parser.add_argument("--title", metavar="TEXT", help="heading of the page")
    _add_threads(parser)
    _add_choice(parser)


def _monitor_options(parser: argparse.ArgumentParser) -> None:
    _add_model(parser, "model file")
    parser.add_argument(
        "slides",
        metavar="SLIDES",
        help="folder with a sub-folder of images, or a table of profiles, for each slide; a table "
        "of profiles of many; or a CSV file with the columns path and slide",
    )
    parser.add_argument("-o", "--output", required=True, metavar="HTML", help="file to write")
    parser.add_argument(
        "--state",
        metavar="FILE",
        help="keep slides in this JSON file; where it exists, go on from it: slides in it are not "
        "read again",
    )
    parser.add_argument("--csv", metavar="FILE", help="write every value and flag as CSV too")
    parser.add_argument(
        "--baseline",
        type=int,
        metavar="N",
        help="first slides, that others are judged by; default 20",
    )
    parser.add_argument(
        "--control",
        action="append",
        metavar="PATTERN",
        help="names of slides of the control set, such as 'control*'; may be given again",
    )
    parser.add_argument(
        "--times", metavar="CSV", help="columns slide and time (ISO 8601); default: order of names"
    )
    parser.add_argument(
        "--slides",
        dest="slide_of",
        metavar="CSV",
        help="columns image and slide, for one table of profiles; default: first folder of the ids",
    )
    parser.add_argument("--title", metavar="TEXT", help="heading of the page")
    _add_threads(parser)


def _find_options(parser: argparse.ArgumentParser) -> None:
    from wbcprof.smear.cells import FLAGS

    _add_fields(parser)
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to fill")
    parser.add_argument(
        "--canonical",
        action="store_true",
        help="write cells of one scale, light and stain, 112 px, in place of crops as they are",
    )
    parser.add_argument(
        "--drop",
        metavar="FLAGS",
        help=f"leave out cells with these flags, of {', '.join(FLAGS)}, and list them",
    )
    parser.add_argument(
        "--parquet", action="store_true", help="write tables of the parts as parquet too"
    )
    _add_shard_size(parser, "fields for each part; default 50")
    _add_dask(parser, "find on the workers of this Dask scheduler")
    _add_threads(parser)


def _smear_options(parser: argparse.ArgumentParser) -> None:
    _add_model(parser, "model file with a classifier")
    _add_fields(parser)
    parser.add_argument("-o", "--output", required=True, metavar="HTML", help="file to write")
    parser.add_argument("--csv", metavar="FILE", help="write the counts as CSV too")
    parser.add_argument("--cells", metavar="FILE", help="write a row for each cell as CSV too")
    parser.add_argument(
        "--adapt",
        action="store_true",
        help="adapt the model to the cells found, twenty or more, before they are named",
    )
    parser.add_argument(
        "--precision",
        type=float,
        metavar="P",
        help="half the width of the limits of each share, that cells are still needed for; "
        "default 0.05",
    )
    parser.add_argument(
        "--false-alarms",
        type=float,
        metavar="P",
        help="share of cells of known types that are set aside by chance; default 0.01",
    )
    parser.add_argument("--title", metavar="TEXT", help="heading of the page")
    _add_strict(parser)
    _add_threads(parser)


def _add_fields(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", metavar="IMAGES", help="folder of fields, image, or file of a whole slide"
    )
    parser.add_argument(
        "--slides",
        metavar="HOW",
        help="which slide a field is of: a CSV file with the columns image and slide; folder:2 for "
        "the second folder below IMAGES; pattern:REGEX, whose first group finds it in the file "
        "name; default: the folder",
    )
    _add_pixel_size(parser)
    given = parser.add_mutually_exclusive_group()
    given.add_argument(
        "--boxes",
        metavar="PATH",
        help="leukocytes that were found by others: CSV, Pascal VOC, YOLO or COCO; a table of "
        "cells as corrected on the page too",
    )
    given.add_argument(
        "--masks", dest="boxes", metavar="PATH", help="the same as label images, PNG or TIFF"
    )


def _info_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help="model file")
    parser.add_argument(
        "--images", metavar="IMAGES", help="say how these images were taken, and nothing else"
    )
    _add_pixel_size(parser)


def _add_model(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("model", metavar="MODEL", help=what)


def _add_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--level",
        type=int,
        metavar="N",
        help="the folder below IMAGES that is the type, 2 where train and test or patients lie "
        "above; the first unless given",
    )
    parser.add_argument(
        "--planes",
        action="store_true",
        help="take every depth and time of a TIFF stack as an image, in place of the middle and "
        "the first",
    )
    for option, what in (("--only", "use only"), ("--exclude", "leave out")):
        parser.add_argument(
            option,
            action="append",
            default=[],
            metavar="PATTERN",
            help=f"{what} images whose id, the path below IMAGES, is of this pattern, such as "
            "'*/2024-*'; may be given again",
        )
    parser.add_argument(
        "--min-per-type",
        type=int,
        default=1,
        metavar="N",
        help="leave out types of fewer images than this",
    )


def _add_shard_size(
    parser: argparse.ArgumentParser, what: str = "images for each shard of a folder; default 1000"
) -> None:
    parser.add_argument("--shard-size", type=int, metavar="N", help=what)


def _add_pixel_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pixel-size",
        type=float,
        metavar="UM",
        help="micrometres for each pixel; default: as TIFF files state it, or by red cells",
    )


def _add_strict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--strict",
        action="store_true",
        help="an error, rather than a warning, where the cells as a set are not from the world "
        "that the model knows; exit code 3 where images could not be read",
    )


def _add_drop(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--drop",
        metavar="FLAGS",
        help="leave out images with these flags, such as 'blurred,no cell', or all; they are "
        "listed with their flags in CSV.dropped.csv",
    )


def _add_figures(parser: argparse.ArgumentParser) -> None:
    from wbcprof.files import FIGURE_FORMATS

    parser.add_argument("--figures", metavar="DIR", help="folder to write figures to")
    parser.add_argument(
        "--figure-format", choices=FIGURE_FORMATS, help="of the files there; default pdf"
    )
    parser.add_argument(
        "--figure-width",
        type=float,
        metavar="MM",
        help="of each figure there, 85 for a column of a journal; default: as it is drawn",
    )


def _add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=int, metavar="N", help="default: all CPUs that this process may use"
    )


def _add_labels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--labels",
        action="append",
        metavar="CSV",
        help="columns image and label, and person where there are several: types of the images, or "
        "of some; those of folders are then not used. May be given again, for another person; what "
        "people disagree on stays without a label",
    )


def _add_groups(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--groups",
        metavar="HOW",
        help=f"patients or slides, none of which is then on both sides {what}: a CSV file with the "
        "columns image and group (or patient, slide); folder:2 for the second folder below IMAGES; "
        "or, where IMAGES is a CSV file, column:NAME",
    )


def _add_dask(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--dask", metavar="ADDRESS", help=f"{what}, such as tcp://host:8786")


def _options_of(settings: type[LayerSettings | Coding]) -> dict[str, dict[str, Any]]:
    """What argparse is told of the fields that are options: those with a help text."""
    from wbcprof.checks import Choice, Flag, Integer, Maybe, Real

    found = {}
    for entry in fields(settings):
        rule, text, metavar = (entry.metadata[key] for key in ("rule", "help", "metavar"))
        if not text:
            continue
        rule = rule.rule if isinstance(rule, Maybe) else rule
        told: dict[str, Any] = {"metavar": metavar or None}
        if isinstance(rule, Flag):
            told = {"action": argparse.BooleanOptionalAction}
        elif isinstance(rule, Choice):
            told["choices"] = rule.names
        elif isinstance(rule, Integer | Real):
            told["type"] = int if isinstance(rule, Integer) else float
            text += "" if entry.default is None else f"; default {entry.default}"
        found[entry.name] = {"help": text, "default": None, **told}
    return found


def _add_settings(parser: argparse.ArgumentParser, settings: type[LayerSettings | Coding]) -> None:
    for name, told in _options_of(settings).items():
        parser.add_argument("--" + name.replace("_", "-"), **told)


# Option, parameter of `fit`, its default, which importing it only for this help would be slow.
_LEARNING_NUMBERS = (
    ("--signatures", "n_signatures", 512, "N"),
    ("--patch-size", "patch_size", 6, "PX"),
    ("--step", "step", 2, "PX"),
    ("--patches", "n_patches", 50_000, "N"),
)


def _add_learning(parser: argparse.ArgumentParser) -> None:
    from wbcprof.model.pooling import STATISTICS
    from wbcprof.model.settings import LayerSettings
    from wbcprof.smear.normalise import NORMALISERS

    parser.add_argument(
        "--preset",
        choices=("default", "paper"),
        default="default",
        help="paper: 1024 signatures of 20 x 20 px, step 5, mean over the whole image, colours as "
        "they are",
    )
    for option, name, default, metavar in _LEARNING_NUMBERS:
        parser.add_argument(option, dest=name, type=int, metavar=metavar, help=f"default {default}")
    _add_settings(parser, LayerSettings)
    parser.add_argument(
        "--pools",
        type=lambda text: tuple(pool.strip() for pool in text.split(",")),
        metavar="A,B",
        help=f"of {', '.join(STATISTICS)}; default sqrt,std,max",
    )
    parser.add_argument(
        "--normalise",
        choices=(*NORMALISERS, "none"),
        help="how all images are brought to one form, none for as they are; default canonical",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default 0")
    _add_threads(parser)


def _given(options: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """The options of these names that were given."""
    values = {name: getattr(options, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _learning_parameters(options: argparse.Namespace) -> dict[str, Any]:
    from wbcprof.model.settings import LayerSettings

    names = [name for _, name, *_ in _LEARNING_NUMBERS]
    names += _options_of(LayerSettings)
    parameters = _given(options, (*names, "pools", "normalise"))
    if options.threads is not None:
        parameters["n_threads"] = options.threads
    if options.normalise == "none":
        parameters["normalise"] = None
    return {"preset": options.preset, **parameters}


def _coding(options: argparse.Namespace) -> dict[str, Any]:
    from wbcprof.model.settings import Coding

    return _given(options, _options_of(Coding))


def _images(options: argparse.Namespace, *, types: bool = False) -> ImageSource:
    """The images asked for; says what was found. Where `types` are learnt or scored, folders that
    look as if they were none are refused."""
    from wbcprof.images.source import open_images

    source = open_images(options.images, level=options.level, planes=options.planes)
    if getattr(options, "labels", None):
        source = _labelled(options.labels, source)
    elif types and options.level is None and source.listing and (odd := source.listing.oddity()):
        raise ValueError(f"{odd}; or --level 1 if they are types after all")
    source = source.choose(options.only, options.exclude, options.min_per_type)
    for line in source.describe():
        _say(line)
    return source


def _labelled(tables: Sequence[str], source: ImageSource) -> ImageSource:
    """The same images, labelled by these tables; says what was found, and how far people agree."""
    from wbcprof.images.labels import read_labels
    from wbcprof.images.source import open_images

    found = read_labels(tables, source)
    for line in found.describe():
        _say(line)
    if len(found.by_person) > 1:
        from wbcprof.analysis.raters import compare_raters

        _say_lines(compare_raters(found.by_person).to_text())
    return open_images(source, found.labels)


def _groups(options: argparse.Namespace, source: ImageSource) -> dict[str, str] | None:
    """Group of each image, where groups were asked for."""
    if options.groups is None:
        return None
    from wbcprof.images.groups import read_groups

    # A column is of the file that lists the images.
    of_file = options.groups.startswith("column:")
    return read_groups(options.groups, options.images if of_file else source)


class _Progress:
    """How far a long job is, how fast, and how long it will take: a line on a terminal, or one
    every half a minute in a log. The rate is that since the first call."""

    def __init__(self, what: str):
        self._what = what
        self._is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._shown = 0.0 if self._is_terminal else time.monotonic()
        self._first: tuple[int, float] | None = None

    def __call__(self, done: int, total: int | None) -> None:
        from wbcprof.files import tell

        now = time.monotonic()
        first, started = self._first = self._first or (done, now)
        every = _EVERY_ON_TERMINAL if self._is_terminal else _EVERY_IN_LOG
        if now - self._shown > every or (self._is_terminal and done == total):
            self._shown = now
            of = f" of {total}" if total is not None else ""
            speed = _speed(done - first, now - started, done, total)
            line = f"{self._what}: {done}{of}{speed}"
            if self._is_terminal:
                tell(f"\r{line}\033[K", sys.stderr, end="\n" if done == total else "")
            else:
                tell(line, sys.stderr)


class _Stages:
    """The same of a job of several stages, each with a progress of its own, and its name as it
    begins."""

    def __init__(self) -> None:
        self._of: dict[str, _Progress] = {}

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        if stage not in self._of:
            self._of[stage] = _Progress(stage)
            _say(stage)
        self._of[stage](done, total)


_EVERY_ON_TERMINAL, _EVERY_IN_LOG = 0.1, 30.0  # seconds


def _speed(n: int, seconds: float, done: int, total: int | None) -> str:
    if n == 0:
        return ""
    text = f", {n / seconds:.3g} a second"
    if total is None or done == total:
        return text
    minutes, left = divmod(round((total - done) * seconds / n), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{text}, {hours}:{minutes:02}:{left:02} left"


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    _say(f"{category.__name__}: {message}")


def _say(text: str) -> None:
    from wbcprof.files import tell, visible

    tell(visible(text), sys.stderr)


def _print(text: str) -> None:
    """Write a result that people read."""
    from wbcprof.files import visible

    if sys.stdout is None:
        raise OSError("the standard output is closed, and the result is text")
    print("\n".join(map(visible, text.split("\n"))))


def _say_lines(text: str) -> None:
    for line in text.split("\n"):
        _say(line)


def _fit(options: argparse.Namespace) -> None:
    from wbcprof.files import check_outputs
    from wbcprof.learning.profiler import fit

    check_outputs({"--output": options.output, "--checkpoint": options.checkpoint}, {})
    model = None
    if options.model is not None:
        from wbcprof.model.model import load

        model = load(options.model)
    images = _images(options, types=True)
    groups = _groups(options, images)
    types = Counter(label for label in images.labels or () if label is not None)
    if len(types) > 1:
        from wbcprof.analysis.classify import check_types, train

        check_types(types.elements())
    _say(f"learning signatures from {options.images}")
    with _cluster(options) as client:
        model = fit(
            images,
            client=client,
            model=model,
            random_state=options.seed,
            verbose=2 if options.verbose else 1,
            checkpoint=options.checkpoint,
            **_learning_parameters(options),
        )
        if len(types) > 1:
            model.save(options.output)  # lest it be lost where learning the types fails
            _say(f"signatures written to {options.output}; learning to name {len(types)} types")
            model.classifier = train(model, images, groups=groups, n_threads=options.threads)
            _say_how_good(model.classifier)
        else:
            _say("no classifier: the images have no types, or one only")
    last = model.history[0][-1]
    _say(
        "relative reconstruction error: "
        f"{last['error_inferred']:.3f} from inferred codes, "
        f"{last['error_optimal']:.3f} from optimal codes"
    )
    model.save(options.output)
    _say(
        f"model written to {options.output}; next: wbcprof "
        f"{'profile' if model.classifier is None else 'classify'} {options.output} IMAGES -o OUT"
    )


def _say_how_good(classifier: Any) -> None:
    """How the classifier named images that were left out while it was learnt."""
    if classifier.n_called_:
        _say(
            f"few images have a label: {classifier.n_called_} without one were learnt from too, as "
            "what they are called, since labelled images that were left out are named better so; "
            "cells among them of a type that no label names are then taken for one of these"
        )
    confusion = classifier.confusion_
    _say(f"classifier of {len(classifier.classes_)} types:")
    if confusion is None:
        _say("  how good it is cannot be said: a type has one image only")
        return
    for name, row, right in zip(classifier.classes_, confusion, confusion.diagonal(), strict=True):
        _say(f"  {name}: {row.sum()} images, {right / row.sum():.1%} of them named rightly")
    _say(
        f"  {confusion.trace() / confusion.sum():.1%} of all, each by what was learnt without it "
        "(five folds); signatures were learnt from all. 'wbcprof evaluate' leaves these out too"
    )


def _profile(options: argparse.Namespace) -> None:
    from wbcprof.analysis.quality import warn_of_fields
    from wbcprof.files import check_output
    from wbcprof.model.model import load
    from wbcprof.model.profiles import check_table

    if _is_folder(options.output):
        _profile_to_shards(options)
        return
    if options.dask is not None or options.shard_size is not None:
        raise ValueError(
            f"--dask and --shard-size are for a folder of shards; {options.output!r} is one table"
        )
    check_table(options.output)
    check_output(_skipped_of(options))
    model = load(options.model)
    profiles = model.profile(
        _images(options),
        n_threads=options.threads,
        progress=_Progress("profiling"),
        **_coding(options),
    )
    warn_of_fields(profiles)
    if model.classifier is not None and not _coding(options):
        from wbcprof.analysis.novelty import check_set, warn_of_set

        warn_of_set(check_set(model, profiles), strict=options.strict)
    profiles.save(options.output)
    _list_skipped(options, profiles.skipped)
    if options.tolerance is not None:
        _say(f"relative error of the profiles: {profiles.metadata['relative_error']:.1e}")
    _say(f"{len(profiles)} profiles of {profiles.values.shape[1]} features: {options.output}")


def _profile_to_shards(options: argparse.Namespace) -> None:
    from wbcprof.model.model import load
    from wbcprof.scale.shards import profile_to_shards

    if options.tolerance is not None:
        raise ValueError("--tolerance is for one table, such as profiles.parquet, not for shards")
    with _cluster(options) as client:
        made = profile_to_shards(
            load(options.model),
            _images(options),
            options.output,
            n_threads=options.threads,
            client=client,
            progress=_Progress("profiling"),
            **_given(options, ["shard_size"]),
            **_coding(options),
        )
    _say(f"{made.n_profiles} profiles in {made.n_shards} shards: {made.folder}")
    _check_all_read(options, made.n_skipped, f"{made.folder}/skipped.csv")


def _is_folder(output: str) -> bool:
    return not Path(output).suffix or Path(output).is_dir()


def _cluster(options: argparse.Namespace) -> AbstractContextManager[Any]:
    """The Dask cluster asked for, as a context; of None where none was."""
    if options.dask is None:
        return nullcontext()
    from wbcprof.scale.cluster import connected

    return connected(options.dask)


def _classify(options: argparse.Namespace) -> None:
    import numpy as np

    from wbcprof.analysis.naming import type_columns, type_rows
    from wbcprof.analysis.novelty import RATE, check_set, warn_of_set
    from wbcprof.analysis.quality import flag_images, warn_of_fields
    from wbcprof.checks import UNLIKE, UNSURE, Real
    from wbcprof.files import TABLES, check_output
    from wbcprof.model.model import load

    Real(least=0, most=1).check("--reject-below", options.reject_below)
    RATE.check("--false-alarms", options.false_alarms)
    to_shards = options.output is not None and _is_folder(options.output)
    if options.output is not None and not to_shards:
        check_output(options.output, TABLES)
        check_output(_skipped_of(options))
    if options.shard_size is not None and not to_shards:
        raise ValueError("--shard-size is for a folder of shards; name one with --output")
    model = load(options.model)
    if model.classifier is None:
        raise ValueError(
            f"{options.model} holds no classifier; learn it with 'wbcprof fit' from a folder with "
            "one sub-folder per type"
        )
    drop = _flags_to_drop(options)
    rates = {"false_alarms": options.false_alarms, "reject_below": options.reject_below}
    images = _images(options)
    if to_shards:
        _classify_to_shards(options, model, images, drop, rates)
        return
    profiles = model.profile(images, n_threads=options.threads, progress=_Progress("profiling"))
    warn_of_fields(profiles)
    flags = flag_images(model, profiles, images)
    skipped = profiles.skipped
    ids, kept = profiles.ids, np.array([not drop & set(own) for own in flags])
    if not kept.any():
        raise ValueError(f"all {len(kept)} images have flags that are to be dropped")
    profiles = profiles.at(kept)
    warn_of_set(
        check_set(model, profiles, false_alarms=options.false_alarms), strict=options.strict
    )
    own_flags = [own for own, stays in zip(flags, kept, strict=True) if stays]
    rows = list(type_rows(model, profiles, own_flags, **rates))
    _write_table(options.output, type_columns(model), rows)
    if options.output is not None:
        n_strange = sum(row["call"] in (UNSURE, UNLIKE) for row in rows)
        _say(f"{len(profiles)} images classified, {n_strange} unsure or unlike: {options.output}")
    _write_dropped(options, flags, kept, ids)
    _list_skipped(options, skipped)


def _classify_to_shards(
    options: argparse.Namespace,
    model: Model,
    images: ImageSource,
    drop: set[str],
    rates: dict[str, Any],
) -> None:
    from wbcprof.analysis.naming import classify_to_shards

    made = classify_to_shards(
        model,
        images,
        options.output,
        drop=drop,
        strict=options.strict,
        n_threads=options.threads,
        progress=_Progress("classifying"),
        **rates,
        **_given(options, ["shard_size"]),
    )
    _say(
        f"{made.n_classified} images classified, {made.n_strange} unsure or unlike, in "
        f"{made.n_shards} shards: {made.folder}"
    )
    _check_all_read(options, made.n_skipped, f"{made.folder}/skipped.csv")


def _flags_to_drop(options: argparse.Namespace) -> set[str]:
    from wbcprof.analysis.quality import FLAGS

    if options.drop is None:
        return set()
    if options.output is None:
        raise ValueError("--drop needs --output: what is dropped is listed beside it")
    wanted = [name.strip() for name in options.drop.split(",")]
    if wanted == ["all"]:
        return set(FLAGS)
    unknown = sorted(set(wanted) - set(FLAGS))
    if unknown:
        raise ValueError(f"--drop takes 'all' or some of {', '.join(FLAGS)}; got {unknown[0]!r}")
    return set(wanted)


def _write_dropped(
    options: argparse.Namespace, flags: list[list[str]], kept: Any, ids: list[str]
) -> None:
    """List what was dropped and why."""
    if options.output is None:
        return
    gone = [
        {"image": image_id, "flags": "; ".join(own)}
        for image_id, own, stays in zip(ids, flags, kept, strict=True)
        if not stays
    ]
    path = f"{options.output}.dropped.csv"
    _write_beside(path, ["image", "flags"], gone)
    if gone:
        _say(f"{len(gone)} of {len(kept)} images dropped: {path}")


def _write_beside(path: str, columns: list[str], rows: list[dict[str, Any]]) -> None:
    """A list beside an output; without rows, none, nor that of an earlier run."""
    from wbcprof.files import csv_text, write_rows

    if rows:
        write_rows(path, columns, rows)
    elif os.path.isfile(path):
        with open(path, "rb") as stream:
            is_ours = stream.readline().strip() == ",".join(map(csv_text, columns)).encode()
        if is_ours:
            os.unlink(path)


class _Incomplete(Exception):
    """All is written of what could be read, and some could not: exit code 3."""


def _list_skipped(options: argparse.Namespace, skipped: Sequence[SkippedImage]) -> None:
    """Beside an output, images that could not be read and why; with --strict, an exit code."""
    where = ""
    if options.output is not None:
        where = _skipped_of(options)
        rows = [{"image": lost.image_id, "reason": lost.reason} for lost in skipped]
        _write_beside(where, ["image", "reason"], rows)
    _check_all_read(options, len(skipped), where)


def _skipped_of(options: argparse.Namespace) -> str:
    return f"{options.output}.skipped.csv"


def _check_all_read(options: argparse.Namespace, n_skipped: int, where: str) -> None:
    if options.strict and n_skipped:
        told = f"; {where} lists them" if where else ""
        raise _Incomplete(f"{n_skipped} images could not be read{told}")


def _write_table(path: str | None, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """To a file as its suffix says, whole or absent, or as CSV to the standard output; numbers to
    four places, those that are not known left empty."""
    from wbcprof.files import csv_text, visible, write_rows

    def cell(value: Any) -> Any:
        if not isinstance(value, float):
            return value
        return None if value != value else f"{value:.4f}" if is_csv else round(value, 4)

    is_csv = path is None or Path(path).suffix.lower() in ("", ".csv")
    shown = ({name: cell(value) for name, value in row.items()} for row in rows)
    if path is not None:
        write_rows(path, columns, shown)
        return
    if sys.stdout is None:
        raise ValueError("the standard output is closed; name a file with --output")
    as_text = visible if sys.stdout.isatty() else str  # a screen, or a program that reads names
    writer = csv.writer(sys.stdout)
    writer.writerow(columns)
    for row in shown:
        writer.writerow([as_text(csv_text(row[name])) for name in columns])


def _suggest(options: argparse.Namespace) -> None:
    from wbcprof.analysis.suggestion import suggest
    from wbcprof.files import TABLES, check_output
    from wbcprof.model.model import load

    if options.output is not None:
        check_output(options.output, TABLES)
    model = load(options.model)
    profiles = model.profile(
        _images(options), n_threads=options.threads, progress=_Progress("profiling")
    )
    cells = suggest(model, profiles, options.n)

    rows = (
        {"image": c.image_id, "call": c.call, "novelty_p": float(c.novelty_p), "label": None}
        for c in cells
    )
    _write_table(options.output, ["image", "call", "novelty_p", "label"], rows)
    if options.output is not None:
        _say(f"{len(cells)} cells to look at first: {options.output}; fill in label for adapt")


def _adapt(options: argparse.Namespace) -> None:
    from wbcprof.files import check_output
    from wbcprof.model.model import load

    check_output(options.output)
    images = _images(options)
    labels = images.labels if options.labels else None
    model = load(options.model).adapt(
        images,
        labels or [None] * images.n,
        pixel_size=options.pixel_size,
        n_threads=options.threads,
        progress=_Progress("profiling"),
    )
    model.save(options.output)
    adapted = model.provenance["adapted"]
    _say(
        f"adapted to {adapted['n_cells']} cells, {adapted['n_labelled']} of them labelled, "
        f"{adapted['apart']} standard deviations from those learnt from: {options.output}"
    )


def _evaluate(options: argparse.Namespace) -> None:
    from wbcprof.files import CSV, JSON, check_outputs, replacing

    check_outputs(
        {"--json": options.json, "--csv": options.csv, "--latex": options.latex},
        {"--json": JSON, "--csv": CSV, "--latex": _LATEX},
    )
    if (options.images is None) == (options.test is None):
        raise ValueError(
            "expected IMAGES, of which half is learnt from, or --test LABELLED with --model; "
            f"got {'neither' if options.test is None else 'both'}"
        )
    figures = _figure_options(options)
    found = _evaluate_halves(options) if options.test is None else _evaluate_external(options)
    if options.json is not None:
        found.to_json(options.json)
    if options.csv is not None:
        found.to_csv(options.csv)
    if options.latex is not None:
        with replacing(options.latex, _LATEX) as temporary:
            temporary.write_text(found.to_latex(), encoding="utf-8")
    if figures:
        found.save_figures(**figures)
    _print(found.to_text())


_LATEX = (".tex",)


def _evaluate_halves(options: argparse.Namespace) -> Scores:
    from wbcprof.analysis.evaluation import evaluate

    parameters = _learning_parameters(options)
    if options.model is not None:
        from wbcprof.model.model import load

        _refuse_learning(parameters, options)
        parameters = {"model": load(options.model), "n_threads": options.threads}
    images = _scored(options)
    return evaluate(
        images,
        groups=_groups(options, images),
        seed=options.seed,
        progress=_Progress("repeats"),
        **parameters,
        **_given(options, ["repeats"]),
    )


def _scored(options: argparse.Namespace) -> ImageSource:
    """The images to evaluate on: of tables of labels, those that these label."""
    images = _images(options, types=True)
    return images.labelled() if options.labels else images


def _evaluate_external(options: argparse.Namespace) -> Scores:
    from wbcprof.analysis.external import evaluate_external
    from wbcprof.model.model import load

    if options.model is None:
        raise ValueError("--test scores a model: name it with --model")
    given = _learning_parameters(options) | _given(options, ["repeats"])
    _refuse_learning(given | ({"seed": options.seed} if options.seed else {}), options)
    options.images = options.test
    images = _scored(options)
    return evaluate_external(
        load(options.model),
        images,
        groups=_groups(options, images),
        n_threads=options.threads,
        progress=_Progress("profiling"),
    )


def _refuse_learning(parameters: dict[str, Any], options: argparse.Namespace) -> None:
    """Settings of learning have no effect where a model is given."""
    without_effect = sorted(parameters.keys() - {"preset", "n_threads"})
    if without_effect or options.preset != "default":
        raise ValueError(
            f"with {'--model' if options.test is None else '--test'} nothing is learnt, so "
            "settings of learning would have no effect; "
            f"leave out {', '.join(without_effect) or 'the preset'}"
        )


def _report(options: argparse.Namespace) -> None:
    from wbcprof.files import HTML, check_output
    from wbcprof.images.source import open_images
    from wbcprof.model.model import load
    from wbcprof.report.page import write_report

    check_output(options.output, HTML)
    images = _images(options)
    samples = None
    if options.samples is not None:
        from wbcprof.images.tables import SAMPLE_COLUMNS, read_by_image

        samples = read_by_image(options.samples, SAMPLE_COLUMNS, images.ids())
    attributes = None
    if options.attributes is not None:
        from wbcprof.images.attributes import read_attributes

        attributes = read_attributes(options.attributes, images)
    if options.groups is not None and options.calls == "model":
        raise ValueError(
            "--groups are of folds, and with --calls model there are none; leave it out"
        )
    figures, model = _figure_options(options), load(options.model)
    images = open_images(images, min_size=model.min_size)  # which then lists what it skipped
    write_report(
        model,
        images,
        options.output,
        groups=_groups(options, images),
        samples=samples,
        attributes=attributes,
        calls=options.calls,
        strict=options.strict,
        n_threads=options.threads,
        progress=_Stages(),
        **figures,
        **_given(options, ["title"]),
    )
    _say(f"report written to {options.output}; it opens in any browser, without a network")
    _check_all_read(options, len(images.skipped), "")


def _label(options: argparse.Namespace) -> None:
    from wbcprof.files import HTML, check_output
    from wbcprof.model.model import load
    from wbcprof.report.label import write_label_page

    check_output(options.output, HTML)
    groups = write_label_page(
        load(options.model),
        _images(options),
        options.output,
        n_threads=options.threads,
        progress=_Stages(),
        **_given(options, ["types", "n_groups", "title"]),
    )
    _say(
        f"{len(groups.ids)} cells in {groups.n_groups} groups: {options.output}; open it in any "
        "browser, name cells, and download labels.csv for 'wbcprof fit --labels'"
    )


def _figure_options(options: argparse.Namespace) -> dict[str, Any]:
    """Folder, format and width of figures, as far as given; what is wrong is told at once."""
    from wbcprof.analysis.figures import FigureFiles

    given = _given(options, ["figure_format", "figure_width"])
    if options.figures is None:
        if given:
            raise ValueError("--figure-format and --figure-width need a folder: give --figures DIR")
        return {}
    FigureFiles(options.figures, options.figure_format or "pdf", options.figure_width)
    return {"figure_folder": options.figures, **given}


def _monitor(options: argparse.Namespace) -> None:
    from wbcprof.analysis.monitoring import Monitor
    from wbcprof.analysis.slides import read_slides
    from wbcprof.files import CSV, HTML, JSON, check_outputs
    from wbcprof.model.model import load
    from wbcprof.report.monitor import write_monitor
    from wbcprof.scale.folders import held_file

    check_outputs(
        {"--output": options.output, "--state": options.state, "--csv": options.csv},
        {"--output": HTML, "--state": JSON, "--csv": CSV},
    )
    model, settings = load(options.model), _given(options, ["baseline", "control"])
    with nullcontext() if options.state is None else held_file(options.state):
        if options.state is not None and os.path.exists(options.state):
            monitor = Monitor.load(options.state, model, **settings)
        else:
            monitor = Monitor(model, **settings)
        n_before = len(monitor)
        for slide in read_slides(
            model,
            options.slides,
            slides=options.slide_of,
            times=options.times,
            skip=monitor,
            n_threads=options.threads,
            progress=_Progress("slides"),
        ):
            monitor.append(slide)
            if options.state is not None:
                monitor.save(options.state)
    write_monitor(monitor, options.output, **_given(options, ["title"]))
    if options.csv is not None:
        monitor.to_csv(options.csv)
    _say(f"{len(monitor)} slides, {len(monitor) - n_before} of them new: {options.output}")


def _fields(options: argparse.Namespace) -> dict[str, Any]:
    return _given(options, ["slides", "pixel_size", "boxes"])


def _find(options: argparse.Namespace) -> None:
    from wbcprof.scale.finding import CELLS, find_to_folder

    drop = [] if options.drop is None else [name.strip() for name in options.drop.split(",")]
    with _cluster(options) as client:
        found = find_to_folder(
            options.images,
            options.output,
            canonical=options.canonical,
            drop=drop,
            parquet=options.parquet,
            n_threads=options.threads,
            client=client,
            progress=_Progress("finding"),
            **_fields(options),
            **_given(options, ["shard_size"]),
        )
    _say(f"{found.n_cells} leukocytes of {found.n_fields} fields: {found.folder / CELLS}")


def _smear(options: argparse.Namespace) -> None:
    from wbcprof.files import HTML, TABLES, check_outputs
    from wbcprof.model.model import load
    from wbcprof.report.smear import write_smear

    check_outputs(
        {"--output": options.output, "--csv": options.csv, "--cells": options.cells},
        {"--output": HTML, "--csv": TABLES, "--cells": TABLES},
    )
    result = write_smear(
        load(options.model),
        options.images,
        options.output,
        adapt=options.adapt,
        strict=options.strict,
        n_threads=options.threads,
        progress=_Progress("fields"),
        **_fields(options),
        **_given(options, ["precision", "false_alarms", "title"]),
    )
    if options.csv is not None:
        result.write_counts(options.csv)
    if options.cells is not None:
        result.write_cells(options.cells)
    _print(result.to_text())
    _say(f"page written to {options.output}; it opens in any browser, without a network")
    _check_all_read(options, len(result.dropped), "")


def _info(options: argparse.Namespace) -> None:
    from wbcprof import _core
    from wbcprof._version import __version__
    from wbcprof.threads import resolve_threads

    if options.images is None and options.pixel_size is not None:
        raise ValueError("--pixel-size is of images: name them with --images")
    if options.images is not None:
        from wbcprof.smear.instrument import measure_instrument

        _print(measure_instrument(options.images, pixel_size=options.pixel_size).describe())
        return
    if options.model is None:
        _print(f"wbcprof {__version__}")
        _print(
            f"instruction set {_core.instruction_set()} of {', '.join(_core.instruction_sets())}"
        )
        _print(f"threads {resolve_threads(None)}")
        return
    from wbcprof.model.model import load

    model = load(options.model)
    _print(f"model {model.fingerprint}")
    for index, layer in enumerate(model.layers):
        _print(
            f"layer {index}: {layer.n_signatures} signatures of {layer.patch_size} x "
            f"{layer.patch_size} x {layer.channels}, {layer.settings.nonlinearity} encoder, "
            f"step {layer.step}, preprocessing {layer.preprocessing.kind}"
        )
    _print(f"images are made: {'no' if model.normaliser is None else model.normaliser.method}")
    if model.instrument is not None:
        _print(f"learnt from images of {model.instrument.describe()}")
    if "adapted" in model.provenance:
        adapted = model.provenance["adapted"]
        _print(
            f"adapted to {adapted['n_cells']} cells, {adapted['n_labelled']} of them labelled, "
            f"{adapted['apart']} standard deviations away"
        )
    _print(f"features: {len(model.feature_names)} ({', '.join(model.pooling.pools)})")
    types = (
        "none"
        if model.classifier is None
        else ", ".join(map(repr, model.classifier.classes_.tolist()))
    )
    _print(f"classifier: {types}")
    if model.classifier is not None:
        memory = model.classifier.memory_
        told = "cannot tell" if memory is None else f"told by {memory.n_cells:,} cells"
        _print(f"which cells are strange: {told}")
    _print(json.dumps({"parameters": model.parameters, "provenance": model.provenance}, indent=2))


def _agree(options: argparse.Namespace) -> None:
    from wbcprof.analysis.raters import compare_raters
    from wbcprof.files import TABLES, check_output
    from wbcprof.images.labels import read_labels
    from wbcprof.images.source import open_images

    if options.output is not None:
        check_output(options.output, TABLES)
    found = read_labels(options.labels, open_images(options.images))
    agreement = compare_raters(found.by_person)
    _print(agreement.to_text())
    if options.output is not None:
        rows = ({"image": cell, **said} for cell, said in agreement.disagreements.items())
        columns = ["image", *agreement.persons]
        _write_table(options.output, columns, ({c: row.get(c) for c in columns} for row in rows))
        _say(f"{len(agreement.disagreements)} cells called differently: {options.output}")


def _demo(options: argparse.Namespace) -> None:
    from wbcprof.demo import run_demo

    run_demo(Path(options.out), options.threads, _say_lines)


_Options = Callable[[argparse.ArgumentParser], None]
_COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], None], _Options, str, str]] = {
    "demo": (
        _demo,
        _demo_options,
        "Run the whole job on generated cells: learn, profile, evaluate, draw.",
        "--out wbcprof-demo",
    ),
    "fit": (
        _fit,
        _fit_options,
        "Learn signatures from images; where their types are known, train a classifier too.",
        "cells/ -o cells.wbcprof",
    ),
    "profile": (
        _profile,
        _profile_options,
        "Describe every image by its signatures; write a table.",
        "cells.wbcprof cells/ -o profiles.csv",
    ),
    "classify": (
        _classify,
        _classify_options,
        "Name the type of every image, with probabilities, as CSV.",
        "cells.wbcprof new-cells/ -o types.csv",
    ),
    "suggest": (
        _suggest,
        _suggest_options,
        "List the cells whose label would teach the model most, the strangest first.",
        "cells.wbcprof new-cells/ -n 50 -o look-at.csv",
    ),
    "adapt": (
        _adapt,
        _adapt_options,
        "Make a model for another laboratory, from its cells without labels or with a few.",
        "cells.wbcprof their-cells/ -o there.wbcprof",
    ),
    "agree": (
        _agree,
        _agree_options,
        "Say how far people agree who labelled the same cells, and which cells they differ on.",
        "cells/ ada.csv ben.csv -o differ.csv",
    ),
    "evaluate": (
        _evaluate,
        _evaluate_options,
        "Half-half protocol: train on half of each type, test on the other half, repeated.",
        "cells/ --repeats 10 --json evaluation.json",
    ),
    "report": (
        _report,
        _report_options,
        "Write one HTML file about a set of cells: map, calls, differential count, signatures.",
        "cells.wbcprof cells/ -o report.html",
    ),
    "label": (
        _label,
        _label_options,
        "Write one HTML file on which a person names groups of cells, then cells, without labels.",
        "cells.wbcprof cells/ -o label.html",
    ),
    "monitor": (
        _monitor,
        _monitor_options,
        "Chart slides over time: what has changed in light, stain, focus or results, since when.",
        "cells.wbcprof slides/ -o monitor.html --state monitor.json",
    ),
    "find": (
        _find,
        _find_options,
        "Find the leukocytes of fields and slides; write crops and a table.",
        "fields/ -o cells/",
    ),
    "smear": (
        _smear,
        _smear_options,
        "From fields to a differential count: find, name and count; a page to check it on.",
        "cells.wbcprof fields/ -o smear.html",
    ),
    "info": (
        _info,
        _info_options,
        "Show the package, or what a model file holds.",
        "cells.wbcprof",
    ),
}
"""Of each command: what runs it, what adds its options, what it does, an example."""
