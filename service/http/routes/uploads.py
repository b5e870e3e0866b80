"""Routes of resumable uploads. They only translate between the tus protocol and `service.http.tus`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as ConnectionScope

from jobs.errors import InvalidRequest
from service.callers import Scope
from service.http.auth import JobsDep, known_name, needs, require_key, same_site
from service.http.dependencies import SettingsDep, TusDep
from service.http.methods import allowed
from service.http.responses import problems
from service.http.tus import ALGORITHMS, CONTENT_TYPE, EXTENSIONS, VERSION, Status

PATH = "/uploads"


def supported_version(
    tus_resumable: Annotated[
        str | None, Header(description=f"Version of the protocol: {VERSION}.", examples=[VERSION])
    ] = None,
) -> None:
    """Refuse other versions of the protocol with 412."""
    if tus_resumable != VERSION:
        given = f"not {tus_resumable[:80]!r}" if tus_resumable else "which the request lacks"
        raise HTTPException(
            412, f"this server speaks tus {VERSION}: send Tus-Resumable: {VERSION}, {given}", {"Tus-Version": VERSION}
        )


router = APIRouter(
    dependencies=[Depends(require_key), Depends(known_name), Depends(same_site), needs(Scope.SUBMIT)],
    tags=["uploads"],
)
public = APIRouter(dependencies=[Depends(known_name)], tags=["uploads"])

_Version = [Depends(supported_version)]
_Metadata = Annotated[
    str,
    Header(
        description="Pairs of a key and a value in Base64, with commas in between. `filename` names the file.",
        examples=["filename Y2xpcC5tcDQ="],
    ),
]
_Checksum = Annotated[
    str | None,
    Header(
        description=f"Algorithm ({', '.join(ALGORITHMS)}) and digest of this request's body in Base64.",
        examples=["sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="],
    ),
]
_Offset = Annotated[int, Header(ge=0, description="Number of bytes that have arrived before this request.")]
_BODY: dict[str, Any] = {
    "content": {CONTENT_TYPE: {"schema": {"type": "string", "format": "binary", "description": "Bytes of the file."}}}
}
_HEADERS: dict[str, Any] = {
    "Tus-Resumable": {"description": "Version of the protocol.", "schema": {"type": "string"}},
    "Upload-Offset": {"description": "Number of bytes that have arrived.", "schema": {"type": "integer"}},
    "Upload-Expires": {
        "description": "Time when the upload is removed, unless further bytes arrive.",
        "schema": {"type": "string"},
    },
}
_LENGTH: dict[str, Any] = {
    "Upload-Length": {"description": "Size of the complete file.", "schema": {"type": "integer"}},
    "Upload-Metadata": {"description": "The client's metadata.", "schema": {"type": "string"}},
}
_LOCATION: dict[str, Any] = {"Location": {"description": "The upload's address.", "schema": {"type": "string"}}}


@public.options(PATH, status_code=204, summary="Get the server's tus versions and extensions", responses=problems(403))
@public.options(PATH + "/{upload_id}", status_code=204, include_in_schema=False)
async def get_tus_abilities(request: Request, settings: SettingsDep) -> Response:
    """Return versions, extensions, checksum algorithms and the maximum size in headers."""
    headers = {
        "Tus-Version": VERSION,
        "Tus-Extension": EXTENSIONS,
        "Tus-Max-Size": str(settings.max_upload_bytes),
        "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
        "Allow": ", ".join(allowed(request.scope)),
    }
    return Response(status_code=204, headers=headers)


@router.post(
    PATH,
    status_code=201,
    dependencies=_Version,
    summary="Create a resumable upload",
    response_class=Response,
    openapi_extra={"requestBody": _BODY},
    responses={
        201: {"description": "The upload exists.", "headers": {**_LOCATION, **_HEADERS}},
        **problems(400, 401, 403, 408, 412, 413, 415, 423, 429, 460, 503, 507),
    },
)
async def create_upload(
    request: Request,
    tus: TusDep,
    operations: JobsDep,
    upload_length: Annotated[int, Header(ge=0, description="Size of the complete file in bytes.")],
    upload_metadata: _Metadata = "",
    upload_checksum: _Checksum = None,
) -> Response:
    """Announce a file; the body may hold its first bytes. Send bytes with PATCH, then `POST /upscale` with `upload`."""
    status = await tus.create(request, upload_length, upload_metadata, upload_checksum, operations)
    return Response(status_code=201, headers={"Location": f"{PATH}/{status.upload.id}", **status.headers()})


@router.head(
    PATH + "/{upload_id}",
    dependencies=_Version,
    summary="Get the offset of an upload",
    response_class=Response,
    responses={
        200: {"description": "State of the upload.", "headers": {**_HEADERS, **_LENGTH}},
        **problems(400, 401, 403, 404, 409, 410, 412, 423, 503),
    },
)
async def get_upload(upload_id: str, tus: TusDep, operations: JobsDep) -> Response:
    """Return the number of bytes that have arrived. A request that still sends bytes to this upload ends."""
    return _seen(await tus.status(upload_id, operations))


@router.patch(
    PATH + "/{upload_id}",
    status_code=204,
    dependencies=_Version,
    summary="Send bytes of an upload",
    openapi_extra={"requestBody": {"required": True, **_BODY}},
    responses={
        204: {"description": "The bytes are on the disk.", "headers": _HEADERS},
        **problems(400, 401, 403, 404, 408, 409, 410, 412, 413, 415, 423, 429, 460, 503, 507),
    },
)
async def append_upload(
    upload_id: str,
    request: Request,
    tus: TusDep,
    operations: JobsDep,
    upload_offset: _Offset,
    upload_checksum: _Checksum = None,
) -> Response:
    """Send bytes from the offset on. If the connection breaks, ask for the offset (HEAD) and continue from there."""
    return _stored(await tus.append(request, upload_id, upload_offset, upload_checksum, operations))


@router.delete(
    PATH + "/{upload_id}",
    status_code=204,
    dependencies=_Version,
    summary="Remove an upload",
    responses={204: {"description": "The upload is gone."}, **problems(401, 403, 404, 409, 410, 412, 423, 503)},
)
async def delete_upload(upload_id: str, tus: TusDep, operations: JobsDep) -> Response:
    """End an upload and remove its bytes."""
    await tus.remove(upload_id, operations)
    return Response(status_code=204)


@router.post(
    PATH + "/{upload_id}",
    dependencies=_Version,
    summary="Send PATCH, DELETE or HEAD as POST",
    response_class=Response,
    openapi_extra={"requestBody": _BODY},
    responses={
        200: {"description": "State of the upload.", "headers": {**_HEADERS, **_LENGTH}},
        204: {"description": "The bytes are on the disk, or the upload is gone.", "headers": _HEADERS},
        **problems(400, 401, 403, 404, 408, 409, 410, 412, 413, 415, 423, 429, 460, 503, 507),
    },
)
async def override_method(
    upload_id: str,
    request: Request,
    tus: TusDep,
    operations: JobsDep,
    x_http_method_override: Annotated[str, Header()] = "",
    upload_offset: Annotated[int, Header(ge=0)] = -1,
    upload_checksum: _Checksum = None,
) -> Response:
    """Stand in for PATCH, DELETE and HEAD where a proxy or a client lacks these methods."""
    match x_http_method_override.upper():
        case "PATCH" if upload_offset >= 0:
            return await append_upload(upload_id, request, tus, operations, upload_offset, upload_checksum)
        case "DELETE":
            return await delete_upload(upload_id, tus, operations)
        case "HEAD":
            return await get_upload(upload_id, tus, operations)
    raise InvalidRequest("send X-HTTP-Method-Override: PATCH with Upload-Offset, or DELETE, or HEAD")


def _stored(status: Status) -> Response:
    return Response(status_code=204, headers=status.headers())


def _seen(status: Status) -> Response:
    return Response(status_code=200, headers=status.headers(all_of_them=True))


class TusHeaders:
    """Adds Tus-Resumable to every response about uploads, problem documents included."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: ConnectionScope, receive: Receive, send: Send) -> None:
        async def send_with_version(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Tus-Resumable"] = VERSION
            await send(message)

        about_uploads = scope["type"] == "http" and f"{scope['path']}/".startswith(f"{PATH}/")
        await self.app(scope, receive, send_with_version if about_uploads else send)
