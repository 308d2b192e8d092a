"""What the image, the compose file and deploy/ promise, checked against the code that they run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from service import metrics, model, settings, timestamps

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
FILES = (
    ROOT / "Dockerfile",
    ROOT / "docker-compose.yml",
    ROOT / ".env.example",
    *sorted(path for path in (ROOT / "deploy").rglob("*") if path.is_file()),
)
GRACE: timedelta = settings.Settings.model_fields["shutdown_grace"].default
# After the polls a replica writes what they moved and gives its leases back, each in at most 10 s.
ENDING = GRACE + timedelta(seconds=20)
USER = 10001


def _yaml(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def _manifests() -> dict[str, Any]:
    return {path.stem: yaml.safe_load(path.read_text()) for path in sorted(KUBERNETES.glob("*.yaml"))}


def _instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, arguments), without comments and continued lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def _final_stage() -> list[tuple[str, str]]:
    instructions = _instructions()
    last = max(index for index, (name, _) in enumerate(instructions) if name == "FROM")
    return instructions[last:]


def _image_environment() -> dict[str, str]:
    pairs = [rest for name, rest in _final_stage() if name == "ENV"]
    return dict(_pair(pair) for rest in pairs for pair in rest.split())


SERVICES: dict[str, dict[str, Any]] = _yaml("docker-compose.yml")["services"]
OURS = sorted(name for name, service in SERVICES.items() if "alertwell" in service["image"])
COLLECTORS = ("service", "demo")
PODS = {
    name: manifest["spec"]["template"]["spec"]
    for name, manifest in _manifests().items()
    if manifest["kind"] in {"Deployment", "Job"}
}
UNIT = (ROOT / "deploy/systemd/alertwell.service").read_text().splitlines()


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _unit(key: str) -> list[str]:
    return [value for name, value in map(_pair, UNIT) if name == key]


# --- every file ---


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_settings_that_exist(path: Path) -> None:
    """Each ALERTWELL_ name in a file is a setting, a file of one, or the image that compose takes."""
    named = dict.fromkeys(re.findall(r"\bALERTWELL_[A-Z0-9_]+", path.read_text()), "")
    assert settings.unknown(named) == []


def _assignments() -> Iterator[tuple[str, str]]:
    for service in SERVICES.values():
        yield from service.get("environment", {}).items()
    yield from _image_environment().items()
    for line in (ROOT / ".env.example").read_text().splitlines():
        if match := re.fullmatch(r"#?(\w+)=(.*)", line):
            yield match.group(1), match.group(2)
    for literal in _manifests()["kustomization"]["configMapGenerator"][0]["literals"]:
        yield _pair(literal)
    for pod in PODS.values():
        for variable in pod["containers"][0].get("env", []):
            yield variable["name"], variable.get("value", "")
    for pair in _unit("Environment"):
        yield _pair(pair)


def test_holds_no_secret() -> None:
    """Passwords, secrets and keys are files: none is assigned, none is in an address or a manifest."""
    for name, value in _assignments():
        if re.search(r"PASSWORD|SECRET|KEY", name):
            assert name.endswith("_FILE"), name
            assert re.match(r"(/|\./|%d/)", value), name
        assert not re.search(r"://[^/\s]*:[^/\s]*@", value), name
    assert "Secret" not in {manifest["kind"] for manifest in _manifests().values()}


def test_env_example_changes_nothing() -> None:
    """A copied .env.example sets nothing until a line of it is uncommented."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    assert all(not line or line.startswith("#") for line in lines)


def test_settings_of_the_files_are_valid(tmp_path: Path) -> None:
    """What image, compose and Kubernetes set is accepted by the settings model, each place for itself."""
    image = _image_environment()
    kustomized = dict(
        literal.split("=", 1)
        for literal in _manifests()["kustomization"]["configMapGenerator"][0]["literals"]
    )
    for given in (*(SERVICES[name].get("environment", {}) for name in OURS), kustomized):
        values = {
            name: re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", value)
            for name, value in (image | given).items()
            if name.startswith(settings.PREFIX) and not name.endswith("_FILE")
        }
        loaded = settings.load(values, secrets_dir=tmp_path)
        assert (loaded.http_host, loaded.http_port) == ("0.0.0.0", 8080)
        assert loaded.shutdown_grace == GRACE


# --- the image ---


def test_image_is_told_how_to_stop_and_how_to_ask() -> None:
    """The image stops by SIGTERM, asks for its own health and by itself runs the collector."""
    last = dict(_final_stage())
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert last["HEALTHCHECK"].endswith('CMD ["alertwell", "healthcheck"]')
    assert (last["ENTRYPOINT"], last["CMD"]) == ('["alertwell"]', '["run"]')
    assert last["EXPOSE"] == _image_environment()["ALERTWELL_HTTP_PORT"]


def test_image_is_not_root_and_holds_no_tool() -> None:
    """The final stage takes the virtual environment alone, and nothing after USER needs root."""
    stage = _final_stage()
    names = [name for name, _ in stage]
    assert dict(stage)["USER"] == f"{USER}:{USER}"
    assert [rest for name, rest in stage if name in {"COPY", "ADD"}] == ["--from=build /opt/venv /opt/venv"]
    assert not {"RUN", "COPY"} & set(names[names.index("USER") :])
    assert not re.search(r"\b(pip|uv|apt-get)\b", " ".join(rest for name, rest in stage if name == "RUN"))


def test_image_base_is_named_once() -> None:
    """Both stages stand on the one base of the argument, and no frontend image is asked for."""
    instructions = _instructions()
    assert instructions[0] == ("ARG", "PYTHON_IMAGE=python:3.13-slim")
    assert {rest.split()[0] for name, rest in instructions if name == "FROM"} == {"${PYTHON_IMAGE}"}
    assert "# syntax=" not in (ROOT / "Dockerfile").read_text()


def test_build_context_is_a_list_of_what_may_enter() -> None:
    """.dockerignore shuts everything out, then lets in exactly what the Dockerfile copies."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    copied = {
        source.removeprefix("./")
        for name, rest in _instructions()
        if name == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    }
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == copied


# --- compose ---


@pytest.mark.parametrize("name", COLLECTORS)
def test_compose_collector_scales(name: str) -> None:
    """Replicas cannot collide (no fixed port, no name), and have longer to stop than running polls get."""
    service = SERVICES[name]
    assert "container_name" not in service
    assert all(re.fullmatch(r"(127\.0\.0\.1::)?8080", port) for port in service["ports"])
    assert timestamps.duration(service["stop_grace_period"]) > ENDING


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_compose_containers_are_confined(name: str) -> None:
    """Every container has a read-only root, no capability that it can do without, and no way to more."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("cap_add") or name in {"db", "keys"}
    assert not service.get("privileged")
    assert service.get("network_mode") in {None, "none"}


def test_compose_starts_in_order() -> None:
    """The database is healthy before the migration starts, which is through before a collector does."""
    waits = {
        name: {other: how["condition"] for other, how in service.get("depends_on", {}).items()}
        for name, service in SERVICES.items()
    }
    assert "pg_isready" in SERVICES["db"]["healthcheck"]["test"]
    assert waits["migrate"] == {"db": "service_healthy"}
    assert waits["service"] == {"migrate": "service_completed_successfully"}
    assert waits["demo"] == {"demo-tenants": "service_completed_successfully"}
    assert waits["demo-tenants"]["simulator"] == "service_healthy"
    assert "migrate" in waits["demo-tenants"]  # for it builds the image


def test_compose_demo_stays_apart() -> None:
    """The demo starts by its profile alone; it reads no real settings and opens no real database."""
    demo = {name for name, service in SERVICES.items() if service.get("profiles") == ["demo"]}
    assert set(SERVICES) - demo == {"keys", "db", "migrate", "service"}
    assert not any("env_file" in SERVICES[name] for name in demo)
    real = SERVICES["service"]["environment"]["ALERTWELL_DATABASE_URL"]
    assert real.endswith("/alertwell}")
    for name in ("demo", "demo-tenants"):
        assert SERVICES[name]["environment"]["ALERTWELL_DATABASE_URL"].endswith("/alertwell_demo")
    for url in ("ALERTWELL_AUTHORITY_URL", "ALERTWELL_SIEM_URL"):
        assert SERVICES["demo"]["environment"][url] == "https://simulator:8443"


def test_compose_builds_once() -> None:
    """One service builds the image that all of ours use; none of the others asks a registry for it."""
    assert [name for name in OURS if "build" in SERVICES[name]] == ["migrate"]
    assert len({SERVICES[name]["image"] for name in OURS}) == 1
    assert {SERVICES[name]["pull_policy"] for name in OURS if name != "migrate"} == {"never"}


def test_compose_upgrade_leaves_the_database_alone() -> None:
    """Nothing that the database waits for is of our image: compose recreates what depends on a changed one."""
    waits = list(SERVICES["db"]["depends_on"])
    while waits:
        name = waits.pop()
        assert name not in OURS
        waits += SERVICES[name].get("depends_on", [])


def test_compose_volumes_have_an_owner() -> None:
    """Each folder that a volume is mounted at exists in the image, so that user 10001 may write there."""
    made = next(rest for name, rest in _final_stage() if name == "RUN" and "install -d" in rest).split()
    for name in OURS:
        for volume in SERVICES[name].get("volumes", []):
            assert volume.split(":")[1] in made, name


# --- Kubernetes ---


def test_kubernetes_base_is_whole() -> None:
    """The base lists every manifest that lies beside it and leaves the namespace to whoever uses it."""
    manifests = _manifests()
    listed = {Path(name).stem for name in manifests["kustomization"]["resources"]}
    assert listed == set(manifests) - {"kustomization"}
    assert not any("namespace" in manifest.get("metadata", {}) for manifest in manifests.values())


@pytest.mark.parametrize("name", sorted(PODS))
def test_kubernetes_pods_are_confined(name: str) -> None:
    """Pods are not root, read-only, without capability or token of the cluster, and bounded in memory."""
    pod = PODS[name]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert "memory" in container["resources"]["limits"]
    writable = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
    assert writable == ["/tmp"]


def test_kubernetes_collector_is_probed_and_given_time() -> None:
    """Three probes ask the named port, and a pod has longer to end than the running polls get."""
    pod = PODS["deployment"]
    (container,) = pod["containers"]
    asked = {key: container[f"{key}Probe"]["httpGet"] for key in ("startup", "liveness", "readiness")}
    assert {key: get["path"] for key, get in asked.items()} == {
        "startup": "/livez",
        "liveness": "/livez",
        "readiness": "/readyz",
    }
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {get["port"] for get in asked.values()} == set(ports) == {"http"}
    assert str(ports["http"]) == _image_environment()["ALERTWELL_HTTP_PORT"]
    assert timedelta(seconds=pod["terminationGracePeriodSeconds"]) > ENDING
    assert _manifests()["deployment"]["spec"]["replicas"] >= 2


def _selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return selector.items() <= labels.items()


def test_kubernetes_selectors_find_their_pods() -> None:
    """Service and budget select the collector alone, the network policy the migration as well."""
    manifests = _manifests()
    labels = {name: manifests[name]["spec"]["template"]["metadata"]["labels"] for name in PODS}
    alone = (
        manifests["deployment"]["spec"]["selector"]["matchLabels"],
        manifests["service"]["spec"]["selector"],
        manifests["poddisruptionbudget"]["spec"]["selector"]["matchLabels"],
    )
    for selector in alone:
        assert _selects(selector, labels["deployment"])
        assert not _selects(selector, labels["migrate-job"])
    policy = manifests["networkpolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"]
    assert all(_selects(policy["podSelector"]["matchLabels"], found) for found in labels.values())
    assert sorted(port["port"] for rule in policy["egress"] for port in rule["ports"]) == [53, 53, 443, 5432]


# --- systemd ---


def test_unit_stops_in_time_and_gives_up_on_mistakes() -> None:
    """The unit ends by SIGTERM to the collector alone, has more than the grace time, and no new start after a bad setting."""
    assert _unit("KillSignal") == ["SIGTERM"]
    assert _unit("KillMode") == ["mixed"]
    assert timedelta(seconds=int(_unit("TimeoutStopSec")[0])) > ENDING
    assert _unit("RestartPreventExitStatus") == ["2"]
    assert _unit("ExecStart")[0].endswith("alertwell run")
    assert _unit("ExecStartPre")[0].endswith("alertwell migrate")


def test_unit_is_confined_and_reads_secrets_as_credentials() -> None:
    """The unit has its own user and a read-only system, and every credential handed over is used."""
    for key in ("DynamicUser", "NoNewPrivileges", "PrivateTmp", "PrivateDevices", "MemoryDenyWriteExecute"):
        assert _unit(key) == ["yes"], key
    assert _unit("ProtectSystem") == ["strict"]
    handed = {value.split(":")[0] for value in _unit("LoadCredential")}
    used = {value.split("%d/")[1] for value in _unit("Environment") if "%d/" in value}
    assert handed == used == {"client_secret", "database_password"}


# --- Prometheus ---


RULES = [rule for group in _yaml("deploy/prometheus/alerts.yml")["groups"] for rule in group["rules"]]


def _metric_names() -> set[str]:
    names: set[str] = set()
    for family in metrics.Metrics("0").registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(
            family.type, ("",)
        )
        names |= {family.name + suffix for suffix in suffixes}
    return names


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_rule_asks_for_what_is_measured(rule: dict[str, Any]) -> None:
    """A rule names metrics and states that exist, says how bad it is and why, and has a unit test."""
    assert set(re.findall(r"\balertwell_\w+", rule["expr"])) <= _metric_names()
    states = [state for found in re.findall(r'state=~?"([^"]+)"', rule["expr"]) for state in found.split("|")]
    assert set(states) <= set(get_args(model.StreamState))
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(rule["annotations"]) == {"summary", "description"}
    assert rule["alert"] in (ROOT / "deploy/prometheus/alerts_test.yml").read_text()
