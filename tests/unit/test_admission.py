"""Permits are counted, returned, and refused with a reason."""

import asyncio
import time

import pytest

from engine.admission import Admission
from engine.config import AdmissionConfig
from engine.errors import DeadlineExpired, Overloaded, ShuttingDown


def test_a_full_house_refuses_until_a_permit_returns() -> None:
    admission = Admission(AdmissionConfig(max_in_flight=1))
    with admission.permit(None):
        with pytest.raises(Overloaded, match=r"admission\.max_in_flight"), admission.permit(None):
            pass
        assert admission.num_in_flight == 1
    with admission.permit(None):
        assert admission.num_in_flight == 1


def test_permit_returns_when_the_request_fails() -> None:
    admission = Admission(AdmissionConfig(max_in_flight=1))
    with pytest.raises(KeyError), admission.permit(None):
        raise KeyError
    assert admission.num_in_flight == 0


def test_passed_deadline_is_refused_at_the_door() -> None:
    admission = Admission(AdmissionConfig())
    with pytest.raises(DeadlineExpired), admission.permit(time.monotonic()):
        pass
    with admission.permit(time.monotonic() + 60):
        assert admission.num_in_flight == 1


async def test_closed_door_refuses_and_waits_for_those_inside() -> None:
    admission = Admission(AdmissionConfig())
    with admission.permit(None):
        admission.close()
        with pytest.raises(ShuttingDown), admission.permit(None):
            pass
        waiting = asyncio.create_task(admission.wait_idle())
        await asyncio.sleep(0.01)
        assert not waiting.done()
    await asyncio.wait_for(waiting, timeout=5)
