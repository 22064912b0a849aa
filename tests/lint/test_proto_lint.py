"""The lint of the schemas finds what it says it finds, and our schemas pass it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lint.proto import lint

GOOD = """\
syntax = "proto3";

// What the file is for.
package shop.v1;

// Sells.
service ShopService {
  // Sells one.
  rpc Sell(SellRequest) returns (SellResponse);
}

// Asks.
message SellRequest {
  // How often.
  optional uint32 times = 1;
  // By name.
  map<string, Kind> kinds = 2;
}

// Answers.
message SellResponse {
  // One of them.
  oneof outcome {
    // What was paid.
    double price_eur = 1;
  }
}

// Which kind.
enum Kind {
  // Not set.
  KIND_UNSPECIFIED = 0;
  // Dear.
  KIND_DEAR = 1;
}
"""


def sentences(directory: Path, text: str, name: str = "shop/v1/shop.proto") -> list[str]:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return [violation.sentence for violation in lint(directory)]


def test_the_schemas_of_the_project_are_clean(root: Path) -> None:
    assert lint(root / "proto") == []


def test_a_file_that_keeps_every_rule_has_no_violation(tmp_path: Path) -> None:
    assert sentences(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        ("// How often.\n", "", "field SellRequest.times needs a comment above it."),
        ("// Answers.\n", "", "message SellResponse needs a comment above it."),
        ("// Which kind.\n", "", "enum Kind needs a comment above it."),
        ("// Dear.\n", "", "enum value KIND_DEAR needs a comment above it."),
        ("// Sells.\n", "", "service ShopService needs a comment above it."),
        ("// Sells one.\n", "", "rpc Sell needs a comment above it."),
        ("// One of them.\n", "", "oneof SellResponse.outcome needs a comment above it."),
        ("// What the file is for.\n", "", "package shop.v1 needs a comment above it."),
        ("price_eur", "priceEur", "field SellResponse.priceEur must be lower_snake_case."),
        ("KIND_DEAR", "DEAR", "enum value DEAR must begin with KIND_."),
        ("KIND_UNSPECIFIED", "KIND_NONE", "the zero value of Kind must be KIND_UNSPECIFIED."),
        ("ShopService", "Shop", "service Shop must be PascalCase and end in Service."),
        ("SellRequest", "Sale", "rpc Sell must use SellRequest, not Sale."),
        ("(SellResponse)", "(SellRequest)", "rpc Sell shares SellRequest with rpc Sell."),
        ("package shop.v1", "package shop", "package 'shop' must end in a version, such as .v1."),
        ("shop.v1", "till.v1", "package 'till.v1' does not match the directory of shop/v1/shop.proto."),
    ],
)
def test_each_rule_is_noticed_when_broken(tmp_path: Path, right: str, wrong: str, expected: str) -> None:
    assert right in GOOD
    assert expected in sentences(tmp_path, GOOD.replace(right, wrong))


def test_a_violation_says_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "shop/v1/shop.proto"
    path.parent.mkdir(parents=True)
    path.write_text(GOOD.replace("  // How often.\n", ""))
    (violation,) = lint(tmp_path)
    assert str(violation) == "shop/v1/shop.proto:14: field SellRequest.times needs a comment above it."


def test_a_schema_that_does_not_compile_is_told_with_protocs_own_words(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="protoc refused"):
        sentences(tmp_path, GOOD.replace("uint32", "uint33"))
