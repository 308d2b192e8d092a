"""When to come back, and what to show meanwhile: the table of outcomes."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import errors
from service.ingest import pacing

MINUTE = timedelta(seconds=60)
DAY = timedelta(hours=24)


def failed(failure, *, failures=0, gone_for=timedelta(), seed=1):
    """The verdict on a failure at an interval of a minute."""
    dice = random.Random(seed)
    return pacing.failed(failure, failures=failures, interval=MINUTE, gone_for=gone_for, dice=dice)


@given(st.integers(), st.booleans())
def test_complete_comes_back_after_the_interval(seed, gaps_left):
    """Give or take a twentieth; gaps change the state shown and not the time."""
    assert 57 <= pacing.pause(MINUTE, random.Random(seed)) <= 63
    assert pacing.stored(gaps_left=gaps_left) == ("catching_up" if gaps_left else "ok")


@given(st.integers(), st.integers(0, 10_000), st.floats(0, 10**6) | st.none())
def test_throttled_waits_as_long_as_it_is_told(seed, failures, told):
    """The longer of Retry-After and a backoff, never over an hour."""
    verdict = failed(errors.Throttled("quota", retry_after=told), failures=failures, seed=seed)
    assert verdict.state == "throttled"
    assert 1 <= verdict.delay <= 3600
    assert verdict.delay >= min(told or 0, 3600)
    assert verdict.failures == failures + 1


@given(st.integers(), st.integers(0, 10_000))
def test_transient_backs_off_with_full_jitter(seed, failures):
    """Doubling up to 15 minutes, anywhere below that, never at once."""
    verdict = failed(errors.Transient("500"), failures=failures, seed=seed)
    assert verdict.state == "degraded"
    assert 1 <= verdict.delay <= min(15 * 2 ** min(failures + 1, 10), 900)


def test_transient_backoff_is_spread():
    """Many streams that fail at one moment do not come back at one moment."""
    delays = {round(failed(errors.Transient("500"), failures=9, seed=seed).delay) for seed in range(200)}
    assert min(delays) < 100
    assert max(delays) > 800
    assert len(delays) > 100


def test_transient_respects_a_longer_retry_after():
    """What the answer says counts where it is longer."""
    assert failed(errors.Transient("503", retry_after=2000)).delay == 2000
    assert failed(errors.Transient("503", retry_after=10**6)).delay == 3600


@pytest.mark.parametrize("failures", [0, 5, 500])
def test_attention_waits_an_hour(failures):
    """However often; a little spread, since many may wait on one cause."""
    verdict = failed(errors.Attention("No consent.", code="consent_missing"), failures=failures)
    assert (verdict.state, verdict.reason) == ("needs_attention", "No consent.")
    assert 3600 <= verdict.delay <= 3600 * 1.05


def test_attention_with_a_time_comes_back_then():
    """The probe of a refused credential says when the next one is worth it."""
    verdict = failed(errors.CredentialRefused("Wrong secret.", code="secret_wrong", retry_after=40))
    assert verdict.state == "needs_attention"
    assert 40 <= verdict.delay <= 42


def test_gone_is_transient_for_a_day():
    """A 404 for some hours may be anything."""
    verdict = failed(errors.Gone("410"), gone_for=DAY - timedelta(seconds=1))
    assert verdict.state == "degraded"
    assert verdict.delay <= 900


@pytest.mark.parametrize(("failures", "delay"), [(0, 120), (3, 960), (8, 6 * 3600), (5000, 6 * 3600)])
def test_gone_for_a_day_is_retired(failures, delay):
    """Then it is asked after less and less often, up to six hours."""
    verdict = failed(errors.Gone("410"), failures=failures, gone_for=DAY)
    assert (verdict.state, verdict.delay) == ("retired", delay)


@pytest.mark.parametrize(
    "failure", [errors.Refused("400"), errors.TooLarge("too large"), errors.BadBody("not JSON", sample=b"<")]
)
def test_what_could_not_be_split_away_is_transient(failure):
    """Where all of a live window fails, the API is at fault."""
    assert failed(failure).state == "degraded"
