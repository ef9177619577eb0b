"""The generated pages are up to date."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
assert _spec is not None
assert _spec.loader is not None
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return generate.pages()  # type: ignore[no-any-return]  # a script, loaded by path


def test_what_is_generated_is_what_is_committed(pages: dict[str, str]) -> None:
    stale = [name for name, page in pages.items() if (ROOT / name).read_text(encoding="utf-8") != page]
    assert not stale, "run `make docs` and commit"


def test_every_setting_is_explained() -> None:
    for _, module_name, names in generate.SETTINGS:
        for cls in generate.settings_of(module_name, names):
            undocumented = set(cls.model_fields) - set(generate.attribute_docs(cls))
            assert not undocumented, f"{cls.__name__}: {undocumented}"
            assert cls.__doc__, cls.__name__


def test_every_dependency_earns_its_place_in_a_line() -> None:
    import tomllib

    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    for project in [*sorted(ROOT.glob("*/pyproject.toml")), ROOT / "pyproject.toml"]:
        metadata = tomllib.loads(project.read_text())
        groups = [*metadata["project"].get("optional-dependencies", {}).values()]
        groups += metadata.get("dependency-groups", {}).values()
        for requirement in sum(groups, start=metadata["project"].get("dependencies", [])):
            name = requirement.partition(">")[0].partition("[")[0].strip()
            if not name.startswith("media"):
                assert f"| {name}" in page, f"{name} of {project.parent.name or 'the root'}"
