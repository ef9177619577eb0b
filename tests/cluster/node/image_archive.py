"""What `docker save` writes, without the layers that the one who reads it has already. Standard library only."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Container
from typing import IO, Any

OCI = "application/vnd.oci.image"
NAME = "io.containerd.image.name"


def thin(saved: IO[bytes], into: IO[bytes], there: Container[str]) -> None:
    """Writes the images of the archive `saved` as one OCI image layout, without the layers whose digests are `there`.

    Docker saves layers as plain tars. So the digests that an image's configuration names are those of their bytes.
    """
    with tarfile.open(fileobj=saved) as source, tarfile.open(fileobj=into, mode="w|") as layout:
        written: set[str] = set()
        index = []
        for image in json.loads(_read(source, "manifest.json")):
            config = _read(source, image["Config"])
            layers = []
            for path, digest in zip(image["Layers"], json.loads(config)["rootfs"]["diff_ids"], strict=True):
                layer = _open(source, path)
                layers.append(_described("layer.v1.tar", digest, layer.seek(0, io.SEEK_END)))
                if digest not in there and digest not in written:
                    _add(layout, _blob(digest), layer)
                    written.add(digest)
            described = _add_json(layout, "config.v1+json", config)
            content = json.dumps({"schemaVersion": 2, "config": described, "layers": layers})
            manifest = _add_json(layout, "manifest.v1+json", content.encode())
            index += [manifest | {"annotations": {NAME: name}} for name in image["RepoTags"]]
        _add(layout, "oci-layout", io.BytesIO(b'{"imageLayoutVersion": "1.0.0"}'))
        _add(layout, "index.json", io.BytesIO(json.dumps({"schemaVersion": 2, "manifests": index}).encode()))


def _described(kind: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": f"{OCI}.{kind}", "digest": digest, "size": size}


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _add_json(layout: tarfile.TarFile, kind: str, content: bytes) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    _add(layout, _blob(digest), io.BytesIO(content))
    return _described(kind, digest, len(content))


def _add(layout: tarfile.TarFile, name: str, content: IO[bytes]) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = content.seek(0, io.SEEK_END)
    content.seek(0)
    layout.addfile(entry, content)


def _open(archive: tarfile.TarFile, path: str) -> IO[bytes]:
    file = archive.extractfile(path)
    assert file is not None, f"{path} is no file"
    return file


def _read(archive: tarfile.TarFile, path: str) -> bytes:
    return _open(archive, path).read()
