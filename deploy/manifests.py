"""Checks deploy/kubernetes: every overlay is put together and validated against the schemas of Kubernetes.

    python -m deploy.manifests

`kubectl kustomize` puts overlays together for a cluster, and PyPI has no such program. The check covers what these
overlays use: resources, components, JSON patches (RFC 6902, by the library jsonpatch) and the namespace. Any other
field of a kustomization is an error.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import jsonpatch
import jsonschema
import kubernetes_validate
import yaml

ROOT: Final = Path(__file__).parent / "kubernetes"
VERSIONS: Final = ("1.30", kubernetes_validate.latest_version())
"""The oldest release with all fields, and the newest with a schema."""
_FIELDS: Final = {"apiVersion", "kind", "namespace", "resources", "components", "patches"}
_OWN_SCHEMAS: Final = {"ScaledObject": ROOT / "keda" / "schema.yaml"}
_CLUSTER_WIDE: Final = {"Namespace"}

Document = dict[str, Any]


def overlays() -> list[str]:
    """Names of the overlays."""
    return sorted(path.parent.name for path in (ROOT / "overlays").glob("*/kustomization.yaml"))


def documents(overlay: str) -> list[Document]:
    """All documents of an overlay, as for a cluster."""
    return _built(ROOT / "overlays" / overlay, [])


def problems(document: Document) -> Iterator[str]:
    """The errors of a document by the schemas."""
    kind, name = document.get("kind"), document.get("metadata", {}).get("name")
    try:
        if kind in _OWN_SCHEMAS:
            jsonschema.validate(document, yaml.safe_load(_OWN_SCHEMAS[kind].read_text()))
            return
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        where = "/".join(map(str, error.path))
        yield f"{kind} {name}: {where}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError as error:
        yield f"{kind} {name}: {error}"


def _built(folder: Path, given: list[Document]) -> list[Document]:
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if unknown := kustomization.keys() - _FIELDS:
        raise ValueError(f"{folder}: this check does not know {', '.join(sorted(unknown))}")
    found = list(given)
    for name in kustomization.get("resources", []):
        path = folder / name
        found += _built(path, []) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    for name in kustomization.get("components", []):
        found = _built(folder / name, found)
    for patch in kustomization.get("patches", []):
        found = _patched(folder, found, patch)
    if namespace := kustomization.get("namespace"):
        for document in found:
            if document["kind"] not in _CLUSTER_WIDE:
                document["metadata"]["namespace"] = namespace
    return found


def _patched(folder: Path, found: list[Document], patch: Document) -> list[Document]:
    target, steps = patch["target"], yaml.safe_load(patch["patch"])

    def is_target(document: Document) -> bool:
        same = re.fullmatch(target["name"], document["metadata"]["name"])
        return document["kind"] == target["kind"] and same is not None

    if not any(map(is_target, found)):
        raise ValueError(f"{folder}: a patch has no target: {target}")
    return [jsonpatch.apply_patch(document, steps) if is_target(document) else document for document in found]


def main() -> int:
    """Validate all overlays; return the exit status."""
    wrong = 0
    for overlay in overlays():
        found = documents(overlay)
        lines = [line for document in found for line in problems(document)]
        wrong += len(lines)
        print(f"{overlay}: {len(found)} documents, {len(lines) or 'no'} problems", *lines, sep="\n  ")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
