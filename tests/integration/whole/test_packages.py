"""What a package imports is what its image carries."""

import subprocess
import sys

# The operator's image has neither: it looks at no content.
DECODING = {"PIL", "av", "numpy", "pillow_heif"}
SNIFFING = {"magic", "pylibmagic"}
# Only the operator makes tables. What works with their rows speaks to the driver.
TABLES = {"alembic", "sqlalchemy", "sqlmodel"}

# The Dockerfile takes them out.
KUBERNETES_CLASSES = r"kubernetes(\.aio)?\.client\.(api|models)\..+"

_LOAD_ALL = """
import importlib, pkgutil, re, sys

class Missing:
    def find_spec(name, path=None, target=None):
        if re.fullmatch(sys.argv[2], name):
            raise ModuleNotFoundError(name)

def fail(name):
    raise ImportError(name)

sys.meta_path.insert(0, Missing)
package = importlib.import_module(sys.argv[1])
left_out = set(sys.argv[3:])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".", onerror=fail):
    if left_out.isdisjoint(module.name.split(".")):
        importlib.import_module(module.name)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def loaded_by(package: str, *left_out: str, missing: str = "") -> set[str]:
    """The top-level modules in a process that has imported every module of the package but these.

    `missing`: names of modules, as a regular expression, that are not installed there.
    """
    command = [sys.executable, "-c", _LOAD_ALL, package, missing, *left_out]
    return set(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode().split())


def test_the_operator_loads_nothing_that_looks_at_content() -> None:
    # `make run` is on a machine that has everything; the image never runs it.
    loaded = loaded_by("media_operator", "local", "embedded", missing=KUBERNETES_CLASSES)
    assert {"kopf", "media_core", "sqlalchemy"} <= loaded
    assert not loaded & (DECODING | SNIFFING)


def test_the_workers_load_neither_libmagic_nor_what_makes_tables() -> None:
    loaded = loaded_by("media_workers")
    assert {"clamd", "media_core"} <= loaded
    assert not loaded & (SNIFFING | TABLES)


def test_the_api_leaves_the_decoders_to_its_children_and_the_tables_to_the_operator() -> None:
    loaded = loaded_by("media_api")
    assert loaded >= {"fastapi", "media_core"} | SNIFFING
    assert not loaded & (DECODING | TABLES)
