"""Hints about missing modules name the extra that installs them."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import packages_distributions

import pytest

from commands.shared.extras import EXTRAS, install_hint
from tests.support.paths import ROOT

OPTIONAL = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
CLIENT = tomllib.loads((ROOT / "clients/python/pyproject.toml").read_text())["project"]


def required(extra: str) -> set[str]:
    """Names of the distributions that an extra installs, those of the client's extras too."""
    wanted = list(OPTIONAL[extra])
    for each in OPTIONAL[extra]:
        if match := re.match(r"skipvsr-client\[(\w+)\]", each):
            wanted += CLIENT["optional-dependencies"][match[1]]
    return {re.split(r"[\[<>=~!]", each)[0].lower() for each in wanted}


def test_an_unknown_module_is_in_all() -> None:
    assert install_hint("opentelemetry.sdk") == "pip install 'skipvsr[all]'"
    assert install_hint("grpc.aio") == "pip install 'skipvsr[grpc]'"


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_installs_its_modules(extra: str) -> None:
    distributions = packages_distributions()
    for module in EXTRAS[extra]:
        if module in distributions and module != "starlette":  # of FastAPI
            assert {name.lower() for name in distributions[module]} & required(extra), module
