"""YAML 1.2 core, limits and places."""

import contextlib
import json
import time

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from relay.config.yaml12 import MAX_ALIASES, MAX_DEPTH, MAX_OCTETS, Mapping, YamlFault, parse, scalars, to_data
from tests.unit.config.config_files import unmark


def values(text: str | bytes) -> object:
    tree, faults = parse(text if isinstance(text, bytes) else text.encode(), "f.yaml")
    assert faults == []
    return to_data(tree)


PLAIN = [
    ("no", "no"),
    ("yes", "yes"),
    ("on", "on"),
    ("off", "off"),
    ("y", "y"),
    ("No", "No"),
    ("true", True),
    ("True", True),
    ("TRUE", True),
    ("tRUE", "tRUE"),
    ("false", False),
    ("null", None),
    ("~", None),
    ("", None),
    ("NULL", None),
    ("nil", "nil"),
    ("0", 0),
    ("25", 25),
    ("-3", -3),
    ("+5", 5),
    ("1.5", 1.5),
    (".5", 0.5),
    ("1e3", 1000.0),
    ("-1.5E-2", -0.015),
    ("12:30:00", "12:30:00"),
    ("10:25", "10:25"),
    ("2025-01-01", "2025-01-01"),
    ("1_000", "1_000"),
    ("0b11", "0b11"),
    ("192.0.2.1", "192.0.2.1"),
    ("15m", "15m"),
    ("25MB", "25MB"),
    (".", "."),
    ("1e", "1e"),
    ("infinity", "infinity"),
    ("=", "="),
]


@pytest.mark.parametrize(("text", "value"), PLAIN, ids=[repr(text) for text, _ in PLAIN])
def test_a_plain_scalar_is_read_as_yaml_1_2_core_says(text: str, value: object) -> None:
    got = values(f"k: {text}\n")
    assert isinstance(got, dict)
    assert got == {"k": value}
    assert type(got["k"]) is type(value)


@pytest.mark.parametrize("style", ['"{}"', "'{}'", "|-\n  {}", ">-\n  {}"])
@pytest.mark.parametrize("text", ["123", "true", "null", "0777", ".inf"])
def test_a_quoted_or_block_scalar_is_text_whatever_it_looks_like(style: str, text: str) -> None:
    assert values(f"k: {style.format(text)}\n") == {"k": text}


@pytest.mark.parametrize(
    "number",
    ["0777", "007", "00", "-012", "0o17", "0x1F", ".inf", "-.Inf", ".nan", ".NaN", "1" * 19, "1e999", "0123.5"],
)
def test_a_number_that_versions_of_yaml_read_differently_is_a_fault(number: str) -> None:
    _, faults = parse(f"a: 1\nk: {number}\n".encode(), "f.yaml")
    assert [str(fault).split(";")[0] for fault in faults] == ["f.yaml:2:4: ambiguous or unusable number"]


def test_places_count_characters_from_one() -> None:
    tree, _ = parse("ä: [ö, {ü: 1}]\nb:\n  - c\n".encode(), "f.yaml")
    assert {path: tuple(scalar.place[1:]) for path, scalar in scalars(tree)} == {
        ("ä", 0): (1, 5),
        ("ä", 1, "ü"): (1, 12),
        ("b", 0): (3, 5),
    }
    assert isinstance(tree, Mapping)
    assert tuple(tree.keys["b"][1:]) == (2, 1)


@pytest.mark.parametrize(
    "data",
    [b"\xef\xbb\xbfa: 1\n", b"a: 1\r\n", b"a: 1", b"# c\n---\na: 1\n", b"---\na: 1\n...\n", b"%YAML 1.2\n---\na: 1\n"],
    ids=["bom", "crlf", "no last line end", "comment and start", "end mark", "directive"],
)
def test_harmless_dressings_are_accepted(data: bytes) -> None:
    assert values(data) == {"a": 1}


REFUSED = [
    ("empty", b"", "f.yaml", "empty"),
    ("only a comment", b"# nothing\n", "f.yaml", "empty"),
    ("utf-16", "a: 1".encode("utf-16"), "f.yaml", "UTF-16"),
    ("not utf-8", b"a: 1\nb: \xff\n", "f.yaml:2:4", "octet 0xff is not UTF-8"),
    ("NUL", b"a: 1\nb: x\0\n", "f.yaml:2:5", "U+0000"),
    ("escape character", b"a: \x1b[0m", "f.yaml:1:4", "U+001B"),
    ("tab indent", b"a:\n\tb: 1\n", "f.yaml:2:1", "tabs are not allowed as indent"),
    ("open bracket", b"a: [1\nb: 2\n", "f.yaml:2:2", "syntax error"),
    ("bad indent", b"a:\n  b: 1\n c: 2\n", "f.yaml:3:2", "syntax error"),
    ("open quote", b"a: 'x\n", "f.yaml:2:1", "syntax error"),
    ("second document", b"a: 1\n---\nb: 2\n", "f.yaml:2:1", "a second document"),
    ("unknown alias", b"a: *nobody\n", "f.yaml:1:4", "has no anchor"),
    ("alias of itself", b"a: &x [1, *x]\n", "f.yaml:1:11", "holds itself"),
    ("too deep", b"[" * 10_000, f"f.yaml:1:{MAX_DEPTH + 1}", "nested deeper than 50"),
    ("too large", b"a: " + b"x" * MAX_OCTETS, "f.yaml", "larger than 1048576 octets"),
    (
        "too many aliases",
        b"a: &x 1\nb: [" + b"*x, " * (MAX_ALIASES + 1) + b"]",
        "f.yaml:2:405",
        "more than 100 aliases",
    ),
]


@pytest.mark.parametrize(("data", "place", "what"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_text_that_is_no_tree_is_refused_with_its_place(data: bytes, place: str, what: str) -> None:
    with pytest.raises(YamlFault) as refusal:
        parse(data, "f.yaml")
    assert str(refusal.value.fault.place) == place
    assert what in refusal.value.fault.what


def test_an_alias_bomb_is_refused_before_it_is_walked() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
    )
    begin = time.perf_counter()
    with pytest.raises(YamlFault, match="aliases"):
        parse(bomb.encode(), "f.yaml")
    assert time.perf_counter() - begin < 0.5


def test_aliases_cannot_nest_deeper_than_the_text_may() -> None:
    chain = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 60))
    with pytest.raises(YamlFault, match="nested deeper"):
        parse(chain.encode(), "f.yaml")


def test_a_long_run_of_digits_takes_no_time() -> None:
    begin = time.perf_counter()
    assert values("a: " + "1" * 900_000 + "x")
    assert time.perf_counter() - begin < 2


LISTED = [
    ("python tag", "a: §!!python/object/apply:os.system [id]\n", "tags"),
    ("own tag", "a: §!secret x\n", "tags"),
    ("standard tag", "a: §!!str 1\n", "tags"),
    ("tag on a mapping", "a: §!!map {b: 1}\n", "tags"),
    ("key twice", "a: 1\nb: 2\n§a: 3\n", "key given twice"),
    ("key twice, inside", "x: {a: 1, b: 2, §a: 3}\n", "key given twice"),
    ("merge key", "x: &x {a: 1}\ny:\n  §<<: *x\n", "merge keys"),
    ("number as key", "§25: a\n", "a key must be text"),
    ("flag as key", "§true: a\n", "a key must be text"),
    ("list as key", "? §[a]\n: b\n", "a key must be text"),
]


@pytest.mark.parametrize(("marked", "what"), [case[1:] for case in LISTED], ids=[case[0] for case in LISTED])
def test_what_yaml_allows_and_a_configuration_does_not_is_listed(marked: str, what: str) -> None:
    text, places = unmark(marked, "f.yaml")
    _, faults = parse(text.encode(), "f.yaml")
    assert [str(fault.place) for fault in faults] == places
    assert what in faults[0].what


def test_all_of_them_are_listed_at_once() -> None:
    text, places = unmark("a: §!x 1\nb: 1\n§b: §0777\n§7: x\n", "f.yaml")
    _, faults = parse(text.encode(), "f.yaml")
    assert sorted(str(fault.place) for fault in faults) == sorted(places)


def test_an_anchor_may_be_used_again() -> None:
    assert values("a: &x {k: [1, 2]}\nb: *x\nc: [*x, *x]\n") == {
        "a": {"k": [1, 2]},
        "b": {"k": [1, 2]},
        "c": [{"k": [1, 2]}, {"k": [1, 2]}],
    }


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@example(b"? ")
@example(b"- &a")
@example(b"\xc2\x85")
def test_any_octets_give_a_tree_or_a_fault(data: bytes) -> None:
    with contextlib.suppress(YamlFault):
        to_data(parse(data, "f.yaml")[0])


# Line separators are line ends to the C parser, as YAML 1.1 had it; YAML 1.2 took that back.
TEXT = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Cn", "Zl", "Zp"], exclude_characters="\ufeff"), max_size=20
)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**17), 10**17) | TEXT,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
        max_leaves=20,
    )
)
def test_json_is_read_as_it_is(value: object) -> None:
    tree, faults = parse(json.dumps(value, ensure_ascii=False).encode(), "f.json")
    assume(faults == [])  # the key `<<`
    assert to_data(tree) == value
