import pytest


@pytest.fixture
def fake_stages(monkeypatch):
    """Put the fake stages in place of the real ones while a test runs."""
    import engine_fakes

    from compress.stages import STAGES

    for name in list(STAGES):
        if name not in engine_fakes.TABLE:
            monkeypatch.delitem(STAGES, name)
    for name, stage in engine_fakes.TABLE.items():
        monkeypatch.setitem(STAGES, name, stage)
