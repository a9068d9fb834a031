"""The page in a process of its own, and videos for it."""

import pytest

from page_server import LIMITS, Server, make_clips


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def server(videos):
    started = Server("page_server", "--folder", videos, *LIMITS)
    yield started
    started.stop()
