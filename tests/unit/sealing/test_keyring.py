"""Sealed texts: opened by their key alone, and by nothing that was changed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.sealing.keyring import Keyring, UnusableSeal, key_id_of, new_key, parse_key, parse_keys

KEY, OTHER = parse_key(new_key()), parse_key(new_key())


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_what_was_sealed_is_opened(text: str) -> None:
    sealed = Keyring([KEY]).seal(text)
    assert Keyring([OTHER, KEY]).open(sealed) == text
    assert key_id_of(sealed) == KEY.id
    assert sealed != Keyring([KEY]).seal(text), "a nonce was used twice"


@given(st.integers(min_value=0), st.sampled_from("Aa0-_"))
def test_no_character_can_be_changed(at: int, character: str) -> None:
    sealed = Keyring([KEY]).seal("s3cret")
    at %= len(sealed)
    changed = sealed[:at] + character + sealed[at + 1 :]
    if changed != sealed:
        with pytest.raises(UnusableSeal):
            Keyring([KEY]).open(changed)


def test_the_first_key_seals_and_all_open() -> None:
    assert key_id_of(Keyring([OTHER, KEY]).seal("x")) == OTHER.id
    assert Keyring([OTHER, KEY]).ids == (OTHER.id, KEY.id)


def test_a_missing_key_is_named() -> None:
    sealed = Keyring([KEY]).seal("x")
    with pytest.raises(UnusableSeal, match=f"key {KEY.id}, and the keys here are {OTHER.id}"):
        Keyring([OTHER]).open(sealed)
    with pytest.raises(UnusableSeal, match="no key here"):
        Keyring([]).open(sealed)


def test_keys_of_a_file() -> None:
    first, second = new_key(), new_key()
    keys = parse_keys(f"# kept by ops\n{first}  # since May\n\n{second}\n")
    assert [key.id for key in keys] == [parse_key(first).id, parse_key(second).id]
    assert parse_keys(f"{first},{second}") == keys


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no key"),
        ("# nothing", "no key"),
        ("hunter2", "begins with"),
        ("relay-key-v1:AAAA", "cut or damaged"),
        (new_key()[:-1], "cut or damaged"),
        (new_key() + "A", "cut or damaged"),
    ],
    ids=["empty", "comment", "another text", "short", "cut", "longer"],
)
def test_what_is_no_key_is_refused_and_not_shown(text: str, words: str) -> None:
    with pytest.raises(UnusableSeal, match=words) as caught:
        parse_keys(text)
    if text:
        assert text not in str(caught.value)


@pytest.mark.parametrize("text", ["", "v1:", "v2:00000000:" + "A" * 60, "v1:0000000g:" + "A" * 60, "v1:00000000:A b"])
def test_what_is_no_seal_is_refused(text: str) -> None:
    assert key_id_of(text) == ""
    with pytest.raises(UnusableSeal):
        Keyring([KEY]).open(text)


def test_keys_are_shown_nowhere() -> None:
    text = new_key()
    assert text.split(":")[1] not in repr(parse_key(text))
    assert "octets" not in repr(parse_key(text))
