"""What was set, on what text, machine and source: what is needed to do it again."""

from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_dl.changes import flat_settings
from pytorch_dl.config import Config, get_config
from pytorch_dl.config.templates import TEMPLATES
from pytorch_dl.dataset.efficient_dataloader import RecordedText
from pytorch_dl.reporting.html import Content, Html, Part, note, part, table, tag, text
from pytorch_dl.reporting.run_record import RunRecord

PATHS = {f"data.{name}_{kind}_path" for name in ("train", "val", "test") for kind in ("data", "tgt")}  # of no weight


def settings_section(runs: Sequence[RunRecord]) -> Part:
    """The settings that differ from the template that is nearest to the first run, or between runs."""
    settings = [flat_settings(run.config) for run in runs]
    template = nearest_template(settings[0])
    base = flat_settings(get_config(template) if template else Config())
    names = [name for name in base if any(found[name] != base[name] for found in settings)]
    rows: list[list[Content]] = []
    for name in names:
        values = [_shown(found[name]) for found in settings]
        differ = len(set(values)) > 1
        cells = [
            tag("b", {}, text(value)) if differ or value != _shown(base[name]) else text(value) for value in values
        ]
        rows.append([tag("code", {}, name), *cells, text(_shown(base[name])), _meaning(name)])
    origin = f"the template {template}" if template else "the defaults"
    header = [
        "setting",
        *([run.name for run in runs] if len(runs) > 1 else ["here"]),
        template or "default",
        "what it is",
    ]
    explained = note(f"All {len(base)} settings are those of {origin}, but for these:")
    same = note(f"All {len(base)} settings are those of {origin}.")
    return part(
        "settings", "Settings", *([explained, tag("div", {"class": "told"}, table(header, rows))] if rows else [same])
    )


def origin_section(runs: Sequence[RunRecord]) -> Part:
    """Versions, machine and commit, and the fingerprints of texts and weights."""
    header = ["", *(run.name for run in runs)] if len(runs) > 1 else ["", "this run"]
    names = list(dict.fromkeys(name for run in runs for name in run.environment))
    rows: list[list[Content]] = [
        [name.replace("_", " "), *(text(str(run.environment.get(name, "not recorded"))) for run in runs)]
        for name in names
    ]
    if not names:
        rows.append(["environment", *("not recorded" for _ in runs)])
    for side, name in (("train", "training text"), ("val", "validation text")):
        rows.append([name, *(_fingerprints(run, side) for run in runs)])
    rows.append(["test text", *(_test_fingerprint(run) for run in runs)])
    if any(run.began_with for run in runs):
        rows.append(["first weights", *(_first_weights(run) for run in runs)])
    rows.append(["weights for use", *(tag("code", {"class": "wrap"}, run.weights or "none yet") for run in runs)])
    return part("origin", "Environment and data", table(header, rows), note("Fingerprints are SHA-256."))


def nearest_template(settings: Mapping[str, Any]) -> str | None:
    """The template that fewest settings differ from; None are the defaults."""

    def distance(name: str | None) -> int:
        base = flat_settings(get_config(name) if name else Config())
        return sum(settings[key] != value for key, value in base.items() if key not in PATHS)

    return min((None, *TEMPLATES), key=distance)


def _shown(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _meaning(name: str) -> str:
    chapter, _, key = name.partition(".")
    field = Config.model_fields.get(chapter)
    fields = getattr(field.annotation, "model_fields", {}) if field else {}
    return str(fields[key].description or "") if key in fields else ""


def _fingerprints(run: RunRecord, side: str) -> Html | str:
    texts = run.texts.get(side, [])
    shown = (tag("div", {}, text(_named(one)), tag("code", {"class": "wrap"}, str(one.sha256))) for one in texts)
    return tag("div", {}, shown) if texts else ("none" if run.texts else "not recorded")


def _test_fingerprint(run: RunRecord) -> Html | str:
    """That of the text that was evaluated, where it was a test text."""
    data, found = run.config.data, run.evaluation
    if not data.test_data_path:
        return "none"
    if found.get("text") != "test" or not found.get("sha256"):
        return "not recorded"
    name = " + ".join(path for path in (data.test_data_path, data.test_tgt_path) if path)
    return tag("div", {}, tag("div", {}, text(name)), tag("code", {"class": "wrap"}, str(found["sha256"])))


def _first_weights(run: RunRecord) -> Html | str:
    """The model that they are from, and what of it was taken."""
    found = run.began_with
    if not found:
        return "random"
    told = (str(found[name]) for name in ("run", "summary") if name in found)
    return tag(
        "div",
        {},
        (tag("div", {}, text(line)) for line in told),
        tag("code", {"class": "wrap"}, str(found.get("sha256"))),
    )


def _named(one: RecordedText) -> str:
    return f"{one.name}" if one.weight == 1 else f"{one.name}, {one.weight} times"
