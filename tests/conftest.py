"""What the tests share."""

import jax
import pytest


@pytest.fixture(scope="module")
def quick_compilation():
    """Compile with few optimizations: these tests compile for seconds what then runs for milliseconds."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # or the next module would run some of what was compiled for this one
