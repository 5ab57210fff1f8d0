"""The page in a real browser, where one is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import escape
from pathlib import Path

import pytest
from saved_run import make_run

from incdet.report.html import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
WRAPPER = """<!doctype html><script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument.documentElement;
  const requests = performance.getEntriesByType("resource").filter(one => one.name.startsWith("http"));
  document.title = [page.scrollWidth, page.clientWidth, requests.length].join(" ");
}});
</script><iframe style="width:{width}px;height:3000px;border:0" srcdoc="{page}"></iframe>"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(make_run(tmp_path_factory.mktemp("browser")))


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed: the report was not looked at in a browser")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_report_without_complaint_and_in_its_width(
    report: Path, tmp_path: Path, width: int
) -> None:
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(WRAPPER.format(width=width, page=escape(report.read_text("utf-8"), quote=True)), "utf-8")
    words = [str(BROWSER), "--headless", "--no-sandbox", "--hide-scrollbars", "--enable-logging=stderr", "--dump-dom"]
    words += [f"--user-data-dir={tmp_path / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND", wrapper.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr
    title = re.search(r"<title>(\d+) (\d+) (\d+)</title>", done.stdout)
    assert title is not None
    scrolls, shows, requests = map(int, title.groups())
    assert shows == width and scrolls <= width and requests == 0
