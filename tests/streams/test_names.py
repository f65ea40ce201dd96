"""Names of groups from values: legal, reversible, and no two values with one name."""

from __future__ import annotations

import hashlib

from channels.layers import InMemoryChannelLayer
from hypothesis import example, given
from hypothesis import strategies as st

from kafka_layer.streams import group_name
from kafka_layer.streams.names import quote, unquote
from kafka_layer.wire.names import is_group_name
from tests.support.tables import for_each

# Mostly the characters that the quoting itself uses.
TEXTS = st.text(st.sampled_from("_xh5Fé 7-.") | st.characters(exclude_categories=["Cs"]))


@given(TEXTS)
@example("_")
@example("_x41")
@example("a_")
def test_quoting_can_be_undone(text: str) -> None:
    assert unquote(quote(text)) == text


@given(TEXTS, TEXTS)
def test_no_two_values_have_one_name(one: str, other: str) -> None:
    names = (group_name("a{key}", key=one), group_name("a{key}", key=other))

    assert (names[0] == names[1]) == (one == other)


@given(st.text(min_size=1, max_size=300))
def test_channels_and_the_layer_take_every_name(text: str) -> None:
    name = group_name("{key}", key=text)

    assert is_group_name(name)
    assert InMemoryChannelLayer().require_valid_group_name(name)


@for_each(
    ("value", "quoted"),
    [
        ("abc-1.2", "abc-1.2"),
        ("BTC_USD", "BTC_USD"),
        ("ü 7", "_xC3_xBC_x207"),
        ("a/b", "a_x2Fb"),
        ("%", "_x25"),
        ("a_", "a_x5F"),
        ("_x2F", "_x5Fx2F"),
        ("\n\0", "_x0A_x00"),
        ("", ""),
    ],
)
def test_golden_names(value: str, quoted: str) -> None:
    assert quote(value) == quoted


def test_a_name_of_99_characters_stays_and_a_longer_one_ends_in_its_hash() -> None:
    fits, long = "k" * 97, "k" * 98

    assert group_name("o-{key}", key=fits) == "o-" + fits
    assert group_name("o-{key}", key=long) == (
        "o-" + "k" * 30 + "_xh" + hashlib.sha256(b"o-" + long.encode()).hexdigest()
    )
    assert group_name("o-{key}", key=long + "k") != group_name("o-{key}", key=long)


def test_no_value_can_claim_the_name_of_one_that_was_too_long() -> None:
    cut = group_name("o{key}", key="secret" * 50)

    assert group_name("{key}", key=cut) != cut
    assert group_name("o{value}", value=cut[1:]) != cut
    # Not even where the template's own text ends in the underscore of the mark.
    claim = cut[:32] + "_{key}"
    assert group_name(claim, key=cut[33:]) != cut
