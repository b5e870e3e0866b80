"""Dependencies of routes, as annotated aliases. `create_app` puts the objects on the application's state."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request

from jobs.settings import Settings
from service.api_key import ApiKeys
from service.estimating import Estimating
from service.http.api_metrics import ApiMetrics
from service.http.previews import Previews
from service.http.streams import Streams
from service.http.tus import Tus
from service.http.upload import Uploads
from service.operations import Operations


def _settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


def _keys(request: Request) -> ApiKeys:
    return cast(ApiKeys, request.app.state.keys)


def _operations(request: Request) -> Operations:
    return cast(Operations, request.app.state.operations)


def _metrics(request: Request) -> ApiMetrics:
    return cast(ApiMetrics, request.app.state.metrics)


def _uploads(request: Request) -> Uploads:
    return cast(Uploads, request.app.state.uploads)


def _estimating(request: Request) -> Estimating:
    return cast(Estimating, request.app.state.estimating)


def _streams(request: Request) -> Streams:
    return cast(Streams, request.app.state.streams)


def _tus(request: Request) -> Tus:
    return cast(Tus, request.app.state.tus)


def _previews(request: Request) -> Previews:
    return cast(Previews, request.app.state.previews)


def _jail(request: Request) -> tuple[str, ...]:
    return cast("tuple[str, ...]", request.app.state.jail_missing)


SettingsDep = Annotated[Settings, Depends(_settings)]
KeysDep = Annotated[ApiKeys, Depends(_keys)]
OperationsDep = Annotated[Operations, Depends(_operations)]
"""The operations of this program itself. Routes of callers take `service.http.auth.JobsDep`."""
MetricsDep = Annotated[ApiMetrics, Depends(_metrics)]
JailDep = Annotated[tuple[str, ...], Depends(_jail)]
"""Layers of the decoder's jail that the kernel does not enforce."""
UploadsDep = Annotated[Uploads, Depends(_uploads)]
EstimatingDep = Annotated[Estimating, Depends(_estimating)]
StreamsDep = Annotated[Streams, Depends(_streams)]
TusDep = Annotated[Tus, Depends(_tus)]
PreviewsDep = Annotated[Previews, Depends(_previews)]
