"""Reads the manifest that `make run` serves, and notices its edits."""

from __future__ import annotations

import contextlib
from pathlib import Path

import yaml

from media_operator.local.site import RESERVED
from media_operator.tenant.spec import MediaTenant


class CannotRun(Exception):
    """`make run` cannot start; the text says why, in one line."""


class _UniqueKeys(yaml.SafeLoader):
    """Refuses two equal keys, as Kubernetes does. YAML itself silently takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} comes twice", key.start_mark)
            seen.add(key.value)
        return dict(super().construct_mapping(node, deep))


def read_manifest(path: Path) -> MediaTenant:
    """Raises CannotRun if the file cannot be read or is no YAML, SpecInvalid if it is no valid MediaTenant."""
    try:
        documents = [document for document in yaml.load_all(path.read_text(), _UniqueKeys) if document is not None]
    except OSError as error:
        raise CannotRun(f"{short(path)}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CannotRun(f"{short(path)}: is not UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise CannotRun(f"{short(path)}: is not YAML{where}: {getattr(error, 'problem', None) or error}") from None
    if len(documents) != 1:
        raise CannotRun(f"{short(path)}: holds {len(documents)} documents; one MediaTenant is expected")
    tenant = MediaTenant.read(documents[0])
    if tenant.tenant_id in RESERVED:
        raise CannotRun(
            f"{short(path)}: with make run a tenant's id cannot be {tenant.tenant_id}: set another spec.tenantId"
        )
    return tenant


def version_of(path: Path) -> tuple[int, int] | None:
    """A value that differs after each edit; None: the file does not exist."""
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_ino, found.st_mtime_ns
    return None


def short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
