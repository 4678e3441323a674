"""The made data set, rendered once for all tests of this folder."""

from __future__ import annotations

import pytest
from made_images import Made, render


@pytest.fixture(scope="session")
def made() -> Made:
    return render()
