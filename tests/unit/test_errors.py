"""Messages reach the terminal as text, whatever the values in them are."""

import inspect

import pytest

from hnet_ntv2 import errors

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass)]


@pytest.mark.parametrize("error", CLASSES)
def test_control_characters_are_written_out(error):
    assert str(error("in \x1b]0;name\x07\r: é\n\nmore")) == "in \\x1b]0;name\\x07\\r: é\n\nmore"
    assert str(error()) == ""


def test_long_values_are_cut():
    assert errors.shown("chr1") == "'chr1'"
    assert errors.shown("\t9" * 500) == "'" + "\\t9" * 30 + "'... (1,000 characters)"
