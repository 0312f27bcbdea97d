"""The explorer's page: JavaScript, stylesheet and the data of runs in one HTML file."""
from __future__ import annotations

import base64
import hashlib
import html
import json
from pathlib import Path

from studies.explorer.export import script_safe

HERE = Path(__file__).parent
# in the order in which they use each other
SCRIPTS = ("network.js", "lea.js", "observer.js", "boards.js", "state.js", "views.js", "comparison.js",
           "panels.js", "edits.js", "words.js", "copy.js", "app.js", "console.js")


class Page(str):
    """The HTML of a page. A notebook shows it in a frame."""

    def _repr_html_(self) -> str:
        # srcdoc, not a file beside the notebook: the page stays in it when the notebook is exported
        return (f'<iframe title="Explorer" srcdoc="{html.escape(self)}" allow="clipboard-write" '
                'style="width: 100%; height: 900px; border: 1px solid #8888"></iframe>')


def page(runs: list[dict]) -> Page:
    """The page of runs, descriptions made by `run_data`. The first run is shown first."""
    data = script_safe(json.dumps({"runs": runs}, separators=(",", ":"), allow_nan=False))
    script = "\n".join(["'use strict';", *((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)])
    style = (HERE / "style.css").read_text(encoding="utf-8")
    text = (HERE / "page.html").read_text(encoding="utf-8")
    # only this script and this stylesheet run, and nothing is ever asked of a network
    policy = (f"default-src 'none'; script-src {digest(script)}; style-src {digest(style)}; "
              "img-src data: blob:; base-uri 'none'; form-action 'none'")
    for mark, content in (("POLICY", policy), ("STYLE", style), ("DATA", data), ("SCRIPT", script)):
        text = text.replace(f"[[{mark}]]", content, 1)
    return Page(text)


def digest(text: str) -> str:
    """How a content security policy names an inline element."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
