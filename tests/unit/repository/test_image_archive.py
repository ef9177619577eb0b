"""Images go to a cluster's node without the layers that it has."""

import hashlib
import io
import json
import tarfile

from tests.cluster.node.image_archive import thin

BASE, OLD, NEW = b"the base", b"the old code", b"the new code"


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def saved(**images: list[bytes]) -> io.BytesIO:
    """What `docker save` writes of images with these layers: a layer that several have is a link from the second on."""
    archive, described, written = io.BytesIO(), [], {}
    with tarfile.open(fileobj=archive, mode="w") as tar:

        def add(name: str, content: bytes) -> str:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
            return name

        for image, layers in images.items():
            paths = []
            for number, layer in enumerate(layers):
                name = f"{image}-{number}/layer.tar"
                if layer in written:
                    link = tarfile.TarInfo(name)
                    link.type, link.linkname = tarfile.SYMTYPE, f"../{written[layer]}"
                    tar.addfile(link)
                else:
                    written[layer] = add(name, layer)
                paths.append(name)
            config = {"rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]}}
            path = add(f"{image}.json", json.dumps(config).encode())
            described.append({"Config": path, "RepoTags": [f"localhost/{image}:dev"], "Layers": paths})
        add("manifest.json", json.dumps(described).encode())
    archive.seek(0)
    return archive


def sent(archive: io.BytesIO, *there: bytes) -> dict[str, bytes]:
    into = io.BytesIO()
    thin(archive, into, {digest(layer) for layer in there})
    into.seek(0)
    with tarfile.open(fileobj=into) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def layers_in(files: dict[str, bytes]) -> list[bytes]:
    return [content for content in files.values() if content in (BASE, OLD, NEW)]


def test_only_layers_that_are_not_there_are_sent() -> None:
    assert layers_in(sent(saved(api=[BASE, NEW]), BASE, OLD)) == [NEW]
    assert layers_in(sent(saved(api=[BASE, NEW]), BASE, NEW)) == []


def test_a_layer_of_several_images_is_sent_once() -> None:
    assert layers_in(sent(saved(api=[BASE, OLD], workers=[BASE, NEW]))) == [BASE, OLD, NEW]


def test_each_image_names_all_of_its_layers() -> None:
    files = sent(saved(api=[BASE, OLD], workers=[BASE, NEW]), BASE)
    found = {}
    for image in json.loads(files["index.json"])["manifests"]:
        manifest = json.loads(files[f"blobs/{image['digest'].replace(':', '/')}"])
        name = image["annotations"]["io.containerd.image.name"]
        found[name] = [(layer["digest"], layer["size"]) for layer in manifest["layers"]]
    assert found == {
        "localhost/api:dev": [(digest(BASE), len(BASE)), (digest(OLD), len(OLD))],
        "localhost/workers:dev": [(digest(BASE), len(BASE)), (digest(NEW), len(NEW))],
    }
    blobs = {name: content for name, content in files.items() if name.startswith("blobs/")}
    assert all(name == f"blobs/{digest(content).replace(':', '/')}" for name, content in blobs.items())
