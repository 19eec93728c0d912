"""What the tests of images share: a small Debian, a PKI, a whole image."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from casemate.image import pki
from casemate.image.build import Image, build_image
from casemate.image.debian import Packages
from casemate.image.files import Recipe
from casemate.image.host import recipes

MADE = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.fixture
def debian(tmp_path: Path) -> Callable[[Mapping[str, Mapping[str, bytes | str]]], Packages]:
    """Return what makes a package database: package to path to content, or to a link's target."""

    def make(packages: Mapping[str, Mapping[str, bytes | str]]) -> Packages:
        root = tmp_path / "debian"
        info = root / "var/lib/dpkg/info"
        info.mkdir(parents=True)
        paragraphs = []
        for package, files in packages.items():
            for path, content in files.items():
                place = root / path
                place.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, str):
                    place.symlink_to(content)
                else:
                    place.write_bytes(content)
            lines = "".join(f"/{path}\n" for path in files)
            (info / f"{package}.list").write_text(f"/.\n{lines}")
            paragraphs.append(
                f"Package: {package}\nStatus: install ok installed\nVersion: 1:2.0-3+deb12u1\n"
            )
        (root / "var/lib/dpkg/status").write_text("\n".join(paragraphs))
        return Packages(root)

    return make


@pytest.fixture(scope="session")
def made_pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home with a development PKI; making its keys takes seconds, so tests share it."""
    home = tmp_path_factory.mktemp("pki-home")
    assert pki.initialise(home, now=MADE)
    return home


@pytest.fixture
def signing_home(made_pki: Path, tmp_path: Path) -> Path:
    """Return an own home with a copy of the PKI and its anchors."""
    home = tmp_path / "home"
    shutil.copytree(made_pki, home)
    return home


@pytest.fixture(scope="session")
def host_plan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, ...]:
    """Return the recipes of a host, from this machine's packages."""
    return recipes(Packages(), tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="session")
def whole_image(
    made_pki: Path, host_plan: tuple[Recipe, ...], tmp_path_factory: pytest.TempPathFactory
) -> Image:
    """Return the image of a host."""
    home = tmp_path_factory.mktemp("image-home")
    shutil.copytree(made_pki, home, dirs_exist_ok=True)
    return build_image(home, home / "vibs", now=MADE, plan=host_plan)
