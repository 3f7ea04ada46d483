"""A served tiny model in this process."""

import pytest


@pytest.fixture(scope="session")
def translator(tiny_run):
    from pytorch_dl import load

    return load(tiny_run)


@pytest.fixture
def client(translator):
    from starlette.testclient import TestClient

    from pytorch_dl.serving.answers import Answers
    from pytorch_dl.serving.app import make_app
    from pytorch_dl.serving.batcher import Batcher
    from pytorch_dl.serving.wish import Limits

    limits = Limits(body_bytes=4096, lines=8, characters=60, waiting_lines=10, seconds=60)
    with TestClient(make_app(Batcher(Answers(translator), most=10), served={"model": "tiny"}, limits=limits)) as client:
        yield client
