"""Tracebacks of one failure have one fingerprint, and those of another have another. All are made by raising."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from glassbottom_collector.logs import fingerprint

pytestmark = pytest.mark.once


def raised_by(tmp_path: Path, program: str, name: str = "shop/orders.py") -> str:
    """What a program of that name prints as it fails."""
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(program))
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode
    return done.stderr


PAY = """
    def pay(amount):
        raise ValueError(f"cannot pay {amount}")

    def main():
        pay(AMOUNT)

    main()
"""


def test_line_numbers_messages_and_directories_make_no_difference(tmp_path: Path) -> None:
    here = fingerprint(raised_by(tmp_path / "release-1", PAY.replace("AMOUNT", "12")))
    there = fingerprint(
        raised_by(tmp_path / "release-2", "\n\n# moved\n" + textwrap.dedent(PAY.replace("AMOUNT", "99")))
    )
    assert here is not None and there is not None
    assert here.id == there.id
    assert here.raised[0].message != there.raised[0].message
    assert here.raised[0].frames == ("shop/orders.py:<module>", "shop/orders.py:main", "shop/orders.py:pay")
    assert here.title == "ValueError in shop/orders.py:pay"


def test_another_function_or_another_type_is_another_failure(tmp_path: Path) -> None:
    texts = [PAY, PAY.replace("pay(", "charge("), PAY.replace("ValueError", "KeyError")]
    found = {fingerprint(raised_by(tmp_path, text.replace("AMOUNT", "1"))) for text in texts}
    assert len({one.id for one in found if one is not None}) == 3


def test_a_chain_names_its_causes(tmp_path: Path) -> None:
    found = fingerprint(
        raised_by(
            tmp_path,
            """
            def total():
                return {}["price"]

            def pay():
                try:
                    total()
                except KeyError as error:
                    raise RuntimeError("no total: price") from error

            pay()
            """,
        )
    )
    assert found is not None
    assert [one.type for one in found.raised] == ["KeyError", "RuntimeError"]
    assert found.title == "RuntimeError in shop/orders.py:pay, from KeyError in shop/orders.py:total"


def test_a_cause_that_was_never_raised_has_no_frames(tmp_path: Path) -> None:
    found = fingerprint(raised_by(tmp_path, "raise RuntimeError('b') from ValueError('a')"))
    assert found is not None
    assert [(one.type, one.frames) for one in found.raised] == [
        ("ValueError", ()),
        ("RuntimeError", ("shop/orders.py:<module>",)),
    ]


def test_source_code_that_looks_like_a_group_is_source_code(tmp_path: Path) -> None:
    program = "total = 1\nprice = (\n    None\n    + total\n    | total\n)\n"
    found = fingerprint(raised_by(tmp_path, program))
    assert found is not None
    assert [one.type for one in found.raised] == ["TypeError"]


def test_a_group_has_all_its_exceptions(tmp_path: Path) -> None:
    found = fingerprint(
        raised_by(
            tmp_path,
            """
            def one():
                raise ValueError("first")

            def two():
                raise OSError(5, "second")

            def both():
                errors = []
                for call in (one, two):
                    try:
                        call()
                    except Exception as error:
                        errors.append(error)
                raise ExceptionGroup("both failed", errors)

            both()
            """,
        )
    )
    assert found is not None
    assert [one.type for one in found.raised] == ["ExceptionGroup", "ValueError", "OSError"]
    assert [one.frames[-1] for one in found.raised] == [f"shop/orders.py:{name}" for name in ("both", "one", "two")]


def test_a_syntax_error_names_the_file_it_is_in(tmp_path: Path) -> None:
    found = fingerprint(raised_by(tmp_path, "def pay(:\n    pass\n"))
    assert found is not None
    assert (found.raised[0].type, found.raised[0].frames) == ("SyntaxError", ("shop/orders.py",))


def test_a_recursion_is_as_deep_as_it_happens_to_be(tmp_path: Path) -> None:
    program = """
        import sys
        sys.setrecursionlimit(LIMIT)

        def walk(n):
            return step(n)

        def step(n):
            return walk(n + 1)

        walk(0)
    """
    found = [fingerprint(raised_by(tmp_path, program.replace("LIMIT", limit))) for limit in ("100", "171")]
    assert found[0] is not None and found[1] is not None
    assert found[0].raised[0].type == "RecursionError"
    assert set(found[0].raised[0].frames) == {f"shop/orders.py:{name}" for name in ("<module>", "walk", "step")}


def test_frames_of_libraries_do_not_count(tmp_path: Path) -> None:
    """json fails inside of the standard library; who called it with rubbish is what matters."""
    found = fingerprint(raised_by(tmp_path, "import json\ndef read():\n    json.loads('{')\nread()\n"))
    assert found is not None
    assert found.raised[0].type == "json.decoder.JSONDecodeError"
    assert found.raised[0].frames == ("shop/orders.py:<module>", "shop/orders.py:read")
    assert found.raised[0].in_app


def test_where_there_are_only_libraries_the_last_frames_stand(tmp_path: Path) -> None:
    found = fingerprint(raised_by(tmp_path, "raise ValueError('x')", "site-packages/tool/run.py"))
    assert found is not None
    assert found.raised[0].frames == ("tool/run.py:<module>",)
    assert not found.raised[0].in_app


def test_a_message_that_looks_like_a_traceback_adds_nothing(tmp_path: Path) -> None:
    found = fingerprint(raised_by(tmp_path, "raise ValueError('a\\nKeyError: b\\nOSError')"))
    assert found is not None
    assert [one.type for one in found.raised] == ["ValueError"]


def test_only_the_last_line_is_enough_and_plain_text_is_none() -> None:
    found = fingerprint("shop.errors.PaymentError: refused")
    assert found is not None
    assert found.title == "shop.errors.PaymentError"
    assert fingerprint("all is well: 3 orders") is None
    assert fingerprint("") is None
