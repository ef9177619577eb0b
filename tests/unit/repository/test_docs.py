"""The generated pages are up to date."""

import importlib.util
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
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


PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md")]


@cache
def _anchors(page: Path) -> set[str]:
    """What a host of the repository makes of the page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            linked = (page.parent / path) if path else page
            assert linked.exists(), target
            assert not anchor or anchor in _anchors(linked), target


NAMED = re.compile(r"`((?:api|bench|charts|cli|core|crds|docs|operator|samples|tests|workers)/[\w./*-]*)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_that_a_page_names_is_there(page: Path) -> None:
    for named in NAMED.findall(page.read_text(encoding="utf-8")):
        assert any(ROOT.glob(named.rstrip("/"))), named


def test_every_decision_is_in_the_index() -> None:
    index = (ROOT / "docs" / "decisions" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs" / "decisions").glob("0*.md"):
        assert f"]({page.name})" in index
        assert len(page.read_text(encoding="utf-8").splitlines()) < 40, "a decision is a short page"
