"""The files under deploy/: they parse, their parts fit together, and the configurations in them validate."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from relay.app.settings import Settings
from relay.app.stores import check_stores
from relay.config.load import load

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


COMPOSE = documents(DEPLOY / "compose" / "docker-compose.yaml")[0]
WORKLOADS = {
    f"{path.parent.name}/{document['kind']}": document
    for path in sorted(KUBERNETES.glob("*/*.yaml"))
    for document in documents(path)
    if document.get("kind") in ("StatefulSet", "Deployment")
}


def test_compose_names_only_what_it_has() -> None:
    services, networks, volumes = COMPOSE["services"], COMPOSE["networks"], COMPOSE["volumes"]
    assert sum(name.startswith("relay-") for name in services) == 3
    for name, service in services.items():
        assert {"image", "build"} & set(service), name
        assert set(service.get("networks", ())) <= set(networks), name
        assert set(service.get("depends_on", ())) <= set(services), name
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            exists = (DEPLOY / "compose" / source).is_file() if source.startswith(".") else source in volumes
            assert exists, f"{name}: {volume}"
    backends = re.findall(r"(?m)^ +server \S+ (\S+):(\d+)", (DEPLOY / "compose" / "haproxy.cfg").read_text())
    assert {host for host, _ in backends} == {name for name in services if name.startswith("relay-")}
    for ports in services["door"]["ports"]:
        assert ports.startswith("127.0.0.1:"), "the example opens no clear-text port to the world"


def test_the_store_of_the_examples_keeps_the_contract() -> None:
    stores = [COMPOSE["services"]["valkey"]["command"]]
    stores += [c["args"] for w in WORKLOADS.values() for c in _containers(w) if c["name"] == "valkey"]
    assert len(stores) == 2
    for words in stores:
        options = dict(zip(words[1::2], words[2::2], strict=True))
        assert options["--appendonly"] == "yes"
        assert options["--appendfsync"] == "always"
        assert options["--maxmemory-policy"] == "noeviction"
        assert "--maxmemory" in options


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_mounts_what_it_declares_and_runs_without_rights(name: str) -> None:
    workload = WORKLOADS[name]
    template = workload["spec"]["template"]
    pod = template["spec"]
    assert workload["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    volumes = {volume["name"] for volume in pod.get("volumes", ())}
    volumes |= {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", ())}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    for container in _containers(workload):
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        ports = {port["name"] for port in container["ports"]}
        for probe in (container.get("livenessProbe"), container.get("readinessProbe")):
            if probe and "tcpSocket" in probe:
                assert probe["tcpSocket"]["port"] in ports
        drain = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
        if drain:
            seconds = {"5m": 300, "30s": 30}[drain[-1]]
            assert pod["terminationGracePeriodSeconds"] >= seconds + 25, "drain, then the relay's own"


def test_services_lead_to_ports_of_workloads() -> None:
    for path in KUBERNETES.glob("*/*.yaml"):
        for service in documents(path):
            if service.get("kind") != "Service":
                continue
            chosen = service["spec"]["selector"].items()
            pods = [w for w in WORKLOADS.values() if chosen <= w["spec"]["template"]["metadata"]["labels"].items()]
            assert pods, service["metadata"]["name"]
            for port in service["spec"]["ports"]:
                for pod in pods:
                    listed = {(p["name"], p["containerPort"]) for c in _containers(pod) for p in c["ports"]}
                    assert any(port["targetPort"] in pair for pair in listed)


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
@pytest.mark.parametrize("overlay", ["local-spool", "shared-spool"])
def test_kustomize_builds_it(overlay: str) -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(KUBERNETES / overlay)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    built = [document for document in yaml.safe_load_all(done.stdout) if document]
    maps = {d["metadata"]["name"] for d in built if d["kind"] == "ConfigMap"}
    used = {
        v["configMap"]["name"]
        for d in built
        if "template" in d.get("spec", {})
        for v in d["spec"]["template"]["spec"].get("volumes", ())
        if "configMap" in v
    }
    assert used <= maps
    assert all(d["metadata"].get("namespace", "relay") == "relay" for d in built)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in {"RELAY_DEMO_PASSWORD": "a-long-password", "RELAY_HOSTNAME": "relay.acme.example"}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.parametrize("spool", ["redis://valkey:6379", "sqlite:/var/lib/relay/spool"])
def test_the_configurations_validate(environment: pytest.MonkeyPatch, tmp_path: Path, spool: str) -> None:
    environment.setenv("RELAY_STORE", "redis://valkey:6379")
    environment.setenv("RELAY_SPOOL", spool)
    environment.setenv("RELAY_STATE", "redis://valkey:6379")
    certificate = trustme.CA().issue_cert("relay.acme.example")
    certificate.private_key_pem.write_to_path(tmp_path / "tls.key")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    for secret in ("shop-web", "primary"):
        (tmp_path / secret).write_text("a-long-password")
    for source in (DEPLOY / "compose" / "relay.yaml", KUBERNETES / "base" / "relay.yaml"):
        text = source.read_text().replace("/etc/relay/tls", str(tmp_path)).replace("/etc/relay/secrets", str(tmp_path))
        path = tmp_path / "relay.yaml"
        path.write_text(text)
        settings = Settings(path, load(path))
        check_stores(settings)
        assert settings.site.shards


def test_the_unit_is_one_systemd_would_take() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(DEPLOY / "systemd" / "relay.service")
    service = unit["Service"]
    assert service["ExecStart"].endswith("relay run")
    assert service["KillMode"] == "mixed"
    assert service["NoNewPrivileges"] == "yes"
    assert int(service["TimeoutStopSec"]) > 25


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "systemd" / "relay.service").read_text().replace("/opt/relay/bin/relay", "/bin/true")
    path = tmp_path / "relay.service"
    path.write_text(re.sub(r"(?m)^Documentation=.*\n", "", text))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "relay.service" not in done.stderr


def _containers(workload: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = workload["spec"]["template"]["spec"]["containers"]
    return found
