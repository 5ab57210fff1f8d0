"""The pages in a real browser, where one is installed.

Screenshots and the printed page are kept in $INCDET_SCREENSHOTS where that is set, for people to look at.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from html import escape
from pathlib import Path

import pytest
from saved_run import make_run

from incdet.report.html import write_comparison, write_report

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
WRAPPER = """<!doctype html><script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument.documentElement;
  const requests = performance.getEntriesByType("resource").filter(one => one.name.startsWith("http"));
  document.title = [page.scrollWidth, page.clientWidth, requests.length].join(" ");
}});
</script><body style="margin:0"><iframe style="width:{width}px;height:9000px;border:0" srcdoc="{page}"></iframe>"""

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium is installed: the pages were not looked at in a browser"
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report and a comparison of two runs."""
    folder = tmp_path_factory.mktemp("browser")
    runs = [make_run(folder / name).rename(folder / f"run_{name}") for name in ("a", "b")]
    return {"report": write_report(runs[0]), "comparison": write_comparison(runs, folder / "compared.html")}


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Where screenshots go."""
    place = Path(os.environ.get("INCDET_SCREENSHOTS") or tmp_path / "screenshots").absolute()
    place.mkdir(parents=True, exist_ok=True)
    return place


def browse(profile: Path, page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Opens a page without any network; what it complains of is in stderr."""
    words = [str(BROWSER), "--headless", "--no-sandbox", "--hide-scrollbars", "--enable-logging=stderr"]
    words += [f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND", *options, page.as_uri()]
    return subprocess.run(words, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("page", "width", "look"),
    [("report", 390, "light"), ("report", 1280, "dark"), ("comparison", 390, "dark")],
)
def test_a_browser_shows_a_page_without_complaint_and_in_its_width(
    pages: dict[str, Path], tmp_path: Path, kept: Path, page: str, width: int, look: str
) -> None:
    wrapper, picture = tmp_path / "wrapper.html", kept / f"{page}_{width}_{look}.png"
    wrapper.write_text(WRAPPER.format(width=width, page=escape(pages[page].read_text("utf-8"), quote=True)), "utf-8")
    dark = ["--blink-settings=preferredColorScheme=0"] if look == "dark" else []
    drawn = [f"--window-size={width},9000", f"--screenshot={picture}", "--dump-dom"]
    done = browse(tmp_path / "profile", wrapper, *drawn, *dark)
    assert "CONSOLE" not in done.stderr
    title = re.search(r"<title>(\d+) (\d+) (\d+)</title>", done.stdout)
    assert title is not None
    scrolls, shows, requests = map(int, title.groups())
    assert shows == width and scrolls <= width and requests == 0
    assert picture.stat().st_size > 50_000


def test_a_browser_prints_the_report(pages: dict[str, Path], tmp_path: Path, kept: Path) -> None:
    printed = kept / "report.pdf"
    browse(tmp_path / "profile", pages["report"], f"--print-to-pdf={printed}", "--no-pdf-header-footer")
    sheets = len(re.findall(rb"/Type\s*/Page\b", printed.read_bytes()))
    assert 2 <= sheets <= 10
