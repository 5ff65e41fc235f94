"""The documentation as a site: built strictly, without anything that is fetched when it is read."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_reads_offline(tmp_path: Path) -> None:
    builder = Path(sys.executable).with_name("zensical")
    if not builder.is_file():
        pytest.skip("zensical is not installed: pip install -e '.[docs]'")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copyfile(ROOT / "mkdocs.yml", tmp_path / "mkdocs.yml")
    done = subprocess.run([builder, "build", "--strict"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout + done.stderr
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 130
    assert "<abbr title=" in (tmp_path / "site" / "guides" / "merge-loras.html").read_text()
    for page in pages:
        fetched = re.findall(r'<(?:script|img|iframe)[^>]+src="(https?://[^"]+)"', page.read_text())
        styles = re.findall(r'<link[^>]+rel="(?:stylesheet|preload)"[^>]+href="(https?://[^"]+)"', page.read_text())
        assert not fetched, page.name
        assert not styles, page.name
