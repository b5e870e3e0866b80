"""Every kind of error of the service has a gRPC code of its own."""

from __future__ import annotations

from collections.abc import Iterator

from grpc import StatusCode

from jobs.errors import SkipVsrError
from service.rpc.errors import to_status_error


def kinds(parent: type[SkipVsrError] = SkipVsrError) -> Iterator[type[SkipVsrError]]:
    for kind in parent.__subclasses__():
        yield kind
        yield from kinds(kind)


def test_no_kind_of_error_is_internal() -> None:
    for kind in kinds():
        error = to_status_error(kind.__new__(kind, "what is wrong"))
        assert error.code not in (StatusCode.INTERNAL, StatusCode.UNKNOWN), kind
        assert error.reason == "".join(f"_{c}" if c.isupper() else c.upper() for c in kind.__name__).lstrip("_")
