"The lock: it holds what settings.ini asks for, set-up installs it, and names of other sources are understood"

import importlib.util
import os
import shutil
import subprocess
import sys
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from conftest import ROOT, environment, one_line


@pytest.fixture(scope="module")
def packages():
    "The program .ci/packages.py as a module"
    spec = importlib.util.spec_from_file_location("packages", ROOT / ".ci" / "packages.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["packages"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["packages"]


@pytest.fixture(scope="module")
def entries(packages):
    return packages.read_lock(packages.LOCK.read_text(encoding="utf-8"))


# --- the file ---


def test_lock_and_settings_agree(packages, entries):
    asked = packages.requirements()
    for group in packages.GROUPS:
        for requirement in map(Requirement, asked[group]):
            found = [entry for entry in entries if entry.name == canonicalize_name(requirement.name)]
            assert found, f"{requirement} is not in requirements.lock: run .ci/packages.py lock"
            for entry in found:
                assert requirement.specifier.contains(Version(entry.version)), (
                    f"the lock has {entry.version}: {requirement}"
                )


def test_every_entry_has_hashes_and_a_reason(packages, entries):
    names = {entry.name for entry in entries}
    groups = {f"-r {group}" for group in packages.GROUPS}
    for entry in entries:
        assert entry.hashes and all(len(h) == 64 for h in entry.hashes), f"{entry.name}: no sha256"
        assert entry.needed_by, f"{entry.name}: nothing needs it"
        assert set(entry.needed_by) <= names | groups, (
            f"{entry.name} is needed by {entry.needed_by}: not all in the lock"
        )
    asked = {
        canonicalize_name(Requirement(r).name)
        for group in packages.GROUPS
        for r in packages.requirements()[group]
    }
    direct = {entry.name for entry in entries if groups & set(entry.needed_by)}
    assert direct == asked, f"asked for in only one of settings.ini and requirements.lock: {direct ^ asked}"


def test_lock_names_no_index(packages, entries):
    text = packages.LOCK.read_text(encoding="utf-8")
    assert "://" not in text and not any(line.startswith("-") for line in text.splitlines())
    assert text == packages.HEADER + "".join(entry.text for entry in entries), (
        "edited by hand, or not read whole"
    )


# --- where packages come from ---


def test_settings_of_pip_are_told_to_uv(packages, tmp_path, monkeypatch):
    monkeypatch.delenv("UV_INDEX", raising=False)
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    monkeypatch.delenv("UV_INDEX_STRATEGY", raising=False)
    (tmp_path / "empty").mkdir()
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "torch-2.15.0+cpu-py3-none-any.whl").touch()
    listed = (
        f":env:.find-links='{tmp_path / 'empty'}'\n:env:.disable-pip-version-check='1'\nglobal.proxy='a'\n"
    )
    settings = packages.pip_settings(listed)
    assert settings == {"disable-pip-version-check": "1", "proxy": "a"}, "an empty folder is no source"
    assert packages.for_uv(settings) == {"ALL_PROXY": "a"} and packages.from_elsewhere(settings) is None
    folders = f"{tmp_path / 'wheels'} {tmp_path / 'empty'}"
    listed = f"global.extra-index-url='\\nx\\ny'\ninstall.find-links='{folders}'\n"
    settings = packages.pip_settings(listed)
    assert packages.for_uv(settings) == {
        "UV_INDEX": "x y",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": f"{tmp_path / 'wheels'},{tmp_path / 'empty'}",
    }
    assert packages.from_elsewhere(settings) == "pip's extra-index-url"
    assert packages.for_uv({"only-binary": "numpy"}) is None, "uv has no word for it: pip does the work"


@pytest.mark.parametrize("source", [False, True])
def test_only_torch_comes_by_its_version(packages, entries, monkeypatch, source):
    "A CPU build has other bytes than the locked one, and brings nothing of CUDA"
    seen = []

    def record(command, **environment):
        command = list(map(str, command))
        files = [open(command[i + 1]).read() for i, word in enumerate(command) if word in ("-r", "-c")]
        seen.append((command, "".join(files)))
        return True

    monkeypatch.setattr(packages, "run", record)
    assert packages.install_with(["pip", "install"], entries, source)
    hashed = seen[0]
    assert "--require-hashes" in hashed[0] and "numpy==" in hashed[1]
    assert ("torch==" in hashed[1]) == ("nvidia-" in hashed[1]) == (not source)
    assert len(seen) == 1 + source
    if source:
        assert (
            seen[1][0][-1].startswith("torch==2.")
            and "nvidia-cublas==" in seen[1][1]
            and "--hash" not in seen[1][1]
        )


# --- the door, with a stand-in for Python that writes down what it would install ---

FAKE = """#!/bin/sh
case "$*" in
  "-m venv "*) for last; do :; done; mkdir -p "$last/bin"; cp "$0" "$last/bin/python" ;;
  "-m pip "*|".ci/packages.py "*) echo "$*" >> "$INSTALL_LOG"; [ -z "$INSTALL_FAILS" ] ;;
  *) exec "{python}" "$@" ;;
esac
"""


@pytest.fixture
def set_up(tmp_path):
    "Run a door of a checkout that has a lock; the answer tells what was installed in this start"
    root, log, fake = tmp_path / "clone", tmp_path / "install.log", tmp_path / "python"
    for name in (
        "speedrun.sh",
        "settings.ini",
        "setup.py",
        "pyproject.toml",
        "requirements.lock",
        ".ci/packages.py",
        "nanochat/__init__.py",
        "nanochat/runs.py",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    fake.write_text(FAKE.replace("{python}", sys.executable))
    fake.chmod(0o755)

    def go(*args, **env):
        log.write_text("")
        own = dict(
            PYTHONPATH="", NANOCHAT_SKIP_SETUP="", PYTHON=str(fake), INSTALL_LOG=str(log), INSTALL_FAILS=""
        )
        done = subprocess.run(
            ["bash", str(root / "speedrun.sh"), *args],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            env={**environment(tmp_path / "base"), **own, **env},
        )
        done.installed = log.read_text().splitlines()
        return done

    go.root = root
    return go


LOCKED = [".ci/packages.py install"]
NEWEST = ["-m pip install -e .[dev] --upgrade --upgrade-strategy eager"]


def test_set_up_installs_the_lock(set_up):
    assert set_up("setup").installed == LOCKED
    assert set_up("chat").installed == [] == set_up("setup").installed, "nothing has changed"
    with open(set_up.root / "requirements.lock", "a") as file:
        file.write("# changed\n")
    assert set_up("chat").installed == LOCKED


def test_what_set_up_installs_is_compiled():
    "Where Python may not write bytecode, each start would compile torch's modules anew: three seconds"
    for name in ("torch.nn.functional", "torch._dynamo.symbolic_convert", "numpy", "fastapi"):
        module = importlib.util.find_spec(name)
        assert os.path.exists(importlib.util.cache_from_source(module.origin)), name


def test_newest_holds_until_the_next_set_up(set_up):
    set_up("setup")
    done = set_up("setup", "--newest")
    assert done.installed == NEWEST and "newest" in done.stderr
    assert set_up("setup", "--newest").installed == NEWEST, "asked for again: there may be newer ones"
    assert set_up("chat").installed == []
    with open(set_up.root / "settings.ini", "a") as file:
        file.write("\n# changed\n")
    assert set_up("chat", INSTALL_FAILS="yes").installed == NEWEST
    assert set_up("chat").installed == NEWEST, "also after a set-up that failed"
    assert set_up("setup").installed == LOCKED
    assert set_up("chat").installed == []


def test_set_up_that_failed_names_the_way_without_the_lock(set_up):
    one_line(set_up("setup", INSTALL_FAILS="yes"), "setup --newest", status=1)
    one_line(set_up("setup", "--latest"), "--latest", status=2)
    one_line(set_up("test", "--newest"), "--newest", status=2)


@pytest.mark.parametrize("spoil", ["cut", "empty", "gone", "not text"])
def test_a_lock_that_is_not_whole_is_refused(packages, tmp_path, monkeypatch, spoil):
    "Before anything is installed: a cut lock would leave an environment without torch, and call it made"
    lock = tmp_path / "requirements.lock"
    text = (ROOT / "requirements.lock").read_text()
    half = text[: text.index("\ntorch==") + 1]
    if spoil != "gone":
        lock.write_bytes({"cut": half.encode(), "empty": b"", "not text": b"\xff\xfe\x00"}[spoil])
    monkeypatch.setattr(packages, "LOCK", lock)
    monkeypatch.setattr(packages, "run", lambda *a, **k: pytest.fail("something was started"))
    with pytest.raises(SystemExit) as end:
        packages.whole_lock()
    assert str(end.value).startswith("error: requirements.lock ") and "\n" not in str(end.value)
    assert spoil != "cut" or "torch is missing" in str(end.value)


def test_a_tool_that_cannot_start_is_said_and_passed_over(packages, tmp_path, capfd):
    broken = tmp_path / "uv"
    broken.write_text("")
    broken.chmod(0o755)
    assert packages.run([broken, "pip"]) is False
    assert packages.run([tmp_path / "nothing"]) is False
    assert capfd.readouterr().err.count("can't be started") == 2


def test_a_venv_without_pip_is_made_again(tmp_path):
    "What python3-venv's absence leaves on Debian: a python that starts, and no pip"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / ".venv")], check=True)
    text = (ROOT / "speedrun.sh").read_text()
    for name in ("find_python()", "good_python()"):
        assert name in text
    body = text[text.index("find_python() {") : text.index("trainer()")]
    script = f"cd {tmp_path}; HERE={tmp_path}; die() {{ echo die; exit 1; }}\n{body}\nfind_python; echo $PY"
    env = {**environment(), "PYTHON": sys.executable, "NANOCHAT_SKIP_SETUP": ""}
    said = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=env).stdout.strip()
    assert said == sys.executable, said
