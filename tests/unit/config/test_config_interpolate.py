"""`${…}` in values: what is replaced, by what, and what is said when it cannot be."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config.interpolate import SECRET_FILE_OCTETS, Interpolation
from relay.config.yaml12 import YamlFault, parse, to_data
from relay.fields import Interpolated
from tests.unit.config.config_files import faults_of, load_text, text_with, unmark

ENVIRONMENT = {"NAME": "value", "EMPTY": "", "TRICKY": "a: [1, ${NAME}] # $$ {b: *x}", "NUMBER": "25"}


def replaced(text: str, base: Path = Path()) -> tuple[object, Interpolation]:
    tree, faults = parse(text.encode(), "f.yaml")
    assert faults == []
    interpolation = Interpolation(ENVIRONMENT, base)
    interpolation.apply(tree)
    return to_data(tree), interpolation


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${NAME}", "value"),
        ("a-${NAME}-b", "a-value-b"),
        ("${NAME}${NAME}", "valuevalue"),
        ("${UNSET:-other}", "other"),
        ("${NAME:-other}", "value"),
        ("${EMPTY:-other}", "other"),
        ("${UNSET:-}", ""),
        ("${UNSET:-a:-b}", "a:-b"),
        ("${UNSET:-$$}", "$$"),
        ("$${NAME}", "${NAME}"),
        ("$$$$", "$$"),
        ("$$${NAME}", "$value"),
        ("cost $5", "cost $5"),
        ("$NAME", "$NAME"),
        ("$2b$12$abcdefgh", "$2b$12$abcdefgh"),
        ("ends with $", "ends with $"),
        ("${TRICKY}", ENVIRONMENT["TRICKY"]),
        ("${NUMBER}", "25"),
    ],
)
def test_references_are_replaced_once_and_never_read_again(text: str, value: str) -> None:
    data, interpolation = replaced(f'k: "{text}"\n')
    assert data == {"k": value}
    assert interpolation.faults == []


def test_plain_and_block_scalars_are_replaced_and_keys_are_not() -> None:
    data, _ = replaced("${NAME}: ['${NAME}', {a: '${NAME}'}]\nblock: |-\n  ${NAME}\nnumber: 5\n")
    assert data == {"${NAME}": ["value", {"a": "value"}], "block": "value", "number": 5}


@pytest.mark.parametrize(
    ("marked", "what", "hint"),
    [
        ("k: §${UNSET}", "environment variable UNSET is not set", "give a default: ${UNSET:-…}"),
        ("k: §${EMPTY}", "environment variable EMPTY is empty", ""),
        ("k: §${NAM}", "environment variable NAM is not set", 'did you mean "NAME"?'),
        ("k: §a ${NAME", "`${` without `}`", "$$"),
        ('k: §"${UNSET:-${NAME}}"', "inside `${…}`", "plain default"),
        ("k: §${}", "not a reference", "${NAME:-default}"),
        ("k: §${1A}", "not a reference", ""),
        ("k: §${NAME-x}", "not a reference", ""),
        ("k: §${NAME:?x}", "not a reference", ""),
        ("k: §${env:NAME}", "not a reference", ""),
        ("k: §${ NAME }", "not a reference", ""),
        ("k: §${file:}", "no file named", "/run/secrets/name"),
        ("k: §${file:missing}", "file missing does not exist", ""),
        ("k: §${file:folder}", "file folder is a directory", ""),
        ("k: §${file:large}", f"file large is larger than {SECRET_FILE_OCTETS} octets", ""),
        ("k: §${file:empty}", "file empty is empty", ""),
        ("k: §${file:binary}", "file binary is not UTF-8 text", ""),
        ("k: §${file:pipe}", "file pipe is not a regular file", ""),
    ],
)
def test_a_reference_that_leads_nowhere_names_key_and_place(tmp_path: Path, marked: str, what: str, hint: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "large").write_bytes(b"x" * (SECRET_FILE_OCTETS + 1))
    (tmp_path / "empty").write_bytes(b"\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    os.mkfifo(tmp_path / "pipe")
    text, places = unmark("a: 1\n" + marked, "f.yaml")
    _, interpolation = replaced(text, tmp_path)
    (fault,) = interpolation.faults
    assert str(fault.place) == places[0]
    assert fault.key == "k"
    assert what in fault.what
    assert hint in fault.hint


@pytest.mark.parametrize(
    ("content", "value"),
    [(b"s3cret\n", "s3cret"), (b"s3cret", "s3cret"), (b"s3cret\r\n", "s3cret"), (b"two\n\n", "two\n"), (b" a ", " a ")],
)
def test_a_secret_file_loses_its_last_line_end_and_nothing_else(tmp_path: Path, content: bytes, value: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    file.chmod(0o600)
    data, interpolation = replaced("k: ${file:secret}\n", tmp_path)
    assert data == {"k": value}
    assert interpolation.files == [file]
    assert interpolation.warnings == []


def test_a_secret_file_that_everybody_may_read_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("s3cret")
    file.chmod(0o644)
    data, interpolation = replaced(f"k: ${{file:{file}}}\nl: ${{file:{file}}}\n")
    assert data == {"k": "s3cret", "l": "s3cret"}
    (warning,) = interpolation.warnings
    assert "can be read by every user" in warning.what
    assert "s3cret" not in str(warning)


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=40))
def test_no_value_of_the_environment_changes_the_structure(value: str) -> None:
    tree, _ = parse(b"a: ${V:-d}\nb: ['${V:-d}', 1]\n", "f.yaml")
    Interpolation({"V": value}, Path()).apply(tree)
    assert to_data(tree) == {"a": value or "d", "b": [value or "d", 1]}


def test_an_unquoted_reference_in_brackets_is_explained() -> None:
    with pytest.raises(YamlFault) as refusal:
        parse(b"a: 1\nb: {password: ${NAME}}\n", "f.yaml")
    assert "in quotes" in refusal.value.fault.hint


# Into typed fields


@pytest.mark.parametrize(
    ("section", "environment"),
    [
        ("limits: {connections: '${V}'}", "17"),
        ("limits: {size: '${V}'}", "25MB"),
        ("limits: {idle: '${V}'}", "30s"),
        ("limits: {idle: '${V}'}", "30"),
        ("health: {auto_recover: '${V}'}", "false"),
        ("health: {auto_recover: '${V}'}", "TRUE"),
        ("log: {level: '${V}'}", "debug"),
        ("workers: '${V}'", "4"),
        ("workers: '${V}'", "auto"),
        ("retry: {jitter: '${V}'}", "0.25"),
        ("listeners: [{bind: '127.0.0.1:${V}'}]", "2526"),
        ("store: '${V}'", "redis://:pw@127.0.0.1:6379/0"),
    ],
)
def test_an_interpolated_value_is_read_as_what_the_field_is(tmp_path: Path, section: str, environment: str) -> None:
    load_text(tmp_path, text_with(extra=f"{section}\n"), {"PW": "x", "V": environment})


@pytest.mark.parametrize("value", ["many", "1.5", "", "1e3", "0x10", "true", "9" * 30])
def test_an_interpolated_value_of_another_type_is_a_fault_without_the_value(tmp_path: Path, value: str) -> None:
    text = text_with(extra="limits: {connections: '${V:-nothing}'}\n")
    refusal = faults_of(tmp_path, text, {"PW": "x", "V": value})
    (fault,) = refusal.faults
    assert (fault.key, fault.what) == ("limits.connections", "must be a whole number")
    assert len(value) < 3 or value not in str(refusal)


def test_digits_from_the_environment_are_a_password_while_a_literal_number_is_not(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, text_with(), {"PW": "0123456"})
    assert loaded.config.bridges[0].credentials[0].password.get_secret_value() == "0123456"
    bridges = "bridges: [{name: b, pool: main, credentials: [{username: u, password: 123456}]}]\n"
    (fault,) = faults_of(tmp_path, text_with(bridges=bridges)).faults
    assert fault.what == "must be text, not a number or flag"
    assert "123456" not in str(fault)


def test_interpolated_text_is_plain_text_in_the_models(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, text_with(extra="hostname: ${H}\n"), {"PW": "x", "H": "relay.acme.example"})
    assert type(loaded.config.hostname) is str
    assert not isinstance(loaded.config.hostname, Interpolated)
