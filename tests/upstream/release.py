"""The tests that PEFT publishes in its source release: fetched once, checked, unpacked, nothing of it kept here."""

import hashlib
import importlib.metadata
import os
import subprocess
import sys
import tarfile
from pathlib import Path

# sha256 of peft-X.tar.gz on the package index.  A release that is not listed is refused: tests are code that runs here.
SHA256 = {
    "0.21.2": "b803ccfb3f3f316004d850284306687833a2235ea278fb56abc856203456142e",
}


def installed() -> str:
    """The version of PEFT that is installed, and whose tests are run therefore."""
    return importlib.metadata.version("peft")


def unpack_tests(cache: Path) -> Path:
    """Return the folder that holds the package `peft_tests`: PEFT's `tests`, renamed since ours is `tests` too."""
    version = installed()
    suite = cache / f"peft-{version}"
    package = suite / "peft_tests" / "__init__.py"
    if not package.exists():
        archive = Path(os.environ.get("PEFT_SDIST") or _download(version, cache))
        _check(archive, version)
        with tarfile.open(archive) as release:
            release.extractall(suite, members=_tests_of(release), filter="data")
        package.touch()  # the release has none
    return suite


def _download(version: str, cache: Path) -> Path:
    archive = cache / f"peft-{version}.tar.gz"
    if not archive.exists():
        options = ["--no-deps", "--no-binary", ":all:", "--disable-pip-version-check", "--quiet", "--dest", str(cache)]
        subprocess.run([sys.executable, "-m", "pip", "download", *options, f"peft=={version}"], check=True)
    return archive


def _check(archive: Path, version: str) -> None:
    if version not in SHA256:
        msg = f"no checksum is known for peft {version}, only for {', '.join(SHA256)}: read its tests, then add it here"
        raise SystemExit(msg)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256[version]:
        msg = f"{archive} is not the release of peft {version}: its sha256 is {found}, expected {SHA256[version]}"
        raise SystemExit(msg)


def _tests_of(release: tarfile.TarFile) -> list[tarfile.TarInfo]:
    members = []
    for member in release.getmembers():
        _, _, inner = member.name.partition("/")
        if member.isfile() and inner.startswith("tests/"):
            members.append(member.replace(name="peft_tests/" + inner.removeprefix("tests/")))
    return members
