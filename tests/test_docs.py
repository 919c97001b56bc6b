"""The documentation: links lead somewhere, the API reference is built and complete."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)[^)]*\)")
MODULES = ("mupkit", "mupkit.coord_check", "mupkit.huggingface", "mupkit.transfer")
COVERED = (*MODULES, "mupkit.init")  # which comes with the package


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_makefile_documents_these_modules() -> None:
    assert " ".join(MODULES) in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_api_reference_has_every_public_name(tmp_path: Path) -> None:
    import pdoc
    import pdoc.render

    pdoc.render.configure(docformat="google")
    pdoc.pdoc(*MODULES, output_directory=tmp_path)
    for name, module in {name: importlib.import_module(name) for name in COVERED}.items():
        page = (tmp_path / f"{name.replace('.', '/')}.html").read_text(encoding="utf-8")
        for public in module.__all__:
            if inspect.ismodule(getattr(module, public)):
                continue  # a page of its own
            assert f'id="{public}"' in page, f"{name}.{public}"
        assert not re.search(r'(src|href)="https?://(?!pdoc\.dev)', page), "needs the network"
