"""What MkDocs calls while it builds the site: what is generated takes the place of its mark in a page.

    <!-- made: settings -->

Nothing that is made here is committed: settings come from the schema, commands from their help, figures from the
result files.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

if str(root := Path(__file__).resolve().parent.parent) not in sys.path:  # the program `mkdocs` looks elsewhere
    sys.path.insert(0, str(root))

from benchmark import readme
from scripts import command_reference, performance_tables, settings_reference

MARK = re.compile(r"^<!-- made: (?P<name>[a-z-]+) -->$", re.MULTILINE)
MADE: dict[str, Callable[[], list[str]]] = {
    "settings": settings_reference.settings,
    "templates": settings_reference.templates,
    "commands": command_reference.commands,
    "ladder": performance_tables.ladder,
    "taken-away": performance_tables.taken_away,
    "variations": performance_tables.variations,
    "again": performance_tables.again,
    "step-lines": performance_tables.step_lines,
    "trainers": readme.trainers,
    "readers": readme.readers,
    "quality": readme.quality,
    "gpu": readme.on_gpu,
}


def on_page_markdown(markdown: str, page: object = None, config: object = None, files: object = None) -> str:
    """A page's text with what its marks ask for."""
    return MARK.sub(lambda found: "\n".join(MADE[found["name"]]()), markdown)
