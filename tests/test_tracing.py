"""Which tests count for the coverage, where it is measured."""

import os

import pytest
from coverage import Coverage

from testing.launch import FOR_PROCESSES


@pytest.fixture
def measured(pytestconfig):
    return bool(pytestconfig.getoption("cov_source", None))


def is_traced():
    """This process, and those that it starts."""
    return Coverage.current() is not None, FOR_PROCESSES in os.environ


def test_a_fast_test_is_traced(measured):
    assert is_traced() == (measured, measured)


@pytest.mark.slow
def test_a_slow_test_is_not_traced():
    assert is_traced() == (False, False)


@pytest.mark.slow
@pytest.mark.traced
def test_a_slow_test_that_is_marked_so_is_traced(measured):
    assert is_traced() == (measured, measured)
