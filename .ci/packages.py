#!/usr/bin/env python3
"""The packages of the course: install those of `requirements.lock`, make it anew, try the oldest allowed.

    .venv/bin/python .ci/packages.py install                 what `bash speedrun.sh setup` asks for
    .venv/bin/python .ci/packages.py lock [--upgrade NAME]   after a change of settings.ini or pyproject.toml
    .venv/bin/python .ci/packages.py oldest                  the lowest core requirements, and a few tests

The lock holds one version of every package, with the sha256 of each file that the index offers for it, for
every system and every Python from `min_python` on. This program needs the standard library only; uv, where
there is none, is installed by pip.
"""

import argparse
import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
PYTHON = sys.executable

GROUPS = ("requirements", "dev_requirements", "build_requirements")

HEADER = """\
# Made by .ci/packages.py from settings.ini and pyproject.toml: do not edit.
# One version of every package, for every system and Python, with the sha256 of each file there is of it.
"""

# torch and what it alone brings: a build for CPUs or for another CUDA has the same version and other bytes
TORCH_FAMILY = re.compile(r"torch|triton|(nvidia|cuda)-.*")

# pip's settings that decide where packages come from, and what uv calls them
UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
    "trusted-host": "UV_INSECURE_HOST",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "retries": "UV_HTTP_RETRIES",
    "no-cache-dir": "UV_NO_CACHE",
}

# pip's settings that decide nothing for uv; any setting in neither list means that pip does the work itself
OF_NO_MATTER = {
    "disable-pip-version-check",
    "cache-dir",
    "no-color",
    "no-input",
    "quiet",
    "verbose",
    "progress-bar",
    "no-warn-script-location",
    "root-user-action",
    "require-virtualenv",
    "no-python-version-warning",
    "break-system-packages",
    "log",
}

# `oldest` leaves out what the notebooks need: nbdev has bounds of its own
OLDEST_DEV = re.compile(r"(pytest|hypothesis|rustbpe)\b")
OLDEST_TESTS = ("test_loader.py", "test_loss.py", "test_tokenizer.py", "test_engine.py")


@dataclass(frozen=True)
class Locked:
    "One entry of the lock"

    name: str
    version: str
    marker: str  # the systems and Pythons it is for; empty: all
    hashes: tuple[str, ...]
    needed_by: tuple[str, ...]
    text: str  # its lines in the file

    @property
    def condition(self):
        "The marker as a requirements file has it"
        return f"; {self.marker}" if self.marker else ""


def read_lock(text):
    "The entries of a lock file"
    entries = []
    for lines in re.findall(r"^[A-Za-z0-9][^\n]*\n(?:[ \t]+[^\n]*\n)*", text, re.M):
        name, version, marker = re.match(r"([\w.-]+)==([^\s;]+)(?:\s*;\s*([^\\\n]*))?", lines).groups()
        needed_by = re.search(r"# via (.*)", lines)
        entries.append(
            Locked(
                name,
                version,
                (marker or "").strip(),
                tuple(re.findall(r"--hash=sha256:(\w+)", lines)),
                tuple(needed_by[1].split(", ")) if needed_by else (),
                lines,
            )
        )
    return entries


def requirements():
    "What settings.ini and pyproject.toml ask for: a list for each of GROUPS, and `min_python`"
    settings = ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    settings = settings["DEFAULT"]
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    return dict(
        requirements=settings["requirements"].split(),
        dev_requirements=settings["dev_requirements"].split(),
        build_requirements=build,
        min_python=settings["min_python"],
    )


def say(words):
    print(words, file=sys.stderr, flush=True)


def run(command, folder=None, **environment):
    "Run a command, its output on stderr; True where it ended well"
    try:
        done = subprocess.run(
            list(map(str, command)), cwd=folder, stdout=sys.stderr, env={**os.environ, **environment}
        )
    except OSError as e:  # it is there and can't be started: made for another system, or damaged
        say(f"set-up: {command[0]} can't be started ({e.strerror})")
        return False
    return done.returncode == 0


# ---- where packages come from ------------------------------------------------------------------------------


def pip_settings(listed=None):
    "What pip has been told by files and by the environment: {setting: value}"
    if listed is None:
        listed = subprocess.run(
            [PYTHON, "-m", "pip", "config", "list"], capture_output=True, text=True
        ).stdout
    found = {}
    for section in ("global", "install", ":env:"):  # the later one wins
        for name, value in re.findall(rf"^{section}\.([\w-]+)=(.*)$", listed, re.M):
            found[name] = str(ast.literal_eval(value))
    return {name: value for name, value in found.items() if name != "find-links" or offers(value)}


def offers(find_links):
    "Is there anything in these folders and pages? An empty folder is no source"

    def is_empty(place):
        return "://" not in place and not any(Path(place).expanduser().glob("*"))

    return not all(is_empty(place) for place in find_links.split())


def from_elsewhere(settings):
    "The first setting that names another source than the usual index, or None"
    for name in ("index-url", "extra-index-url", "find-links", "no-index"):
        if name in settings:
            return f"pip's {name}"
    for name in ("DEFAULT_INDEX", "INDEX", "INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS", "TORCH_BACKEND"):
        if os.environ.get(f"UV_{name}"):
            return f"UV_{name}"
    return None


def for_uv(settings):
    "pip's settings as the environment that tells uv the same; None where uv has no word for one of them"
    environment = {}
    for name, value in settings.items():
        if name in OF_NO_MATTER:
            continue
        if name not in UV_NAMES:
            say(f"set-up: uv has no word for pip's setting {name!r}, so pip does the work")
            return None
        separator = "," if name == "find-links" else " "
        environment[UV_NAMES[name]] = separator.join(value.split())
    if "extra-index-url" in settings:
        environment["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # what pip does: the best of all indexes
    return {name: value for name, value in environment.items() if name not in os.environ}


def find_uv(locked):
    "The command that starts uv: this environment's, the system's, or one installed now; None: not to be had"
    if importlib.util.find_spec("uv"):
        return [PYTHON, "-m", "uv"]
    if found := shutil.which("uv"):
        return [found]
    if not any(entry.name == "uv" for entry in locked):
        return None
    with tempfile.TemporaryDirectory() as folder:
        only_uv = Path(folder) / "uv.txt"
        only_uv.write_text("".join(entry.text for entry in locked if entry.name == "uv"))
        pip = [PYTHON, "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "-r", only_uv]
        return [PYTHON, "-m", "uv"] if run(pip) else None


def must_have_uv():
    "The command that starts uv, for what only uv can do"
    return find_uv(()) or sys.exit("error: uv is needed for this: python -m pip install uv")


# ---- install -----------------------------------------------------------------------------------------------


def install_with(installer, locked, by_version):
    "Install what the lock names by version and sha256; with `by_version`, torch's family by version alone"
    if not by_version:
        return run([*installer, "--require-hashes", "--no-deps", "-r", LOCK])
    with tempfile.TemporaryDirectory() as folder:
        rest, versions = Path(folder) / "rest.txt", Path(folder) / "versions.txt"
        rest.write_text("".join(entry.text for entry in locked if not TORCH_FAMILY.fullmatch(entry.name)))
        versions.write_text("".join(f"{entry.name}=={entry.version} {entry.condition}\n" for entry in locked))
        torch = next(f"torch=={entry.version}" for entry in locked if entry.name == "torch")
        # torch last, and with what it depends on: a build for CPUs needs nothing of CUDA
        done = run([*installer, "--require-hashes", "--no-deps", "-r", rest])
        return done and run([*installer, "-c", versions, torch])


def plain(name):
    "A package's name as it is compared: Foo_Bar is foo-bar"
    return re.sub(r"[-_.]+", "-", name).lower()


def whole_lock():
    "The entries of the lock, which must name all that settings.ini and pyproject.toml ask for"
    try:
        locked = read_lock(LOCK.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        sys.exit(f"error: {LOCK.name} can't be read ({e}): take it from the repository again")
    there = {plain(entry.name) for entry in locked if entry.hashes}
    asked = requirements()
    wanted = [plain(re.match(r"[\w.-]+", line)[0]) for kind in GROUPS for line in asked[kind]]
    missing = [name for name in wanted if name not in there]
    if missing:
        sys.exit(
            f"error: {LOCK.name} is not whole: {missing[0]} is missing and {len(missing) - 1} others; "
            "take it from the repository again, or make it anew: .venv/bin/python .ci/packages.py lock"
        )
    return locked


def install(args):
    "Install the lock's packages, then the course itself, with the crate where cargo is at hand"
    locked = whole_lock()
    settings = pip_settings()
    source = from_elsewhere(settings)
    if source:
        say(
            f"set-up: {source} names another source, where torch may be another build: "
            "torch is taken by its version, all else by its sha256"
        )
    done = False
    uv_settings = for_uv(settings) if args.tool != "pip" else None
    if uv_settings is not None and (uv := find_uv(locked)):
        os.environ.update(uv_settings)
        # pip compiles what it installs, uv only if told to. Where Python may not write bytecode itself (many
        # images for containers say so), each start would compile torch's modules anew: three seconds
        installer = [*uv, "pip", "install", "--compile-bytecode", "--python", PYTHON]
        done = install_with(installer, locked, source)
        if not done and args.tool != "uv":
            say("set-up: uv could not do it (its own message is above); trying pip")
    if not done and args.tool != "uv":
        done = install_with([PYTHON, "-m", "pip", "install"], locked, source)
    course = [PYTHON, *"-m pip install --quiet --no-deps --no-build-isolation -e".split(), ROOT]
    own = [PYTHON, "-m", "compileall", "-q", ROOT / "nanochat"]
    return done and run(course) and run(own)


# ---- lock --------------------------------------------------------------------------------------------------


def lock(args):
    "Make requirements.lock: versions that still fit stay, unless they are to be upgraded"
    asked = requirements()
    command = [*must_have_uv(), *"pip compile --quiet --universal --generate-hashes --no-header".split()]
    command += ["--annotation-style", "line", "--python-version", asked["min_python"]]
    for name in args.upgrade or ():
        command += ["--upgrade"] if name == "all" else ["--upgrade-package", name]
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "lock"
        if LOCK.exists():
            shutil.copy(LOCK, made)  # uv prefers the versions that it finds here
        for kind in GROUPS:
            (Path(folder) / kind).write_text("\n".join(asked[kind]) + "\n")
        environment = for_uv(pip_settings()) or {}
        if not run([*command, *GROUPS, "-o", made], folder, **environment):
            return False
        entries = read_lock(made.read_text(encoding="utf-8"))
    LOCK.write_text(HEADER + "".join(entry.text for entry in entries), encoding="utf-8")
    say(f"{LOCK.name}: {len(entries)} entries")
    return True


# ---- oldest ------------------------------------------------------------------------------------------------


def oldest(args):
    "Install the lowest core requirements beside today's other packages, and run a few tests there"
    asked, uv, settings = requirements(), must_have_uv(), for_uv(pip_settings()) or {}
    with tempfile.TemporaryDirectory(prefix="nanochat-oldest-", dir=args.folder) as folder:
        folder = Path(folder)
        python, core, lowest = folder / "venv" / "bin" / "python", folder / "core.txt", folder / "lowest.txt"
        core.write_text("\n".join(asked["requirements"]) + "\n")
        resolve = [*uv, *"pip compile --quiet --resolution lowest-direct --no-header --no-annotate".split()]
        if not run([*resolve, "--python-version", asked["min_python"], core, "-o", lowest], **settings):
            return False
        names = {re.match(r"[\w-]+", requirement)[0] for requirement in asked["requirements"]}
        direct = [line for line in lowest.read_text().splitlines() if line.split("==")[0] in names]
        say("oldest: " + " ".join(direct))
        peers = filter(OLDEST_DEV.match, asked["dev_requirements"])
        install_these = [*uv, "pip", "install", "--python", python, *direct, *peers]
        tests = [ROOT / "tests" / name for name in args.tests]
        return (
            run([*uv, "venv", "--quiet", "--python", PYTHON, folder / "venv"])
            and run(install_these, **settings)
            and run([python, "-m", "pytest", "-q", *tests], ROOT, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    doors = parser.add_subparsers(dest="door", required=True)
    door = doors.add_parser("install", help=install.__doc__)
    door.add_argument("--tool", choices=("uv", "pip"), help="this one, and no other if it fails")
    door = doors.add_parser("lock", help=lock.__doc__)
    door.add_argument(
        "--upgrade", action="append", metavar="NAME", help="take the newest of this package, or of `all`"
    )
    door = doors.add_parser("oldest", help=oldest.__doc__)
    door.add_argument(
        "--folder", help="make the environment in here, and not where temporary files go (7 GB)"
    )
    door.add_argument(
        "--tests", nargs="+", default=OLDEST_TESTS, metavar="FILE", help="names of files in tests/"
    )
    args = parser.parse_args()
    sys.exit(not dict(install=install, lock=lock, oldest=oldest)[args.door](args))


if __name__ == "__main__":
    main()
