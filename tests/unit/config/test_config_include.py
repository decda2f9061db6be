"""Several files as one configuration."""

import os
from pathlib import Path

import pytest

from relay.config import InvalidConfig, load
from tests.unit.config.config_files import ENVIRONMENT, SECTIONS, write

MAIN = "version: 1\ninclude: [bridges.yaml, pools/*.yaml]\n"


def loaded(folder: Path):
    return load(folder / "relay.yaml", environment=ENVIRONMENT, base=folder)


def refusal(folder: Path) -> InvalidConfig:
    with pytest.raises(InvalidConfig) as refused:
        loaded(folder)
    return refused.value


def pool(name: str, number: int) -> str:
    return f"pools:\n  - {{name: {name}, id: {number}, nodes: [{{name: n{number}, type: sandbox}}]}}\n"


def test_lists_are_joined_in_the_order_of_the_files(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "relay.yaml": MAIN + pool("first", 9),
            "bridges.yaml": SECTIONS["bridges"],
            "pools/b.yaml": pool("second", 2),
            "pools/a.yaml": pool("main", 1),
            "pools/ignored.txt": "nonsense: [",
            "pools/.hidden.yaml": "nonsense: [",
        },
    )
    result = loaded(tmp_path)
    assert [p.name for p in result.config.pools] == ["first", "main", "second"]
    assert [b.name for b in result.config.bridges] == ["shop"]
    names = [file.relative_to(tmp_path).as_posix() for file in result.files]
    assert names == ["relay.yaml", "bridges.yaml", "pools/a.yaml", "pools/b.yaml"]


def test_included_files_include_relative_to_themselves(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "relay.yaml": "version: 1\ninclude: [sub/all.yaml]\n" + SECTIONS["bridges"],
            "sub/all.yaml": "version: 1\ninclude: [pools/*.yaml]\n",
            "sub/pools/a.yaml": pool("main", 1),
        },
    )
    assert [p.name for p in loaded(tmp_path).config.pools] == ["main"]


def test_a_fault_in_an_included_file_names_that_file(tmp_path: Path) -> None:
    places = write(
        tmp_path,
        {
            "relay.yaml": MAIN + SECTIONS["bridges"],
            "bridges.yaml": "bridges:\n  - {name: b, §pol: main, networks: [192.0.2.1/32]}\n",
            "pools/a.yaml": pool("main", 1) + "§nonsense: 1\n",
        },
    )
    faults = [fault for fault in refusal(tmp_path).faults if fault.what == "unknown key"]
    assert [str(fault.place) for fault in faults] == places
    assert faults[0].key == "bridges[1].pol"


def test_files_with_faults_are_all_told_and_missing_names_are_not_blamed_on_them(tmp_path: Path) -> None:
    places = write(
        tmp_path,
        {
            "relay.yaml": MAIN + "log: {level: §louder}\n",
            "bridges.yaml": SECTIONS["bridges"],
            "pools/a.yaml": "pools: §!x\n  - a\n",
            "pools/b.yaml": "pools:\n  - {name: main, id: 1, nodes: [§\n",
        },
    )
    faults = refusal(tmp_path).faults
    assert [str(fault.place) for fault in faults][:2] == places[:2]
    assert any("syntax error" in fault.what for fault in faults)
    assert not any("there is no pool" in fault.what for fault in faults)


@pytest.mark.parametrize(
    ("include", "what"),
    [
        ("§missing.yaml", "missing.yaml does not exist"),
        ("§folder", "folder is a directory"),
        ("§../outside.yaml", "leads out of the configuration directory"),
        ("§/etc/hostname", "leads out of the configuration directory"),
        ("§folder/../../outside.yaml", "leads out of the configuration directory"),
        ("§link.yaml", "leads out of the configuration directory"),
        ("§linked/outside.yaml", "leads out of the configuration directory"),
        ("§relay.yaml", "includes itself (a cycle)"),
        ("good.yaml, §good.yaml", "is included already"),
        ("good.yaml, §go*.yaml", "is included already"),
        ("§circle.yaml", "circle.yaml"),
        ('§"a\\0b"', "control characters"),
    ],
)
def test_an_include_that_cannot_be_followed_is_a_fault_at_its_place(tmp_path: Path, include: str, what: str) -> None:
    folder = tmp_path / "conf"
    outside = tmp_path / "outside.yaml"
    outside.write_text("toor:x:0:0\n")
    (folder / "folder").mkdir(parents=True)
    (folder / "link.yaml").symlink_to(outside)
    (folder / "linked").symlink_to(tmp_path)
    (folder / "circle.yaml").symlink_to("circle.yaml")
    places = write(folder, {"relay.yaml": f"version: 1\ninclude: [{include}]\n", "good.yaml": pool("main", 1)})
    (fault,) = refusal(folder).faults
    assert str(fault.place) == places[0]
    assert what in fault.what
    assert "toor" not in str(fault)


def test_a_cycle_over_two_files_is_a_fault(tmp_path: Path) -> None:
    places = write(
        tmp_path,
        {
            "relay.yaml": "version: 1\ninclude: [a.yaml]\n",
            "a.yaml": "include: [b.yaml]\n",
            "b.yaml": "include: [§a.yaml]\n",
        },
    )
    (fault,) = refusal(tmp_path).faults
    assert str(fault.place) == places[0]
    assert "cycle" in fault.what


def test_a_key_that_is_no_list_may_stand_in_one_file_only(tmp_path: Path) -> None:
    places = write(
        tmp_path,
        {
            "relay.yaml": MAIN + "log: {level: info}\nhostname: a.example\n",
            "bridges.yaml": SECTIONS["bridges"] + "§log: {level: info}\n§hostname: a.example\n",
            "pools/a.yaml": pool("main", 1) + "version: 1\n",
        },
    )
    faults = refusal(tmp_path).faults
    assert [str(fault.place) for fault in faults] == places
    assert faults[0].what == f"also set at {tmp_path}/relay.yaml:3:1"


def test_versions_that_differ_clash(tmp_path: Path) -> None:
    write(tmp_path, {"relay.yaml": "version: 1\ninclude: [a.yaml]\n", "a.yaml": "version: 2\n" + pool("main", 1)})
    assert [fault.key for fault in refusal(tmp_path).faults] == ["version"]


def test_a_pattern_without_a_match_is_a_warning(tmp_path: Path) -> None:
    places = write(
        tmp_path,
        {"relay.yaml": "version: 1\ninclude: [§more/*.yaml]\n" + SECTIONS["bridges"] + pool("main", 1)},
    )
    (warning,) = loaded(tmp_path).warnings
    assert str(warning.place) == places[0]
    assert "no file matches" in warning.what


def test_symbolic_links_inside_the_folder_are_followed_as_kubernetes_mounts_need(tmp_path: Path) -> None:
    write(tmp_path, {"relay.yaml": "version: 1\ninclude: [pools.yaml]\n" + SECTIONS["bridges"]})
    write(tmp_path, {"..data/pools.yaml": pool("main", 1)})
    os.symlink("..data/pools.yaml", tmp_path / "pools.yaml")
    assert len(loaded(tmp_path).config.pools) == 1


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"relay.yaml": "version: 1\ninclude: [p/*.yaml]\n"})
    write(tmp_path, {f"p/{n}.yaml": "version: 1\n" for n in range(510)})
    faults = refusal(tmp_path).faults
    assert faults
    assert "one file too many (at most 500)" in faults[0].what


@pytest.mark.parametrize(
    ("prepare", "what"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a directory"),
        (lambda path: path.write_text(""), "empty"),
        (lambda path: path.write_text("- a\n"), "the top level must hold keys"),
        (lambda path: path.write_text("text"), "the top level must hold keys"),
        (lambda path: os.mkfifo(path), "is not a regular file"),
        (lambda path: path.symlink_to(path.name), "a circle of symbolic links"),
    ],
    ids=["missing", "directory", "empty", "list", "text", "pipe", "link to itself"],
)
def test_a_main_file_that_is_none_is_one_clear_fault(tmp_path: Path, prepare, what: str) -> None:
    prepare(tmp_path / "relay.yaml")
    (fault,) = refusal(tmp_path).faults
    assert fault.place.file == str(tmp_path / "relay.yaml")
    assert what in fault.what
