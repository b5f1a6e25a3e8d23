"""Python imports this at startup in every process that has its folder on PYTHONPATH: the children of the tests."""

import loopback_guard

loopback_guard.install()
