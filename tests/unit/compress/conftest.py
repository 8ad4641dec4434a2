from collections.abc import Iterator

import pytest


@pytest.fixture
def fake_stages() -> Iterator[None]:
    """Put the fake stages in place of the real ones while a test runs."""
    import engine_fakes

    from compress.stages import STAGES

    real = dict(STAGES)
    STAGES.clear()
    STAGES.update(engine_fakes.TABLE)
    yield
    STAGES.clear()  # the schema lists them in their order
    STAGES.update(real)


@pytest.fixture
def on_the_console() -> Iterator[None]:
    """Show messages, warnings and progress as a command does."""
    from compress.progress import console

    with console():
        yield
