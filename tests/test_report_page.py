"""The HTML page, as text and in a real headless Chromium."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from report_results import make_results, shared_report, write_results

from s2robot.report import videos, write_report
from s2robot.report.contrasts import compare_all
from s2robot.report.load import load_arms
from s2robot.report.plan import Plan
from s2robot.report.videos import choose_videos

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

# What a browser must be able to do before a page's own faults can show in it.
PROBE = """<!DOCTYPE html><title>probe</title><script>
document.documentElement.dataset.seen = document.createElement("video").canPlayType('video/mp4; codecs="avc1.42E01E"');
</script>"""

# Errors must be caught from the first byte on, so this goes to the top of the page.
WATCH = """<script>
window.problems = [];
window.addEventListener("error", (event) => problems.push(String(event.message || event.target.outerHTML)), true);
for (const level of ["error", "warn"]) console[level] = (...words) => problems.push(words.join(" "));
</script>"""

# Does what a reader would do, then leaves what it saw where --dump-dom shows it.
READ = """<script>
(async () => {
  const seen = {};
  const table = document.getElementById("cell-table");
  const column = (name) => [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent.trim() === name);
  const texts = (name) => [...table.tBodies[0].rows].filter((row) => row.offsetParent !== null)
    .map((row) => row.cells[column(name)].textContent.trim());
  const press = (name) => table.tHead.rows[0].cells[column(name)].querySelector("button").click();
  const type = (text) => {
    document.getElementById("filter").value = text;
    document.getElementById("filter").dispatchEvent(new Event("input"));
  };
  seen.all = texts("success").length;
  press("success"); seen.ascending = texts("success");
  press("success"); seen.descending = texts("success");
  press("backbone"); seen.backbones = texts("backbone");
  seen.sort = table.tHead.rows[0].cells[column("backbone")].getAttribute("aria-sort");
  type("VIT {224}"); seen.filtered = [texts("backbone"), texts("scales")];
  seen.matches = document.getElementById("matches").textContent;
  type("no such cell"); seen.none = texts("success").length;
  type(""); seen.again = texts("success").length;
  const video = document.querySelector("video");
  await video.play();
  await new Promise((resolve) => video.addEventListener("timeupdate", resolve, { once: true }));
  seen.played = video.currentTime > 0 && video.videoWidth === 64;
  window.dispatchEvent(new Event("beforeprint"));
  seen.unfolded = [...document.querySelectorAll("details")].every((details) => details.open);
  seen.requests = performance.getEntriesByType("resource").map((entry) => entry.name)
    .filter((name) => !name.startsWith("data:"));
  seen.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  seen.problems = window.problems;
  // Windows are at least 500 pixels wide, even headless; a frame can be as narrow as a phone.
  const phone = document.createElement("iframe");
  phone.sandbox = "allow-same-origin";
  phone.style.cssText = "width: 390px; height: 800px; border: 0";
  phone.srcdoc = document.documentElement.outerHTML;
  await new Promise((resolve) => { phone.onload = resolve; document.body.append(phone); });
  seen.phone = [phone.contentWindow.innerWidth, phone.contentDocument.documentElement.scrollWidth];
  document.documentElement.dataset.seen = JSON.stringify(seen);
})().catch((error) => { document.documentElement.dataset.seen = JSON.stringify({ crashed: String(error) }); });
</script>"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return shared_report(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """Whether this machine's Chromium plays H.264; skips where it opens no file of the tests at all."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    folder = tmp_path_factory.mktemp("chromium")
    (folder / "probe.html").write_text(PROBE, encoding="utf-8")
    try:
        played = re.search('data-seen="([^"]*)"', open_in_chromium(folder / "probe.html", folder / "profile"))
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"{CHROMIUM} does not run here: {error}")
    if played is None:
        pytest.skip(f"{CHROMIUM} cannot open files in {folder} (one from a snap may not)")
    return bool(played[1])


def open_in_chromium(path, profile, *flags):
    """Load a page in headless Chromium without a network and return its final DOM."""
    quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    sandbox = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--proxy-server=127.0.0.1:9",
    ]
    command = [CHROMIUM, *sandbox, *quiet, *flags, f"--user-data-dir={profile}", "--virtual-time-budget=20000"]
    done = subprocess.run(
        [*command, "--dump-dom", path.as_uri()], capture_output=True, encoding="utf-8", timeout=600, check=True
    )
    return done.stdout


def seen_by(script, report, folder, *flags, head=""):
    """What a script at the end of the page leaves in `data-seen`."""
    folder.mkdir()
    text = report.read_text(encoding="utf-8").replace("<head>", "<head>" + head).replace("</body>", script + "</body>")
    (folder / "report.html").write_text(text, encoding="utf-8")
    dom = open_in_chromium(folder / "report.html", folder / "profile", *flags)
    left = re.search(r'data-seen="([^"]*)"', dom)
    assert left, f"the script did not come to its end; the page ends {dom[-1000:]}"
    return html.unescape(left[1])


def test_the_page_works_in_chromium(chromium, report, tmp_path):
    if not chromium:
        pytest.skip(f"{CHROMIUM} plays no H.264")
    seen = json.loads(seen_by(READ, report, tmp_path / "page", head=WATCH))
    assert seen.get("crashed") is None
    assert seen["problems"] == []
    assert seen["requests"] == []
    assert seen["all"] == seen["again"] == 12
    rates = [float(text.rstrip("%")) for text in seen["ascending"]]
    assert rates == sorted(rates)
    assert len(set(rates)) > 3
    assert [float(text.rstrip("%")) for text in seen["descending"]] == sorted(rates, reverse=True)
    assert seen["backbones"] == sorted(seen["backbones"])
    assert seen["sort"] == "ascending"
    assert seen["filtered"] == [["vit|small"] * 3, ["{224}"] * 3]
    assert seen["matches"] == "3 of 12 cells"
    assert seen["none"] == 0
    assert seen["played"]
    assert seen["unfolded"]
    # Fonts and their rounding are the machine's: a wide table would be out by hundreds of pixels.
    assert seen["overflow"] <= 2
    window, content = seen["phone"]
    assert window == 390
    assert content <= 392


LUMINANCES = """<script>
const luminance = (text) => {
  const [red, green, blue] = text.match(/[0-9.]+/g).map(Number);
  return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255;
};
const body = getComputedStyle(document.body);
const paper = body.backgroundColor === "rgba(0, 0, 0, 0)" ? getComputedStyle(document.documentElement) : body;
document.documentElement.dataset.seen = [luminance(paper.backgroundColor), luminance(body.color)].join(" ");
</script>"""


@pytest.mark.usefixtures("chromium")
def test_the_page_is_dark_where_the_reader_prefers_it(report, tmp_path):
    seen = []
    for scheme in (0, 1):  # Blink's kDark and kLight
        words = seen_by(LUMINANCES, report, tmp_path / str(scheme), f"--blink-settings=preferredColorScheme={scheme}")
        seen.append([float(number) for number in words.split()])
    (dark_paper, dark_ink), (light_paper, light_ink) = seen
    assert dark_paper < 0.2 < 0.7 < dark_ink
    assert light_ink < 0.2 < 0.9 < light_paper


class Links(HTMLParser):
    """Collects tags, and everything a page could load."""

    def __init__(self):
        super().__init__()
        self.tags, self.loads, self.ids = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "poster", "srcset", "data") and tag != "a":
                self.loads.append(value)
            if name == "id":
                self.ids.append(value)


def parse(path):
    links = Links()
    links.feed(path.read_text(encoding="utf-8"))
    return links


def test_the_page_loads_nothing_from_anywhere(report):
    text = report.read_text(encoding="utf-8")
    assert all(value.startswith(("data:", "#")) for value in parse(report).loads)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_every_anchor_of_the_navigation_exists(report):
    ids = parse(report).ids
    for target in re.findall(r'<a href="#([^"]+)"', report.read_text(encoding="utf-8")):
        assert target in ids


def test_failures_are_shown_side_by_side_at_the_same_seed(report):
    titles = re.findall(
        r"<h3>(Lift: scales [^<]*, evaluation seed \d+)</h3>\s*<div class=\"videos\">(.*?)</div>",
        report.read_text(encoding="utf-8"),
        re.DOTALL,
    )
    assert titles
    for _, row in titles:
        assert row.count("<video") == 2  # the two arms of the contrast
        assert re.findall(r"</strong> (baseline|treatment):", row) == ["baseline", "treatment"]
        assert "✗ failed" in row


def test_the_page_holds_commands_versions_and_fingerprints(report):
    text = report.read_text(encoding="utf-8")
    assert "s2robot evaluate checkpoint=outputs/run/checkpoint" in text
    assert "torch 2.12.0" in text
    assert f'title="{b"Lift".hex()}"' in text


def test_content_of_result_files_cannot_become_markup(tmp_path):
    evil = '"><script>window.hacked = 1</script><img src=x onerror=hacked=1>'
    write_results(
        tmp_path / "a", make_results([True, False], task=evil, backbone=evil, command=evil, versions={evil: evil})
    )
    write_results(tmp_path / "b", make_results([True, True], task=evil, backbone=evil, scales=[448], variant=evil))
    contrasts = [{"name": evil, "baseline": {}, "treatment": {"task": evil}}]
    plan = {"contrasts": contrasts, "failed": [{"cell": evil, "error": evil}], "notes": evil}
    (tmp_path / "benchmark.json").write_text(json.dumps(plan))
    path = write_report([tmp_path], tmp_path / "out")
    assert parse(path).tags.count("script") == 1
    assert "img" not in parse(path).tags
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)<", markdown)


def test_videos_beyond_the_limit_are_counted_not_embedded(report, monkeypatch):
    arms = load_arms([report.parent.parent])
    failures = sum(not video.success for arm in arms for video in arm.cells[0].videos)
    rows, left_out = choose_videos(arms, compare_all(arms, Plan()))
    assert any(not solved for row in rows for _, _, solved in row.videos)
    assert left_out < failures
    monkeypatch.setattr(videos, "MAX_VIDEO_BYTES", 0)
    assert choose_videos(arms, compare_all(arms, Plan())) == ([], failures)
