"""Files beside this one, as the script of a component of the page.

Gradio calls a component's script once, and keeps its properties, its template and its style up to date: with each new
value it copies the properties, number by number, and compiles the template and the style anew, which took as long as
writing a word. So all that never changes is in the script, and the page's value is the one property.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def _joined(names: Sequence[str]) -> str:
    """Files of this folder, one behind the other."""
    return "\n".join((FOLDER / name).read_text("utf-8") for name in names)


def script(template: str, styles: Sequence[str], scripts: Sequence[str], **given: Any) -> str:
    """Scripts as the body of one function, in which `given` has the template, the style and what else never changes.

    The texts of the page are in it as `given.strings`, by language.
    """
    strings = json.loads(_joined(["strings.json"]))
    given |= {"template": _joined([template]), "style": _joined(styles), "strings": strings}
    return f'"use strict";\nconst given = {json.dumps(given)};\n{_joined(scripts)}'
