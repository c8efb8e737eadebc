"""Pages that open from disk, without a network, whatever their data hold.

Pictures are data URIs. A content security policy in the page forbids every request and every
script but its own. What comes from data (file names, labels) is escaped by jinja2, or read from a
JSON block as text.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from wbcprof.files import replacing

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, styles: Sequence[str], scripts: Sequence[str], **values: Any) -> str:
    """A template with its styles and scripts in it, and a hash that lets these alone run."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["parted"] = parted
    values["style"] = Markup("".join(map(_text, styles)))
    script = "".join(map(_text, scripts))
    values["script"] = Markup(script)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    values["script_hash"] = f"sha256-{digest}"
    return environment.get_template(template).render(**values)


def parted(text: str) -> Markup:
    """Text that may go on in the next line behind ``_``, ``/`` and ``-``, rather than anywhere."""
    return Markup(re.sub(r"[_/-](?=\w)", r"\g<0><wbr>", str(escape(text))))


def _text(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def as_json(data: Any) -> Markup:
    """JSON that cannot end or open an element; everything beyond ASCII is escaped."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def write_html(path: str | os.PathLike[str], html: str) -> None:
    """The file is whole or absent."""
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="backslashreplace")
