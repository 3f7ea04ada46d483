"""The documentation site: its links, what is generated for it, and that it is built whole without a network."""

import importlib.util
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
import yaml
from doc_pages import LINK, PAGES, ROOT, SPAN, running_text
from tiny_runs import environment

from benchmark.measuring.machine import RESULTS
from pytorch_dl.cli import app
from pytorch_dl.config import Config
from scripts import command_reference, performance_tables, reliability_table, settings_reference
from scripts.site_hooks import MADE, MARK, on_page_markdown

HEADING = re.compile(r"^#+ +(?P<title>.+)$", re.MULTILINE)
NOWHERE = "http://127.0.0.1:9"  # no proxy listens there: who asks one for the network fails
has_mkdocs = all(importlib.util.find_spec(name) for name in ("mkdocs", "material", "mkdocstrings"))


needs_mkdocs = pytest.mark.skipif(not has_mkdocs, reason="the site is built where its tools are: pip install '.[docs]'")


@needs_mkdocs
def test_is_built_without_a_warning_and_asks_for_nothing_from_elsewhere(tmp_path: Path) -> None:
    proxies = {
        name: NOWHERE for kind in ("http", "https", "all") for name in (f"{kind}_proxy", f"{kind}_PROXY".upper())
    }
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**environment(), **proxies, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not re.search(r"^WARNING", done.stderr, re.MULTILINE)
    pages = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*.html")}
    assert pages.keys() >= {"index.html", *(f"{page.stem}.html" for page in PAGES if page.parent == ROOT / "docs")}
    for text in pages.values():
        assert loaded_from_elsewhere(text) == []
        assert not MARK.search(text)
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"(url\(|@import)[\s'\"]*(https?:)?//", style.read_text())
    assert 'id="pytorch_dl.models.optimized_transformer.OptimizedTransformer"' in pages["api.html"]
    assert "training.learning_rate" in pages["configuration.html"]
    assert "pytorch-dl translate RUN" in pages["commands.html"]


class _Cells(HTMLParser):
    """The cells of the tables of a page, as a person sees them."""

    def __init__(self, lines: list[str]) -> None:
        import markdown

        super().__init__()
        self.found: list[str] = []
        self.feed(markdown.markdown("\n".join(lines), extensions=["tables"]))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [""] if tag in ("td", "th") else []

    def handle_data(self, data: str) -> None:
        if self.found:
            self.found[-1] += data.replace("\n", "")


@needs_mkdocs
def test_options_are_shown_as_they_are_typed() -> None:
    shown = _Cells(command_reference.commands()).found
    assert "--precision fp32|bf16|int8" in shown and "--to ctranslate2|onnx|safetensors" in shown
    assert [cell for cell in shown if "\\" in cell] == []


@needs_mkdocs
def test_what_was_injected_is_shown_though_it_looks_like_a_tag() -> None:
    case = {"injected": "lines of </s>, <pad> & co", "times": 3, "lost": "no <2de>", "commit": "0123456789"}
    case["uncommitted_changes"] = False
    shown = _Cells(reliability_table.cases({"A7": case})).found
    assert shown[-5:] == ["A7", "lines of </s>, <pad> & co", "3", "no <2de>", "0123456"]


class _Loaded(HTMLParser):
    """Addresses that a browser asks for while it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        address = given.get("src") or (given.get("href") if tag == "link" and given.get("rel") != "canonical" else None)
        self.found += [address] if address else []


def loaded_from_elsewhere(text: str) -> list[str]:
    """Those of other machines, in a page of HTML."""
    reader = _Loaded()
    reader.feed(text)
    return [address for address in reader.found if re.match(r"([a-z]+:)?//", address)]


def test_what_is_loaded_from_elsewhere_is_found() -> None:
    page = '<a href="https://a.b"></a><script src="//c.d/e.js"></script><link rel="stylesheet" href="https://f/g.css">'
    assert loaded_from_elsewhere(f'{page}<link rel="icon" href="h.svg"><img src="i.png">') == [
        "//c.d/e.js",
        "https://f/g.css",
    ]


def test_every_page_is_in_the_navigation() -> None:
    text = re.sub(r"^ *(emoji_\w+|format): .*$", "", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE)
    found = json.dumps(yaml.safe_load(text)["nav"])
    assert sorted(re.findall(r'"([\w-]+\.md)"', found)) == sorted(p.name for p in PAGES if p.parent == ROOT / "docs")


def headings(page: Path) -> set[str]:
    """The anchors of a page, as the site makes them of its headings."""
    made = on_page_markdown(running_text(page))
    titles = (found["title"] for found in HEADING.finditer(made))
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


def dead_links(page: Path) -> list[str]:
    """Links to files and headings that are not there; those to other machines are not followed."""
    dead = []
    for to in (found["to"] for found in LINK.finditer(SPAN.sub("", running_text(page)))):
        path, _, anchor = to.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not to.startswith(("http://", "https://")) and (
            not target.exists() or (anchor and anchor not in headings(target))
        ):
            dead.append(to)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page) == []


def test_there_are_links() -> None:
    links = [found["to"] for page in PAGES for found in LINK.finditer(SPAN.sub("", running_text(page)))]
    assert sum(not to.startswith("http") for to in links) >= 40
    assert sum("#" in to for to in links) >= 5


def test_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# The `first`, and more\n\n```text\n# no heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md) [a](there.md#the-first-and-more) [a](https://x.y)\n"
        "[b](gone.md) [c](there.md#no-heading) [d](#e)\n"
        "`[code](gone.md)`\n"
    )
    assert dead_links(page) == ["gone.md", "there.md#no-heading", "#e"]


def test_every_mark_is_known_and_every_generator_used() -> None:
    marks = [found["name"] for page in PAGES for found in MARK.finditer(page.read_text())]
    assert sorted(marks) == sorted(MADE)


def test_the_settings_are_all_there_with_default_and_meaning() -> None:
    made = settings_reference.settings()
    for name, field in Config.model_fields.items():
        section = field.annotation
        assert f"## {name}" in made
        for key, setting in section.model_fields.items():
            row = next(line for line in made if line.startswith(f"| `{name}.{key}` |"))
            assert str(setting.description) in row
            if isinstance(setting.default, str):
                assert f"| `{setting.default}` |" in row


def test_the_search_finds_a_setting_by_its_name_with_its_section_or_without() -> None:
    found = re.search(r"separator: '(.+)'", (ROOT / "mkdocs.yml").read_text())
    assert found
    for section, field in Config.model_fields.items():
        for key in field.annotation.model_fields:
            assert [word for word in re.split(found[1], f"{section}.{key}=4096") if word] == [key, "4096"]
    assert re.split(found[1], "metrics.jsonl of a training. 0.998") == [
        "metrics.jsonl",
        "of",
        "a",
        "training.",
        "0.998",
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.d_model", "a whole number from 1"),
        ("model.dropout", "a number from 0 below 1"),
        ("model.activation", "`relu`, `gelu`, `swiglu`, `geglu`"),
        ("data.max_tokens_per_batch", "a whole number from 1 or `auto`"),
        ("training.mixed_precision", "`true`, `false` or `bf16`, `fp16`"),
        ("training.time_limit", "a number above 0"),
        ("data.corpora", "a list, see below"),
        ("logging.tensorboard", "`true`, `false`"),
    ],
)
def test_what_a_setting_may_be(name: str, words: str) -> None:
    row = next(line for line in settings_reference.settings() if line.startswith(f"| `{name}` |"))
    assert row.split(" | ")[2] == words


def test_the_commands_are_all_there_with_their_options() -> None:
    made = "\n".join(command_reference.commands())
    parts = dict(re.findall(r"^## ([a-z ]+)$(.*?)(?=^## |\Z)", made, re.MULTILINE | re.DOTALL))
    todo = list(typer.main.get_command(app).commands.items())
    while todo:
        name, command = todo.pop()
        if hasattr(command, "commands"):
            todo += [(f"{name} {inner}", found) for inner, found in command.commands.items()]
            continue
        part = parts.pop(name)
        for param in command.params:
            if param.name != "help":
                word = param.opts[-1] if param.param_type_name == "option" else (param.metavar or param.name.upper())
                assert word in part, f"{name} {word}"
                assert (param.help or "").replace("|", "\\|") in part
    assert parts == {}


def test_the_ladder_is_that_of_the_result_file() -> None:
    rungs = {rung["name"]: rung for rung in json.loads((RESULTS / "ladder.json").read_bytes())["rungs"]}
    speeds = [row.split("|") for row in (RESULTS / "ladder.md").read_text().splitlines()[2:]]
    whole = {row[1].strip(): float(row[4]) for row in speeds}  # × whole, as the measurement itself wrote it
    for line in performance_tables.taken_away()[3:]:
        name, lost, _ = (cell.strip() for cell in line.strip("|").split("|"))
        share = 1 - whole.pop(f"whole without {name}")
        assert abs((0 if lost == "none" else int(lost.rstrip("%")) / 100) - max(0, share)) <= 0.011
    for line in performance_tables.variations()[2:]:
        name, speed, memory = (cell.strip() for cell in line.strip("|").split("|"))
        assert abs(float(speed) - whole.pop(f"whole with {name}")) <= 0.005
        assert int(memory) == round(rungs[f"whole with {name}"]["activations_mb"])
    for line in performance_tables.ladder()[2:]:
        name, *_ = (cell.strip() for cell in line.strip("|").split("|"))
        del whole[name]
    assert whole == {}


def test_what_computing_again_costs_is_as_the_measurement_wrote_it() -> None:
    found = {tuple(row[:2]): row[2:] for row in cells_of(performance_tables.again())}
    settings = {"ours-budget": "`model.activation_budget=0`", "ours-checkpointed": "`model.use_checkpointing=true`"}
    for size in ("T", "B"):
        written = (RESULTS / f"again-{size}.md").read_text()
        for side, setting in settings.items():
            said = re.search(rf"^{side}: ([\d.]+) \(.*activations ([\d.]+) x the baseline's", written, re.MULTILINE)
            (time, _, share) = found.pop((setting, size))
            assert said and share == said[2] and abs(float(time) - float(said[1])) <= 0.0051
    assert found == {}


def test_the_lines_of_a_step_add_up_to_it() -> None:
    *lines, whole = cells_of(performance_tables.step_lines())
    assert whole[0] == "step" and whole[3] == "100.0%" and len(lines) > 12
    assert abs(sum(float(line[2]) for line in lines) - float(whole[2])) <= 0.05 * len(lines)


def cells_of(table: list[str]) -> list[list[str]]:
    """The cells of a table of Markdown, without its head."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]
