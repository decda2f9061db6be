"""What ships: the configuration to start with, the examples, the reference file and the schema."""

from __future__ import annotations

import re
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydantic import BaseModel

from relay.config import Config, load, values
from relay.config.models.traffic import NODE_CLASSES
from relay.config.reference import reference_yaml
from relay.config.schema import config_schema, known_keys

CONF = Path(__file__).parents[3] / "conf"


def test_the_shipped_configuration_loads_on_a_fresh_machine() -> None:
    loaded = load(CONF / "relay.yaml", environment={})
    assert loaded.warnings == ()
    (bridge,) = values.bridges(loaded.config)
    assert [(c.username, c.secret) for c in bridge.credentials] == [("demo", "demo-password")]
    assert [str(listener.bind) for listener in loaded.config.listeners] == ["127.0.0.1:2525"]
    assert {node.type for pool in values.pools(loaded.config) for node in pool.nodes} == {"sandbox"}
    assert len(loaded.files) > 2


def test_its_password_comes_from_the_environment_when_set() -> None:
    (bridge,) = values.bridges(load(CONF / "relay.yaml", environment={"RELAY_DEMO_PASSWORD": "other"}).config)
    assert bridge.credentials[0].secret == "other"


def test_the_example_with_several_bridges_loads() -> None:
    loaded = load(CONF / "examples" / "several-bridges.yaml", environment={})
    assert loaded.warnings == ()
    assert len([bridge for bridge in values.bridges(loaded.config) if bridge.pool == "transactional"]) == 3


def test_the_production_example_loads_once_its_keys_and_variables_are_there(tmp_path: Path) -> None:
    leaf = trustme.CA().issue_cert("relay.acme.example")
    key = ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for name, data in {
        "conf/tls/cert.pem": leaf.cert_chain_pems[0].bytes(),
        "conf/tls/key.pem": leaf.private_key_pem.bytes(),
        "conf/dkim/acme.pem": key,
    }.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        file.chmod(0o600)
    example = CONF / "examples" / "production.yaml"
    names = set(re.findall(r"\$\{([A-Z_]+)\}", example.read_text()))
    loaded = load(example, environment=dict.fromkeys(names, "s3cret"), base=tmp_path)
    assert loaded.warnings == ()
    assert len(loaded.config.listeners) == 3


def test_the_reference_file_is_what_the_models_say() -> None:
    written = (CONF / "examples" / "reference.yaml").read_text(encoding="utf-8")
    assert written == reference_yaml(), "run: python -m relay.config.reference > conf/examples/reference.yaml"


def test_the_reference_file_loads_and_its_values_are_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "reference.yaml"
    file.write_text(reference_yaml(), encoding="utf-8")
    config = load(file, environment={}).config
    default = Config(version=1)
    for section in ("limits", "health", "retry", "uncertain", "spool", "history", "log", "store", "account"):
        assert getattr(config, section) == getattr(default, section)
    for key in ("workers", "drain", "accept_deadline", "line_endings"):
        assert getattr(config, key) == getattr(default, key)


def test_what_the_reference_file_shows_commented_out_is_sound_too(tmp_path: Path) -> None:
    text = reference_yaml()
    block = text[text.index("# dkim:") : text.index("# What happens to a node that fails.")]
    uncommented = "".join(line.removeprefix("# ") for line in block.splitlines(keepends=True))
    file = tmp_path / "reference.yaml"
    file.write_text(text.replace(block, uncommented), encoding="utf-8")
    key = tmp_path / "conf" / "dkim" / "acme.pem"
    key.parent.mkdir(parents=True)
    private = ed25519.Ed25519PrivateKey.generate()
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert len(load(file, environment={}, base=tmp_path).config.dkim) == 1


def models(model: type[BaseModel], seen: set[type[BaseModel]]) -> set[type[BaseModel]]:
    def within(annotation: object) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in seen:
            models(annotation, seen)
        for part in getattr(annotation, "__args__", ()):
            within(part)

    seen.add(model)
    for field in model.model_fields.values():
        within(field.annotation)
    return seen


def test_every_key_has_a_description_and_stands_in_the_reference_file() -> None:
    text = reference_yaml()
    everything = models(Config, set())
    assert len(everything) > 20
    for node in NODE_CLASSES.values():
        models(node, everything)
    for model in everything:
        assert model.__doc__, model.__name__
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
            assert field.description.endswith("."), f"{model.__name__}.{name}"
            assert re.search(rf"\b{field.alias or name}:", text), f"{model.__name__}.{name}"


def test_the_schema_knows_each_node_type_and_refuses_unknown_keys() -> None:
    schema = config_schema()
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema["additionalProperties"] is False
    smtp, sandbox = schema["$defs"]["SmtpNode"], schema["$defs"]["SandboxNode"]
    assert smtp["properties"]["type"]["const"] == "smtp"
    assert {"host", "caps", "from", "timeouts"} <= set(smtp["properties"])
    assert "host" not in sandbox["properties"]
    assert schema["properties"]["limits"]["description"]
    assert "required" not in schema or "version" not in schema["required"]


def test_known_keys_follow_the_type_that_is_there() -> None:
    data = {"pools": [{"nodes": [{"type": "sandbox"}, {"type": "smtp"}, {}]}]}
    assert "directory" in known_keys(data, ("pools", 0, "nodes", 0))
    assert "host" not in known_keys(data, ("pools", 0, "nodes", 0))
    assert {"host", "caps"} <= set(known_keys(data, ("pools", 0, "nodes", 1)))
    assert {"host", "directory"} <= set(known_keys(data, ("pools", 0, "nodes", 2)))
    assert known_keys(data, ("pools", 0, "nodes", 1, "caps")) == ("second", "minute", "hour", "day")
    assert "bridges" in known_keys(data, ())
    assert known_keys(data, ("nowhere", 3)) == ()
