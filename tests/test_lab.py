"A student's first minutes: open a chapter in JupyterLab, run all cells, move each slider by hand"

import importlib.util, re, shutil, socket, subprocess, sys, time, urllib.request
import pytest
from conftest import ROOT, door, environment, missing


def test_lab_door_opens_jupyterlab(tmp_path):
    assert re.fullmatch(r"[45]\.\d+\.\d+\S*", door("lab", "--version", base=tmp_path).stdout.strip())


@pytest.fixture
def lab(tmp_path):
    "Address of a JupyterLab with a copy of chapter 01: what is run there changes no file of the checkout"
    (tmp_path / "nbs").mkdir()
    for name in ("01_bpe.ipynb", "course.mplstyle"):
        shutil.copy(ROOT / "nbs" / name, tmp_path / "nbs")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    cmd = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        "--IdentityProvider.token=",
        "--LabApp.expose_app_in_browser=True",
        f"--ServerApp.root_dir={tmp_path}",
    ]
    log = open(tmp_path / "lab.log", "w+")
    server = subprocess.Popen(
        cmd, stdout=log, stderr=subprocess.STDOUT, env=environment(tmp_path / "base", HOME=tmp_path)
    )
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
                assert server.poll() is None, (log.seek(0), log.read())[1]
        yield f"http://127.0.0.1:{port}/lab/tree/nbs/01_bpe.ipynb?reset"
    finally:
        server.terminate()
        server.wait(30)
        log.close()


CELLS = """() => {
    const m = jupyterapp.shell.currentWidget.content.model, r = [];
    for (let i = 0; i < m.cells.length; i++) {
        const c = m.cells.get(i);
        if (c.type == 'code') {
            const o = [];
            for (let k = 0; k < c.outputs.length; k++) o.push(c.outputs.get(k).type);
            r.push([i, c.sharedModel.source, o])
        }
    }
    return r
}"""
KERNEL = """() => {
    const w = window.jupyterapp && jupyterapp.shell.currentWidget;
    return !!(w && w.sessionContext && w.sessionContext.session && w.sessionContext.session.kernel)
}"""


def test_chapter_runs_and_its_sliders_answer(lab, browser):
    if not importlib.util.find_spec("playwright"):
        missing("browser", "the package playwright is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        page = p.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"]).new_page(
            viewport=dict(width=1400, height=1000)
        )
        page.set_default_timeout(240_000)
        page.goto(lab)
        page.wait_for_selector(".jp-Notebook")
        page.wait_for_function(KERNEL)
        page.evaluate(
            "() => { jupyterapp.commands.execute('notebook:run-all-cells').then(() => { window.ran = true "
            "}) }"
        )
        page.wait_for_function("window.ran")
        cells = page.evaluate(CELLS)
        sliders = [i for i, source, _ in cells if re.search(r"\binteract\(", source)]
        assert (
            [source for _, source, outputs in cells if "error" in outputs] == []
            and len(cells) > 50
            and sliders
        )
        for i in sliders:
            page.evaluate(f"() => jupyterapp.shell.currentWidget.content.scrollToItem({i})")
            cell = page.locator(f".jp-Notebook .jp-Cell[data-windowed-list-index='{i}']")
            drawn = cell.locator(".widget-output, .jupyter-widget-output").first
            shown = drawn.inner_html  # what the function printed or drew, without the slider itself
            handle = cell.locator(".noUi-handle").first
            handle.wait_for()
            before = shown()
            handle.focus()
            for _ in range(2):
                page.keyboard.press("ArrowRight")
            for _ in range(480):
                if shown() != before:
                    break
                page.wait_for_timeout(250)
            else:
                pytest.fail(f"the slider of cell {i} changes nothing")
