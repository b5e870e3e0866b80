"""What routes ask for, as annotated aliases."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request

from jobs.settings import Settings
from service.http.metrics import HttpMetrics
from service.operations import Operations


def _settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


def _operations(request: Request) -> Operations:
    return cast(Operations, request.app.state.operations)


def _metrics(request: Request) -> HttpMetrics:
    return cast(HttpMetrics, request.app.state.metrics)


SettingsDep = Annotated[Settings, Depends(_settings)]
OperationsDep = Annotated[Operations, Depends(_operations)]
MetricsDep = Annotated[HttpMetrics, Depends(_metrics)]
