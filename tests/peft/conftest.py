import pytest

from tests.peft.ranks import Ranks


@pytest.fixture(scope="session")
def ranks(tmp_path_factory):
    pair = Ranks(tmp_path_factory.mktemp("ranks"))
    yield pair
    pair.stop()
