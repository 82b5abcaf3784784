"""A page opened in headless Chromium without network: what axe-core finds in it, how wide it is, what it loads."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_ROOT = Path(__file__).parents[3]

#: What runs in the page: axe on all of it, then what the test looks at.
_SCRIPT = """
axe.run().then(found => {
  const said = document.createElement("pre");
  said.id = "found";
  said.textContent = JSON.stringify({
    violations: found.violations.map(one => [one.id, one.impact, one.nodes.map(node => node.html.slice(0, 200))]),
    passes: found.passes.length,
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    ground: getComputedStyle(document.body).backgroundColor,
    width: innerWidth,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    loaded: performance.getEntriesByType("resource").map(one => one.name),
    bars: [...document.querySelectorAll("svg rect")].filter(one => one.getBoundingClientRect().width > 0).length,
  });
  document.body.appendChild(said);
});
"""


def opened(page: str, folder: Path, *, dark: bool = False, width: int = 1280) -> dict[str, Any]:
    """What is found in a page once it is drawn; skips the test where there is no browser or no axe-core."""
    browser = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    file = folder / "opened.html"
    axe = _axe()
    file.write_text(page.replace("</body>", f"<script>{axe}</script><script>{_SCRIPT}</script></body>"))
    done = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=60000", "--dump-dom"),
            *(f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900"),
            *(["--blink-settings=preferredColorScheme=0"] if dark else []),
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    said = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert said, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(html.unescape(said[1]))
    return found


def _axe() -> str:
    """The text of axe-core, from $AXE_CORE or the repository's node_modules (``npm install axe-core``)."""
    place = Path(os.environ.get("AXE_CORE", _ROOT / "node_modules/axe-core/axe.min.js"))
    if not place.is_file():
        pytest.skip("no axe-core: npm install axe-core, or its axe.min.js as AXE_CORE")
    return place.read_text()
