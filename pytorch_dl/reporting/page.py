"""The page: its head with what may run there, its parts in order, and the file that it is written to.

The page holds its own style and script, and its policy lets nothing else run or be fetched: should a text ever get
between the tags, a browser would not run it.
"""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from pytorch_dl.errors import ConfigError
from pytorch_dl.files import write_file
from pytorch_dl.reporting.attention_section import attention_section
from pytorch_dl.reporting.comparison_section import comparison_section
from pytorch_dl.reporting.html import Html, Part, tag
from pytorch_dl.reporting.run_record import RunRecord, read_run
from pytorch_dl.reporting.scores_section import breakdown_section, scores_section
from pytorch_dl.reporting.settings_section import origin_section, settings_section
from pytorch_dl.reporting.summary import summary
from pytorch_dl.reporting.text_section import lengths_section, samples_section, worst_section
from pytorch_dl.reporting.training_section import training_section

MOST_RUNS = 12
GENERATOR = '<meta name="generator" content="pytorch-dl report">'
_HERE = Path(__file__).parent


def write_page(
    folders: Sequence[Path], out: Path, *, evaluations: Sequence[Path] = (), with_attention: bool = True
) -> None:
    """Write the page of one run or several; what is at `out` must be such a page, if anything."""
    runs = read_runs(folders)  # first: `out` may lie in one of them
    _refuse_another(out)
    write_file(out, page(runs, evaluations=evaluations, with_attention=with_attention))


def read_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """The runs, by names that tell them apart."""
    folders = list(dict.fromkeys(folders))
    if len(folders) > MOST_RUNS:
        raise ConfigError(f"{len(folders)} runs are too many for one page", fix=f"give at most {MOST_RUNS}")
    short = [folder.resolve().name for folder in folders]
    return [
        read_run(folder, name=name if short.count(name) == 1 else str(folder))
        for folder, name in zip(folders, short, strict=True)
    ]


def page(runs: Sequence[RunRecord], *, evaluations: Sequence[Path] = (), with_attention: bool = True) -> str:
    """The whole page of what was read."""
    found = [
        scores_section(runs),
        comparison_section(runs, evaluations),
        training_section(runs),
        breakdown_section(runs),
        lengths_section(runs),
        samples_section(runs),
        worst_section(runs),
        attention_section(runs, wanted=with_attention),
        settings_section(runs),
        origin_section(runs),
    ]
    parts = [part for part in found if part]
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    style, script = ((_HERE / name).read_text("utf-8") for name in ("page.css", "page.js"))
    body = tag(
        "body",
        {},
        tag("header", {}, tag("h1", {}, title), tag("p", {"class": "note"}, "Report of pytorch-dl")),
        tag("nav", {"aria-label": "Parts of the page"}, _links(parts)),
        summary(runs),
        tag("main", {}, (part.html for part in parts)),
        tag("script", {}, Html(script)),
    )
    return f'<!doctype html>\n<html lang="en">\n{_head(title, style, script)}\n{body}\n</html>\n'


def _links(parts: Sequence[Part]) -> list[Html]:
    return [tag("a", {"href": f"#{part.name}"}, part.title) for part in parts]


def _head(title: str, style: str, script: str) -> Html:
    policy = (
        f"default-src 'none'; style-src '{_sum(style)}'; script-src '{_sum(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return tag(
        "head",
        {},
        tag("meta", {"charset": "utf-8"}),
        tag("meta", {"http-equiv": "Content-Security-Policy", "content": policy}),
        Html(GENERATOR),
        tag("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        tag("meta", {"name": "color-scheme", "content": "light dark"}),
        tag("title", {}, f"{title} – pytorch-dl"),
        tag("link", {"rel": "icon", "href": "data:,"}),
        tag("style", {}, Html(style)),
    )


def _sum(inline: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}"


def _refuse_another(out: Path) -> None:
    """Raise where a file lies that no report wrote."""
    if not out.exists():
        return
    if out.is_file():
        with open(out, encoding="utf-8", errors="replace") as file:
            if GENERATOR in file.read(2000):
                return
    raise ConfigError("is there, and is no page of a report", where=str(out), fix="choose another --out")
