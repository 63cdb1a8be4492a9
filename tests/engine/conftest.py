"""The mirror that downloads are tested with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hotpath.tests.engine.fetching import BODY, PLACE
from hotpath.tests.mirror import Mirror, serving


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    with serving() as mirror:
        mirror.files[PLACE] = BODY
        monkeypatch.setenv("HF_ENDPOINT", mirror.address + "/")
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield mirror
