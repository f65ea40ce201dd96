"""All checks of the project, each in an environment of its own: ``nox --list`` names them.

``nox`` alone runs what a change has to pass. ``nox -s matrix`` runs the tests with every version
that the project supports, and ``nox -s matrix -k "Kafka 3.3"`` with one of them. nox skips the
versions of Python that this machine does not have.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "types", "tests", "build"]

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
EXTRAS = PYPROJECT["project"]["optional-dependencies"]

# pyenv's shims exist for every version, and work only for the selected ones: put the versions' own
# folders on PATH in their place.
PYENV = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
os.environ["PATH"] = os.pathsep.join(
    [
        *(each for each in os.environ["PATH"].split(os.pathsep) if Path(each).name != "shims"),
        *map(str, sorted(PYENV.glob("versions/3.*/bin"), reverse=True)),
    ]
)

PYTHONS = nox.project.python_versions(PYPROJECT)
HERE = [each for each in PYTHONS if shutil.which(f"python{each}")] or PYTHONS
# Every supported version of Django runs on it.
USUAL_PYTHON = "3.12"
DJANGO = ("4.2", "5.2", "6.0")
CHANNELS = ("4.2.1", "4.2.2", "4.3.0", "4.3.1", "4.3.2")
KAFKA = ("3.3.2", "3.7.2", "3.9.1", "4.0.0", "4.3.0")

# The extras for projects that use the package.
FEATURES = sorted(EXTRAS.keys() - {"bench", "demo", "dev", "docs"})
# django-health-check needs Django 5.2; this package does not.
OF_NEWER_DJANGO = ["health-check"]
TEST_TOOLS = (
    *("daphne", "freezegun", "hypothesis", "opentelemetry-sdk", "psutil", "pytest"),
    *("pytest-asyncio", "pytest-django", "pytest-timeout", "pytest-xdist", "PyYAML"),
)

RUNS = [
    nox.param(HERE[0], {"lowest": True, "but": OF_NEWER_DJANGO}, id="lowest", tags=["ci"]),
    *(
        nox.param(each, {}, id=f"Python {each}", tags=["ci"] if each == HERE[-1] else [])
        for each in PYTHONS
    ),
    *(
        nox.param(
            USUAL_PYTHON,
            {"pins": [f"Django=={each}.*"], "but": OF_NEWER_DJANGO if each == DJANGO[0] else []},
            id=f"Django {each}",
        )
        for each in DJANGO
    ),
    *(
        nox.param(USUAL_PYTHON, {"pins": [f"channels=={each}"]}, id=f"Channels {each}")
        for each in CHANNELS
    ),
    *(nox.param(USUAL_PYTHON, {"kafka": each}, id=f"Kafka {each}") for each in KAFKA),
]


def dev(*names: str) -> list[str]:
    """Return the requirements of the extras "dev" and "demo" for some packages."""
    wanted = [each for each in EXTRAS["dev"] + EXTRAS["demo"] if Requirement(each).name in names]
    if len(wanted) != len(names):
        raise KeyError(f"pyproject.toml has {wanted} of {names}")
    return wanted


def requirements(but: Sequence[str] = ()) -> list[str]:
    """Return the requirements of the package and of its extras for projects, except some extras."""
    features = [each for name in FEATURES if name not in but for each in EXTRAS[name]]
    return [*PYPROJECT["project"]["dependencies"], *features]


def lowest(requirement: str) -> str:
    """Return the requirement of the lowest version that a requirement allows."""
    return re.sub(r">=([^,;\s]+)[^;]*", r"==\1", requirement)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install(*dev("ruff"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly."""
    session.install("-e", ".[dev]")
    session.run("mypy", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests with the newest versions, also those with a broker and a browser."""
    session.install("-e", ".[dev]")
    session.run("python", "-m", "pytest", "-n", "4", "--dist", "loadfile", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, run its code, and check the types of that code."""
    session.install("-e", ".[dev]")
    session.run("python", "-m", "pytest", "tests/docs", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build wheel and sdist, check that they have exactly the right files, and try the wheel."""
    session.install("build", "twine")
    folder, dist = Path(session.create_tmp()).resolve(), ROOT / "dist"
    source, clean = folder / "source", folder / "clean"
    for each in (source, clean, dist):
        shutil.rmtree(each, ignore_errors=True)
    listed = session.run("git", "ls-files", external=True, silent=True, log=False)
    known = {each for each in str(listed).splitlines() if (ROOT / each).is_file()}
    # Build in a copy, because a build writes into its source folder, and two may run at once.
    for each in known:
        (source / each).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / each, source / each)
    # The wheel is built from the sdist.
    session.run("python", "-m", "build", "--outdir", str(dist), str(source), silent=True)
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    session.run("twine", "check", "--strict", str(wheel), str(sdist))
    in_wheel = {each for each in known if each.startswith("kafka_layer/")}
    in_sdist = {each for each in known if not each.startswith(".")}
    require_same(session, wheel, files_of_wheel(wheel), in_wheel)
    require_same(session, sdist, files_of_sdist(sdist), in_sdist)
    session.run(sys.executable, "-m", "venv", str(clean), external=True)
    python = str(clean / "bin" / "python")
    session.run(python, "-m", "pip", "install", "--quiet", str(wheel), external=True)
    program = ROOT / "tests" / "support" / "programs" / "installed.py"
    with session.chdir(folder):
        session.run(python, "-I", "-c", "import kafka_layer", external=True)
        session.run(python, "-I", str(program), external=True)


@nox.session
@nox.parametrize("python,versions", RUNS)
def matrix(session: nox.Session, versions: dict[str, Any]) -> None:
    """Run the tests with one of the supported versions."""
    wanted = requirements(versions.get("but", ()))
    if versions.get("lowest"):
        wanted = list(map(lowest, wanted))
    session.install("--no-compile", *wanted, *dev(*TEST_TOOLS), *versions.get("pins", ()))
    told = session.run("python", "-m", "pip", "list", "--format=freeze", silent=True, log=False)
    named = {Requirement(each).name.lower() for each in requirements()}
    session.log(
        "Python %s, %s",
        session.python,
        ", ".join(each for each in str(told).split() if each.partition("==")[0].lower() in named),
    )
    pytest = ("python", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    if "kafka" in versions:
        environment = {
            "KAFKA_LAYER_KAFKA_VERSION": versions["kafka"],
            "KAFKA_LAYER_REQUIRE_BROKER": "1",
        }
        session.run(*pytest, "-k", "kafka", "tests/contract", *session.posargs, env=environment)
        return
    # Without the tests of the documentation, which need all tools of the extra "dev". A few
    # examples of Hypothesis are enough here: their results do not depend on the versions.
    side_by_side = ("-n", "2", "--dist", "loadfile")
    session.run(
        *(*pytest, *side_by_side, "-m", "not broker", "--ignore", "tests/docs", "tests"),
        *session.posargs,
        env={"HYPOTHESIS_PROFILE": "brief"},
    )


def files_of_wheel(path: Path) -> set[str]:
    """Return the files of a wheel, without its metadata."""
    with zipfile.ZipFile(path) as archive:
        return {each for each in archive.namelist() if ".dist-info/" not in each}


def files_of_sdist(path: Path) -> set[str]:
    """Return the files of an sdist, without its metadata."""
    with tarfile.open(path) as archive:
        every = [each.name.partition("/")[2] for each in archive if each.isfile()]
    told = {"PKG-INFO", "setup.cfg"}
    return {each for each in every if each not in told and ".egg-info/" not in each}


def require_same(session: nox.Session, path: Path, found: set[str], wanted: set[str]) -> None:
    """Fail the session if an archive lacks files or has others."""
    if found != wanted:
        missing, more = sorted(wanted - found), sorted(found - wanted)
        session.error(f"{path.name} lacks {missing}, and has {more}, which git does not track")
    session.log("%s has all %d files, and no others", path.name, len(wanted))
