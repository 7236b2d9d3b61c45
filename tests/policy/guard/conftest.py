"""The guard's tests run in virtual time; whatever goes wrong without a test's looking fails the test."""

from tests.manager.conftest import no_problems, pytest_asyncio_loop_factories

__all__ = ["no_problems", "pytest_asyncio_loop_factories"]
