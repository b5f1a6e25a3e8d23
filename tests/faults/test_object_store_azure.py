"""Pushes to Azure through every fault."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.fakes.object_store import AzureBlobServer
from tests.faults.object_store_pushes import BEFORE, survive

pytest.importorskip("obstore", reason="needs the extra: pip install 'tfx-mobile[object-store]'")


@pytest.mark.parametrize("before", BEFORE)
def test_a_push_survives_every_fault(before: str, record_property: Callable[[str, object], None]) -> None:
    assert survive(AzureBlobServer, before, record_property) >= 13 * 5
