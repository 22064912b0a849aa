"""Messages become patterns: values by their form, values by their number, lists of any length, bounds and state."""

from __future__ import annotations

import json

import pytest
from glassbottom_collector.logs import Miner
from glassbottom_collector.logs.masks import Words, masked_word, shown
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.once


def templates(messages: list[str], miner: Miner | None = None) -> dict[str, int]:
    """Count by template."""
    miner = miner or Miner()
    for message in messages:
        miner.add(message)
    return {pattern.template: pattern.count for pattern in miner.patterns()}


@pytest.mark.parametrize(
    ("word", "masked"),
    [
        ("42", "<num>"),
        ("-3.14,", "<num>,"),
        ("126MB", "<num>"),
        ("12:30:53", "<num>:<num>:<num>"),
        ("0x14ed93111f20046", "<hex>"),
        ("QuorumServer@62d9b86e", "QuorumServer@<hex>"),
        ("deadbeef01", "<hex>"),
        ("/10.251.42.84:50010", "<ip>:<num>"),
        ("fe80:0:0:0:202:b3ff:fe1e:8329", "<ip>"),
        ("5c:50:15:4c:18:13", "<ip>"),
        ("[b9000564-fe1a-409b-b8cc-1e88b294cd1d]", "[<uuid>]"),
        ("/var/lib/app/data.db:", "<path>:"),
        ("postgresql://db/orders?x=1", "postgresql://<url>"),
        ("db-1.internal.example:5432", "<host>:<num>"),
        ("blk_-1608999687919862906", "<id>"),
        ("order_17_retry", "<id>"),
        ("uid=0", "uid=<num>"),
        ("core.2275", "core.<num>"),
        ("needed:true", "needed:<bool>"),
        ("token=<redacted:jwt:f3a7>,", "token=<redacted:jwt:<hex>>,"),
        ("orders.py:61:", "orders.py:<num>:"),
        ("retry-count:3", "retry-count:<num>"),
        ("ssh2", "ssh2"),
        ("org.example.v2.Handler", "org.example.v2.Handler"),
        ("facade", "facade"),
        ("x" * 600, "<*>"),
    ],
)
def test_a_value_is_known_by_its_form(word: str, masked: str) -> None:
    assert shown(masked_word(word)) == masked


def test_numbers_make_no_difference() -> None:
    messages = [f"order {n} paid in {n * 3} ms" for n in range(50)]
    assert templates(messages) == {"order <num> paid in <num> ms": 50}


def test_words_are_a_value_once_there_are_enough_of_them() -> None:
    """Five colours could be five messages; with the sixth it is clear that they are values of one."""
    colours = ["red", "green", "blue", "black", "white"]
    assert len(templates([f"painted {colour} all over" for colour in colours])) == 5
    assert templates([f"painted {colour} all over" for colour in [*colours, "pink", "grey"]]) == {
        "painted <*> all over": 7
    }


def test_after_a_noun_that_names_things_two_are_enough() -> None:
    assert templates(["session opened for user ann", "session opened for user bob"]) == {
        "session opened for user <*>": 2
    }


def test_after_a_noun_a_verb_is_no_name() -> None:
    assert len(templates(["task failed after 3 tries", "task ended after 3 tries"])) == 2


def test_a_plain_word_is_no_number() -> None:
    assert len(templates(["connection closed by 10.0.0.7", "connection closed by peer"])) == 2


def test_a_host_is_a_host_in_whatever_order_they_come() -> None:
    """A name alone does not look like a value; beside names that do it is one."""
    names = ["lookup of mail.example.org failed", "lookup of h64-187-1-131.example.org failed"]
    assert templates(names) == templates(names[::-1]) == {"lookup of <*> failed": 2}


def test_a_person_is_a_value_even_when_nobody_else_comes() -> None:
    assert templates(["session closed for user ann"]) == {"session closed for user <*>": 1}


def test_what_stands_in_quotes_is_a_value_once_it_changes() -> None:
    assert templates(["unknown column 'price' here", "unknown column 'total' here"]) == {"unknown column '<*>' here": 2}


def test_states_in_capitals_stay_apart() -> None:
    assert len(templates(["moved from NEW to RUNNING", "moved from NEW to FAILED", "moved from NEW to KILLED"])) == 3


def test_what_follows_an_equals_sign_is_text_until_it_changes() -> None:
    assert templates(["retry mode=fast"] * 2) == {"retry mode=fast": 2}
    assert templates(["retry mode=fast", "retry mode=slow"]) == {"retry mode=<*>": 2}


def test_names_that_differ_in_their_digits_are_values() -> None:
    assert templates(["link eth0 is up", "link eth1 is up"]) == {"link <*> is up": 2}


def test_two_names_with_digits_are_values_whatever_they_are_called() -> None:
    assert templates(["no answer from [rack_A8] yet", "no answer from [spare_D6] yet"]) == {
        "no answer from [<*>] yet": 2
    }


def test_two_places_with_many_words_become_two_values() -> None:
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta"]
    assert templates([f"moved {a} into {b} now" for a in words for b in words]) == {"moved <*> into <*> now": 49}


def test_a_list_may_be_of_any_length() -> None:
    messages = ["dropped the stale keys " + ", ".join(map(str, range(n))) for n in range(1, 9)]
    (template,) = templates(messages)
    assert template.startswith("dropped the stale keys <num>")


def test_sizes_with_and_without_their_unit_are_one_message() -> None:
    messages = ["closed, 12 bytes sent, lifetime 00:12", "closed, 4552 bytes (4.44 KB) sent, lifetime <1 sec"]
    assert list(templates(messages).values()) == [2]


def test_days_and_months_belong_to_the_date() -> None:
    messages = ["started at Sun Jul 17 12:30:53 2005", "started at Mon Aug 1 01:02:03 2005"]
    assert len(templates(messages)) == 1
    assert templates(["May I go on"]) == {"May I go on": 1}


def test_times_and_the_first_example_are_kept_through_a_merge() -> None:
    miner = Miner()
    miner.add("session opened for user ann", 30)
    miner.add("session opened for user bob", 10)
    miner.add("session opened for user eve", 20)
    (pattern,) = miner.patterns()
    assert (pattern.first_ns, pattern.last_ns, pattern.count) == (10, 30, 3)
    assert pattern.example == "session opened for user ann"


def test_more_patterns_than_there_is_room_for_are_forgotten_and_counted() -> None:
    miner = Miner(patterns_max=16)
    letters = "abcdefghijklmnopqrst"
    messages = ["the frequent one"] * 5 + [" ".join(a + b for b in letters[:n]) for n, a in enumerate(letters, 3)]
    kept = templates(messages, miner)
    assert kept["the frequent one"] == 5
    assert len(kept) <= 16
    assert sum(kept.values()) + miner.forgotten_messages == len(messages)
    assert miner.forgotten_patterns > 0


def test_words_that_never_repeat_take_no_more_room_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glassbottom_collector.logs.masks.WORDS_MAX", 100)
    words = Words()
    assert {words[f"word-{n}x"] for n in range(1000)}
    assert len(words) <= 100


def test_a_miner_goes_on_where_its_state_stopped() -> None:
    """Through JSON, as it would lie in a file; the second half then counts as it would have without the stop."""
    names = ["ann", "bob", "eve", "joe", "kim", "lee", "max"]
    messages = [f"today {name} bought {n} of {n * 7}" for n, name in enumerate(names)]
    whole = Miner()
    templates(messages, whole)
    first = Miner()
    templates(messages[:3], first)
    second = Miner.from_state(json.loads(json.dumps(first.state())))
    templates(messages[3:], second)
    assert second.state() == whole.state()


@pytest.mark.parametrize(
    "state",
    [None, [], {}, {"version": 2}, {**Miner().state(), "version": 9}, {**Miner().state(), "patterns": [{"number": 1}]}],
)
def test_a_state_that_is_none_is_refused_with_what_to_do(state: object) -> None:
    with pytest.raises(ValueError, match="Mine the log again"):
        Miner.from_state(state)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=60), max_size=40))
def test_any_text_is_counted_once_and_the_same_text_gives_the_same_patterns(messages: list[str]) -> None:
    first, again = Miner(), Miner()
    assert sum(templates(messages, first).values()) == len(messages)
    templates(messages, again)
    assert first.state() == again.state()
    assert Miner.from_state(json.loads(json.dumps(first.state()))).state() == first.state()
