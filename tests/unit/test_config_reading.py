"""What is read: radii, and what the command line gives for values."""

import pytest
from kafnets.config.reading import typed
from kafnets.runtime.errors import UserError
from kafnets.runtime.units import fraction


def test_a_radius_is_n_over_255():
    assert fraction("8/255") == 8 / 255 and fraction("0.5/255") == 0.5 / 255
    for wrong in ("8", "8/256", "x/255", "256/255", "-1/255", "nan/255", "", "8/255/255"):
        with pytest.raises(UserError, match="write it as n/255"):
            fraction(wrong)


def test_the_command_line_has_numbers():
    """Snakemake gives lists and mappings of --config as texts."""
    given = {"seeds": ["0", "1"], "a": {"b": "0.5", "c": "null", "d": "8/255", "e": "[", "f": "true"}}
    assert typed(given) == {
        "seeds": [0, 1],
        "a": {"b": 0.5, "c": None, "d": "8/255", "e": "[", "f": True},
    }


@pytest.mark.parametrize(
    "text",
    [
        "2020-99-99",
        "1" * 5000,
        "[" * 700 + "]" * 700,
        "!!int x",
        "!!int",
        "!!bool x",
        "!!timestamp x",
        "&a {b: *a}",
        "\x00",
    ],
)
def test_what_yaml_cannot_make_a_value_of_stays_a_text(text):
    assert typed({"seeds": [text]}) == {"seeds": [text]}


def test_the_command_line_is_gone_through_only_to_an_end():
    loop, grown = [], ["0"] * 10
    loop.append(loop)
    for _ in range(9):
        grown = [grown] * 10
    with pytest.raises(UserError, match="nested more than 20 deep"):
        typed({"seeds": loop})
    with pytest.raises(UserError, match=r"seeds: .* more than 200000 entries"):
        typed({"seeds": grown})
