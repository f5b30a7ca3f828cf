"""The table of faults fits the code, and the program tells what is noticed from what lives."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.mutations import (
    Fault,
    Outcome,
    Runner,
    complaints,
    files_of_tests,
    main,
    not_python,
    read_faults,
    report,
    run_all,
    snapshot,
)
from path_patching.errors import UserError

MODULE = "def price(n):\n    return 3 * n\n\n\ndef words(n):\n    return f'{n} pieces'\n"
TESTS = """from shop.price import price

def test_price():
    assert price(2) == 6

def test_that_fails_in_any_case():
    assert False
"""


def fault(before: str, after: str, file: str = "shop/price.py") -> Fault:
    return Fault("prices", file, "something else", before, after)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one module, of which one thing is tested and another is not."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # plugins take longer to start than all else
    root = tmp_path / "repository"
    texts = {"shop/price.py": MODULE, "shop/till.py": "open = True\n", "tests/test_price.py": TESTS}
    texts["pytest.ini"] = "[pytest]\npythonpath = .\n"
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_the_table_has_not_rotted() -> None:
    faults = read_faults()
    gone = [*complaints(faults)]  # a line that a change of the code leaves behind is mended before the next run
    assert len(gone) <= len(faults) / 10, "\n".join(gone)
    assert len(faults) >= 150
    assert len({each.area for each in faults}) == 7


def test_a_line_says_what_fits_the_code_no_more(shop: Path) -> None:
    wrong = {
        "is in the file 0 times": fault("4 * n", "5 * n"),
        "is in the file 2 times": fault("(n)", "(m)"),
        "0 times and not once, but in shop/till.py": fault("open", "closed"),
        "no such file": fault("3 * n", "4 * n", "shop/prices.py"),
        "changes nothing": fault("3 * n", "3 * n"),
    }
    for words, each in wrong.items():
        (line,) = complaints([each], shop)
        assert words in line
        assert line.startswith(f"{each}: ")
        assert "\n" not in line
    twice = [fault("3 * n", "4 * n")] * 2
    assert [line.endswith("in the table twice; take it out") for line in complaints(twice, shop)] == [True]
    (line,) = not_python([fault("3 * n", "4 * n"), fault("3 * n", "3 *")], shop)
    assert "the file is no Python" in line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a.py: what\n- 1\n+ 2\n", 1),  # no area
        ("# area\n\na.py: what\n+ 1\n- 2\n", 3),
        ("# area\na.py, what\n- 1\n+ 2\n", 2),
        ("# area\na.py: what\n- 1\n+ 2\nb.py: what\n- 1\n", 5),
    ],
)
def test_a_table_of_another_form_is_refused_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "faults.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"^faults\.txt, line {line}: "):
        read_faults(path)


def test_one_in_some_faults_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--check", "--every", "10"])
    assert capsys.readouterr().out == f"{len(read_faults()[::10])} faults fit the code\n"
    with pytest.raises(UserError, match="--every 0"):
        main(["--check", "--every", "0"])


def test_what_is_tested_is_noticed_and_what_is_not_lives(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A test that fails in any case notices nothing."""
    faults = [fault("3 * n", "4 * n"), fault("pieces", "pieces of it")]
    outcomes = run_all(faults, Runner(shop, tmp_path), jobs=2)
    assert [(each.noticed, each.by) for each in outcomes] == [
        (True, "tests/test_price.py::test_price"),
        (False, "all fast tests passed"),
    ]
    assert "left out: tests/test_price.py::test_that_fails_in_any_case" in capsys.readouterr().out
    assert (shop / "shop" / "price.py").read_text() == MODULE


def test_near_leaves_out_tests_that_do_not_name_the_file(shop: Path, tmp_path: Path) -> None:
    (shop / "tests" / "test_price.py").rename(shop / "tests" / "test_far.py")
    (shop / "tests" / "test_far.py").write_text(TESTS.replace("shop.price", "shop .price"))
    price = fault("3 * n", "4 * n")
    found = [Runner(shop, tmp_path, near=near).outcome(price) for near in (True, False)]
    assert [(each.noticed, each.by) for each in found] == [
        (False, "all near and fast tests passed"),
        (True, "tests/test_far.py::test_price"),
    ]


def test_a_snapshot_has_new_files_and_none_that_git_ignores(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no git checkout"):
        snapshot(tmp_path / "nowhere", tmp_path / "copy")
    subprocess.run(["git", "init", "--quiet", str(shop)], check=True)
    (shop / ".gitignore").write_text("till.py\n")
    found = [path.name for path in snapshot(shop, tmp_path / "copy").rglob("*") if path.is_file()]
    assert sorted(found) == [".gitignore", "price.py", "pytest.ini", "test_price.py"]


def test_a_run_that_hangs_is_noticed_and_ended(shop: Path, tmp_path: Path) -> None:
    runner = Runner(shop, tmp_path, silence=0.0)
    outcome = runner.outcome(fault("return 3 * n", "import time; time.sleep(1e6)"))
    assert (outcome.noticed, outcome.by, runner.running) == (True, "no test ended for 0 s", set())


def test_a_fault_with_which_no_test_starts_is_noticed(shop: Path, tmp_path: Path) -> None:
    (shop / "tests" / "conftest.py").write_text("from shop.price import price\n\nassert price(1) == 3\n")
    outcome = Runner(shop, tmp_path).outcome(fault("3 * n", "4 * n"))
    assert (outcome.noticed, outcome.by) == (False, "unclear: pytest ended with 4")  # a test fails in any case
    (shop / "tests" / "test_price.py").write_text("def test_nothing_more():\n    pass\n")
    outcome = Runner(shop, tmp_path).outcome(fault("3 * n", "4 * n"))
    assert (outcome.noticed, outcome.by) == (True, "no test starts")


def test_the_tests_called_like_a_module_come_first(shop: Path) -> None:
    for name, text in {"test_shop.py": "", "test_till.py": "import shop.price", "test_other.py": ""}.items():
        (shop / "tests" / name).write_text(text)
    called, naming, others = files_of_tests("shop/price.py", shop)
    assert called == ["tests/test_price.py", "tests/test_shop.py"]
    assert (naming, others) == (["tests/test_till.py"], ["tests/test_other.py"])


def test_the_report_counts_by_area_and_names_what_lives() -> None:
    one, other = fault("1", "2"), Fault("words", "shop/price.py", "no pieces", "3", "4")
    text = report(
        [Outcome(one, True, "t", 1.0), Outcome(one, False, "all passed", 1.0), Outcome(other, True, "t", 1.0)]
    )
    assert "| prices | 2 | 1 | 1 | 50% |" in text
    assert "| words | 1 | 1 | 0 | 100% |" in text
    assert "| all | 3 | 2 | 1 | 67% |" in text
    assert text.endswith("- shop/price.py: something else (all passed)")


def test_flags_choose_faults(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--check", "--area", "circuits", "--only", "circuits/links.py", "Jaccard"])
    assert capsys.readouterr().out == "3 faults fit the code\n"
    with pytest.raises(UserError, match=r"the areas are .*circuits"):
        main(["--check", "--area", "nowhere"])
    with pytest.raises(UserError, match="--only nothing like this"):
        main(["--check", "--only", "nothing like this"])
