"""deploy/mailfront.toml, the alert rules and the page of dependencies agree with the program."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from mailfront.config.load import parse
from mailfront.config.mistakes import models_in
from mailfront.config.model import Configuration
from mailfront.directory.settings import LdapSettings, StaticSettings
from mailfront.observe import meters, metrics

ROOT = Path(__file__).resolve().parents[3]
SAMPLE = ROOT / "deploy" / "mailfront.toml"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
_OFF = re.compile(r"^#(?=[a-z0-9_]+ = )", re.MULTILINE)
# A single certificate is shown; several are in the reference.
NOT_SHOWN = {"tls.certificate.names", "tls.certificate.certificate", "tls.certificate.key"}


def test_the_sample_is_sound() -> None:
    """The sample is accepted as it is, and with every commented setting switched on."""
    text = SAMPLE.read_text()
    parse(text, SAMPLE)
    parse(_OFF.sub("", text), SAMPLE)


def test_commented_settings_show_their_defaults() -> None:
    """Switching on a commented setting changes nothing, except where the comment says that it is an example."""
    text = SAMPLE.read_text()
    plain, full = parse(text, SAMPLE).model_dump(), parse(_OFF.sub("", text), SAMPLE).model_dump()
    different = {path for path, value in flat("", full) if dict(flat("", plain)).get(path) != value}
    assert different == {
        "server.state",  # the same place, written out
        "node_tls.ca", "node_tls.client_certificate", "node_tls.client_key",
        "node.0.server_name", "directory.attributes.forward_copy",
        "queue.max_bytes", "queue.warn_networks", "queue.double_bounce",
        "outbound.smarthost", "outbound.ca", "outbound.login_file",
    }  # fmt: skip


def test_the_sample_names_every_setting() -> None:
    """No setting is missing, so that nobody has to guess its name."""
    document = tomllib.loads(_OFF.sub("", SAMPLE.read_text()))
    shown = {re.sub(r"\.\d+", "", path) for path, _ in flat("", document)}
    # A route and a filter are shown as comments: nobody has one unless he has that server or scanner.
    wanted = {path for path in settings_of("", Configuration) if not path.startswith(("route.", "filter."))}
    missing = wanted - shown - NOT_SHOWN
    assert not missing


def test_alerts_use_metrics_that_exist() -> None:
    """Each metric of a rule is declared, and each label value that it asks for can occur."""
    assert metrics.CONTENT_TYPE
    used = re.findall(r"(mailfront_[a-z0-9_]+)(?:\{([^}]*)\})?", "\n".join(expressions()))
    assert len(used) > 10
    for name, selector in used:
        meter = meters.CATALOGUE.get(name) or meters.CATALOGUE[re.sub(r"_(bucket|sum|count)$", "", name)]
        for label, wanted in re.findall(r"(\w+)=~?\"([^\"]*)\"", selector):
            allowed = meter.labels[label]
            assert not allowed or set(wanted.split("|")) <= set(allowed), f"{name}: {label}={wanted}"


def test_alerts_are_explained() -> None:
    """Each alert of the rules is in the how-to, and the how-to names no other."""
    page = (ROOT / "docs" / "how-to" / "watch-it.md").read_text()
    declared = set(re.findall(r"- alert: (\w+)", ALERTS.read_text()))
    assert declared == set(re.findall(r"`(Mailfront[A-Z]\w+)`", page))


def test_dependencies_are_those_of_the_constraints() -> None:
    """The page of dependencies names every dependency of the project, with the version of constraints.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    versions = {canonical(name): version for name, version in pinned.items()}
    page = (ROOT / "docs" / "decisions" / "0009-dependencies.md").read_text()
    rows = {
        canonical(name): version for name, version in re.findall(r"^\| ([\w.-]+) \| ([\d.]+) \|", page, re.MULTILINE)
    }
    names = {canonical(re.split(r"[<>=]", each)[0]) for each in wanted}
    assert rows == {name: versions[name] for name in names}


def canonical(name: str) -> str:
    """A package's name as the index compares it."""
    return name.lower().replace("_", "-").replace(".", "-")


def expressions() -> Iterator[str]:
    """The `expr` of each rule, folded lines joined."""
    for rule in ALERTS.read_text().split("- alert:")[1:]:
        match = re.search(r"expr: (?:>-\n)?(.*?)\n +(?:for|labels):", rule, re.DOTALL)
        assert match is not None, rule
        yield " ".join(match[1].split())


def flat(path: str, value: object) -> Iterator[tuple[str, object]]:
    """Leaves of a document with their paths; elements of lists of tables are numbered."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from flat(f"{path}.{name}" if path else name, inner)
    elif isinstance(value, list | tuple) and value and all(isinstance(each, dict) for each in value):
        for number, each in enumerate(value):
            yield from flat(f"{path}.{number}", each)
    else:
        yield path, value


def settings_of(path: str, model: type[BaseModel]) -> Iterator[str]:
    """The paths of all settings of a model that can stand in the sample."""
    for name, field in model.model_fields.items():
        where = f"{path}.{name}" if path else name
        inner = [each for each in models_in(field.annotation) if each is not StaticSettings]
        leaf = not inner or (LdapSettings not in inner and where.startswith(("node.", "tls.")))
        if leaf:
            yield where
        for each in inner if not where.startswith("node.") else []:
            yield from settings_of(where, each)
