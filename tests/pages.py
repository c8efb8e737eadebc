"""What is in a page, and names that no page may run."""

import base64
import json
import re
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import pytest
from sklearn.ensemble import RandomForestClassifier

HOSTILE = [
    "<script>window.hacked=1</script>",
    "</script><img src=x onerror='window.hacked=1'>",
    '"\' onmouseover="window.hacked=1',
    "$x^2$ & {{ 7*7 }} \u2028 </style><!--",
]

_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


@contextmanager
def undrawn():
    """Figures are made but not drawn, where what is said beside them is what is tested; and few
    trees rank the signatures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wbcprof.analysis.figures.picture_of", lambda *_, **__: _PIXEL)
        patch.setattr(
            "wbcprof.analysis.classify.RandomForestClassifier",
            lambda **given: RandomForestClassifier(**given | {"n_estimators": 20}),
        )
        yield


class Page(HTMLParser):
    """Elements, attributes and texts of a page as a browser would tell them apart."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.texts, self._open = [], {}, []
        self._in_word = False
        self.html = Path(path).read_text(encoding="utf-8")
        self.feed(self.html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._in_word = tag == "wbr"
        if not self._in_word:
            self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, text):
        where = "text"
        if self._open and self._open[-1] in ("script", "style"):
            where = self._open[-1]
        parts = self.texts.setdefault(where, [])
        if self._in_word:
            parts[-1] += text
        else:
            parts.append(text)
        self._in_word = False

    @property
    def text(self):
        return " ".join(" ".join(self.texts["text"]).split())

    @property
    def shown(self):
        """The text of what is not hidden, nor a setting of the model."""
        html = re.sub(r"<label hidden>.*?</label>", "", self.html)
        html = re.sub(r"<caption>Parameters of the model.*?</table>", "", html, flags=re.S)
        html = html.split("<body>")[1].replace("<wbr>", "")
        return re.sub(r"<script.*?</script>|<[^>]*>", " ", html, flags=re.S)

    @property
    def data(self):
        return json.loads(self.texts["script"][0])

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]
