from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import pytest

from relay.values import evolve, thawed


@thawed
@dataclass(frozen=True, slots=True)
class Pair:
    left: int
    right: int = 2
    more: tuple[int, ...] = field(default_factory=tuple, kw_only=True)


@thawed
@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    odd: int

    def __post_init__(self) -> None:
        if self.odd % 2 == 0:
            raise ValueError("even")


def test_a_thawed_value_is_built_compared_and_hashed_like_a_frozen_one() -> None:
    assert Pair(1) == Pair(left=1, right=2, more=())
    assert hash(Pair(1)) == hash(Pair(1, 2))
    assert repr(Pair(1, more=(3,))) == "Pair(left=1, right=2, more=(3,))"
    assert replace(Pair(1), right=5) == Pair(1, 5)
    assert [member.name for member in fields(Pair)] == ["left", "right", "more"]


@pytest.mark.parametrize("arguments", [(), (1, 2, 3)], ids=["too few", "keyword given by place"])
def test_wrong_arguments_are_refused(arguments: tuple[int, ...]) -> None:
    with pytest.raises(TypeError):
        Pair(*arguments)


def test_what_a_value_checks_about_itself_is_checked() -> None:
    assert Checked(odd=3).odd == 3
    with pytest.raises(ValueError, match="even"):
        Checked(odd=2)


def test_evolve_changes_a_copy() -> None:
    before = Pair(1, more=(7,))
    assert evolve(before, right=9) == Pair(1, 9, more=(7,))
    assert before == Pair(1, 2, more=(7,))
    with pytest.raises(AttributeError):
        evolve(before, wrong=1)
