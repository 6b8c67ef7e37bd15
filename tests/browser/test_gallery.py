"""The gallery as it is seen and used, in Chromium, from the disk."""

from __future__ import annotations

import itertools
import shutil
import socket
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from genbatch import Blocked, Prompt, Unavailable
from genbatch._store._reports import export
from genbatch.gallery import write_gallery
from support.archives import opened
from support.chromium import Browser
from support.commands import PARTI
from support.folders import add_take, fill, picture

pytestmark = pytest.mark.browser

SHAPES = [(48, 48), (64, 36), (36, 64)]
HOSTILE = (
    "<script>document.title = 'run'</script></script><img src=x onerror=\"document.title='run'\">"
    "&lt;b&gt; 'single' \"double\" `${1}` \u202eright to left\u202c 🦊 \x00\x01\x1b[31m \ud800 end"
)


def shaped(number: int) -> bytes:
    return picture(number, SHAPES[number % 3], ("PNG", "JPEG")[number % 2])


def some(number: int) -> bytes | Exception | None:
    """Return an image, but for 1, 2 and 3."""
    others: dict[int, Exception | None] = {
        1: Blocked("the filter refused it: IMAGE_SAFETY"),
        2: Unavailable("the service answered 503"),
        3: None,
    }
    return others[number] if number in others else shaped(number)


@pytest.fixture(scope="session")
def parti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gallery") / "parti"
    lines = PARTI.read_text(encoding="utf-8").split("\n")[1:-1]
    rows = [line.split("\t") for line in lines]
    prompts = [Prompt(text, metadata={"Category": category}) for text, category, *_ in rows]
    write_gallery(fill(folder, prompts, shaped))
    return folder


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty prompts, of which three have no image, the first has three takes, and two are gone."""
    folder = tmp_path_factory.mktemp("gallery") / "it's mixed, 100 % #1?"
    prompts = [Prompt(f"prompt {n}", id=f"id-{n}", seed=n % 2) for n in range(42)]
    fill(folder, prompts, some)
    fill(folder, prompts[:40], some)
    add_take(folder, 0, picture(900), pick=True, text="prompt 0 at night", seed=77)
    add_take(folder, 0, picture(901))
    write_gallery(folder)
    return folder


def matrix(folder: Path, *, further: int = 1) -> Path:
    axes = itertools.product(["cat", "dog", "owl"], ["ink", "oil"], range(further))
    prompts = [
        Prompt(f"a {animal} in {style}, {n}", metadata={"animal": animal, "style": style})
        for animal, style, n in axes
    ]
    write_gallery(fill(folder, prompts, shaped))
    return folder


@pytest.mark.skipif(not PARTI.exists(), reason="PartiPrompts.tsv is not here")
def test_search_finds_words_of_prompts_in_any_case_and_order(parti: Path, browser: Browser) -> None:
    browser.open(parti)
    assert browser.count() == "1,632 of 1,632"
    found = browser.search("Corgi")
    assert found
    assert all("corgi" in text.lower() for text in found)
    both = browser.search("pizza CORGI")
    assert both
    assert len(both) < len(found)
    browser.search("no such prompt")
    assert browser.find("#nothing").is_displayed()
    browser.find("#clear").click()
    assert browser.count() == "1,632 of 1,632"
    browser.choose("Category", "Animals")
    assert browser.count() == "314 of 1,632"
    browser.search("corgi")
    assert browser.count().endswith(" of 1,632")
    assert browser.count() != "314 of 1,632"


@pytest.mark.skipif(not PARTI.exists(), reason="PartiPrompts.tsv is not here")
def test_however_many_images_there_are_the_document_is_small(parti: Path, browser: Browser) -> None:
    browser.open(parti)
    for _ in range(3):
        assert 10 < len(browser.all(".tile")) < 100
        browser.run("scrollBy(0, 9999)")
        browser.run("return new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    assert int(browser.texts(".tile")[0] != "")
    browser.until("[...document.images].filter(({ src }) => src).every((image) => image.complete)")


def show_table(browser: Browser) -> None:
    browser.run("document.querySelector('#filters label:has(+ #axes) input').click()")


def test_search_finds_ids(mixed: Path, browser: Browser) -> None:
    browser.open(mixed)
    assert browser.search("id-17") == ["prompt 17"]
    assert browser.search("#18") == ["prompt 18"]


def test_the_head_tells_counts_and_cost(mixed: Path, browser: Browser) -> None:
    browser.open(mixed)
    assert browser.find("h1").text == browser.driver.title == mixed.name
    assert browser.find("#summary").text.startswith("37 done, 2 failed, 1 to do · $1.38 · updated ")


def test_filters_narrow_what_is_shown(mixed: Path, browser: Browser) -> None:
    browser.open(mixed)
    assert browser.count() == "40 of 40"
    browser.choose("Status", "Failed")
    assert browser.texts(".caption") == ["prompt 1", "prompt 2"]
    assert browser.texts(".tile strong") == ["Blocked", "Unavailable"]
    assert "IMAGE_SAFETY" in browser.texts(".tile")[0]
    browser.choose("Status", "To do")
    assert browser.texts(".caption") == ["prompt 3"]
    browser.choose("Status", "Status")
    browser.choose("seed", "77")
    assert browser.texts(".caption") == ["prompt 0 at night"]


def test_superseded_images_are_behind_a_switch(mixed: Path, browser: Browser) -> None:
    browser.open(mixed)
    browser.find("#filters input").click()
    assert browser.count() == "42 of 42"
    assert browser.search("prompt 41") == ["prompt 41"]
    assert browser.find(".note").text == "superseded"
    browser.find(".tile").click()
    assert not browser.all(".command")


def test_a_click_opens_an_image_with_all_that_is_known(mixed: Path, browser: Browser) -> None:
    browser.open(mixed)
    browser.search("prompt 4 ")
    browser.find(".tile").click()
    assert browser.find("#prompt").text == "prompt 4"
    browser.until("document.getElementById('picture').src.endsWith('.png')")
    browser.until("document.getElementById('picture').naturalWidth === 64")
    assert browser.find("#picture").get_dom_attribute("alt") == "prompt 4"
    names = [name for name in browser.texts("dt") if name]
    values = dict(zip(names, browser.texts("dd"), strict=True))
    assert values | {"Made": "", "File": "", "Size": ""} == {
        "Id": "id-4",
        "Model": "gemini-nano-banana-2.1",
        "Seed": "0",
        "Cost": "$0.0336",
        "Took": "6.5 s",
        "Made": "",
        "Size": "",
        "File": "",
    }
    assert values["Size"] == "64 \N{MULTIPLICATION SIGN} 36, 1 kB"
    assert values["File"].endswith(".png")
    path = str(mixed.absolute()).replace("'", "'\\''")
    assert browser.texts(".command code") == [f"genbatch redo '{path}' 4"]


def test_every_take_is_shown_and_can_be_picked(mixed: Path, browser: Browser) -> None:
    browser.open(mixed)
    assert browser.find(".note").text == "3 takes"
    browser.find(".tile").click()
    takes = browser.all("#takes button")
    assert [take.accessible_name for take in takes] == ["Take 1", "Take 2, picked", "Take 3"]
    assert [take.get_dom_attribute("aria-pressed") for take in takes] == ["false", "true", "false"]
    assert browser.find("#prompt").text == "prompt 0 at night"
    takes[0].click()
    assert browser.find("#prompt").text == "prompt 0"
    assert browser.focused() == "1"
    pick, redo = browser.texts(".command code")
    assert pick.startswith("genbatch pick ")
    assert pick.endswith(" 0 1")
    assert redo.endswith(" 0")


def test_the_commands_of_a_demo_say_so(tmp_path: Path, browser: Browser) -> None:
    write_gallery(fill(tmp_path, ["a"], namespace="demo"))
    browser.open(tmp_path)
    browser.find(".tile").click()
    assert browser.texts(".command code") == [f"genbatch redo {tmp_path} 0 --demo"]


def test_the_prompt_and_the_commands_can_be_copied(mixed: Path, browser: Browser) -> None:
    allowed = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    browser.command("Browser.grantPermissions", {"permissions": allowed})
    browser.open(mixed)
    browser.find(".tile").click()
    browser.find("#copy").click()
    browser.until("document.getElementById('told').textContent === 'Copied'")
    read = "return navigator.clipboard.readText()"
    assert browser.run(read) == "prompt 0 at night"
    browser.find(".command").click()
    browser.until("document.querySelector('.command span').textContent === 'Copied'")
    assert browser.run(read) == browser.texts(".command code")[0]


def test_what_cannot_be_copied_is_selected(mixed: Path, browser: Browser) -> None:
    browser.open(mixed)
    browser.run("navigator.clipboard.writeText = () => Promise.reject(new Error())")
    browser.find(".tile").click()
    browser.find("#copy").click()
    browser.until("document.getElementById('told').textContent === 'Now press Ctrl+C'")
    assert browser.run("return getSelection().toString()") == "prompt 0 at night"


def test_the_keyboard_does_it_all(mixed: Path, browser: Browser) -> None:
    browser.open(mixed)
    browser.press("/")
    assert browser.focused() == "search"
    browser.press("prompt")
    assert browser.count() == "40 of 40"
    for _ in range(8):  # over the bar, into the images
        if browser.focused() != "0":
            browser.press(Keys.TAB)
    assert browser.focused() == "0"
    browser.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert browser.focused() == "1"
    browser.press(Keys.ARROW_DOWN)
    below = int(browser.focused())
    assert below > 3
    browser.press(Keys.ARROW_UP)
    assert browser.focused() == "1"
    browser.press(Keys.ARROW_UP)
    assert browser.focused() == "1"
    browser.press(Keys.END)
    assert browser.focused() == "39"
    browser.press(Keys.ARROW_RIGHT, Keys.HOME, Keys.ENTER)
    assert browser.find("dialog").is_displayed()
    assert browser.find("#place").text == "1 of 40"
    browser.press(Keys.ARROW_LEFT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert browser.find("#place").text == "3 of 40"
    browser.press(Keys.ESCAPE)
    assert not browser.find("dialog").is_displayed()
    assert browser.focused() == "2"
    browser.press(Keys.TAB)  # one stop for all images
    assert browser.focused() not in map(str, range(40))


@pytest.mark.skipif(not PARTI.exists(), reason="PartiPrompts.tsv is not here")
def test_the_keyboard_goes_on_where_the_eye_is(parti: Path, browser: Browser) -> None:
    browser.open(parti)
    browser.run("document.querySelector('.tile').focus()")
    browser.run("scrollTo(0, 30000)")
    browser.until("!document.querySelector(`[data-at='0']`)")
    assert browser.focused() == "canvas"
    browser.press(Keys.ARROW_RIGHT)
    assert int(browser.focused()) > 100
    assert browser.run(
        "const { top, bottom } = document.activeElement.getBoundingClientRect();"
        "return top >= 0 && bottom <= innerHeight"
    )


def test_the_dialog_keeps_the_focus_and_its_buttons_turn_the_page(
    mixed: Path, browser: Browser
) -> None:
    browser.open(mixed)
    browser.find(".tile").click()
    assert browser.focused() == "close"
    inside = "return document.getElementById('box').contains(document.activeElement)"
    for _ in range(12):
        browser.press(Keys.TAB)
        assert browser.run(inside) or browser.run(
            "return document.activeElement.tagName === 'BODY'"
        )
    browser.find("#next").click()
    assert browser.find("#prompt").text == "prompt 1"
    assert browser.find("#picture strong").text == "Blocked"
    browser.find("#previous").click()
    browser.find("#previous").click()
    assert browser.find("#previous").get_dom_attribute("aria-disabled") == "true"
    assert browser.find("#prompt").text == "prompt 0 at night"
    browser.find("#close").click()
    assert browser.focused() == "0"


def test_a_matrix_is_a_table(tmp_path: Path, browser: Browser) -> None:
    browser.open(matrix(tmp_path))
    assert browser.find("#canvas").aria_role == "list"  # until it is asked for
    show_table(browser)
    assert browser.find("#canvas").aria_role == "table"
    heads = browser.texts("[role=columnheader]")
    assert heads == ["Animal ↓ Style →", "ink", "oil"]
    assert browser.texts("[role=rowheader]") == ["cat", "dog", "owl"]
    cells = [image.get_dom_attribute("alt") for image in browser.all("[role=cell] img")]
    pairs = itertools.product(["cat", "dog", "owl"], ["ink", "oil"])
    assert cells == [f"a {animal} in {style}, 0" for animal, style in pairs]
    browser.choose("Columns", "Animal")
    browser.choose("Rows", "Style")
    assert browser.texts("[role=rowheader]") == ["ink", "oil"]
    browser.choose("animal", "dog")
    assert browser.texts("[role=columnheader]")[1:] == ["dog"]
    browser.find("#filters input").click()
    assert browser.texts(".caption") == ["a dog in ink, 0", "a dog in oil, 0"]


def test_the_heads_of_a_table_stay_while_it_scrolls(tmp_path: Path, browser: Browser) -> None:
    browser.resize(390, 500)
    browser.open(matrix(tmp_path))
    show_table(browser)
    where = (
        "return ['.head', '.row .label'].map((s) => document.querySelector(s))"
        ".map((e) => e.getBoundingClientRect()).map(({ top, left }) => [top, left])"
    )
    (top, _), (_, left) = browser.run(where)
    browser.run("document.getElementById('scroller').scrollBy(60, 200)")
    (scrolled_top, _), (_, scrolled_left) = browser.run(where)
    assert (scrolled_top, scrolled_left) == (top, left)
    assert browser.run("return document.getElementById('scroller').scrollTop") > 0


def test_a_crowded_cell_hides_nothing(tmp_path: Path, browser: Browser) -> None:
    browser.open(matrix(tmp_path, further=70))
    show_table(browser)
    for scrolled in range(9):
        browser.run(f"document.getElementById('scroller').scrollTo(0, {scrolled} * 600); draw()")
        assert len(browser.all(".tile")) <= 6 * 70
    tiles = "rows.flatMap(({ cells }) => cells.flatMap(({ tiles }) => tiles.map(({ at }) => at)))"
    assert browser.run(f"return {tiles}") == list(range(6 * 70))
    browser.run("document.getElementById('scroller').scrollTo(0, 0); draw()")
    browser.all(".tile")[3].click()
    for expected in ("a cat in ink, 3", "a cat in ink, 4"):
        assert browser.find("#prompt").text == expected
        browser.press(Keys.ARROW_RIGHT)
    browser.press(Keys.ESCAPE)
    assert browser.focused() == "5"


def test_a_table_is_as_wide_as_the_window_and_has_what_has_no_value(
    tmp_path: Path, browser: Browser
) -> None:
    folder = matrix(tmp_path)
    prompts = [Prompt(row["prompt"], metadata=row["metadata"]) for row in export(folder)]
    write_gallery(fill(folder, [*prompts, "of neither"], shaped))
    browser.open(folder)
    show_table(browser)
    assert browser.texts("[role=columnheader]")[1:] == ["ink", "oil", "—"]
    assert browser.texts("[role=rowheader]") == ["cat", "dog", "owl", "—"]
    assert len(browser.all(".tile")) == 7
    right = "return document.querySelector('.head').lastChild.getBoundingClientRect().right"
    assert 1280 - browser.run(right) < 60


def test_hostile_text_is_text(tmp_path: Path, browser: Browser) -> None:
    prompts = [
        Prompt(HOSTILE, id=HOSTILE, metadata={HOSTILE: HOSTILE, "x": n % 2, "__proto__": "p"})
        for n in range(4)
    ]
    seen = HOSTILE.replace("\ud800", "\ufffd")
    write_gallery(fill(tmp_path, prompts, lambda n: Blocked(seen) if n == 1 else shaped(n)))
    browser.open(tmp_path)
    assert browser.texts(".caption") == [seen] * 4
    browser.all(".tile")[1].click()
    assert browser.driver.title == tmp_path.name
    assert not browser.all("#panel script, #panel img, .tile b")
    for selector in ("#prompt", "dd", "#picture span"):
        assert browser.texts(selector)[0] == seen
    details = dict(zip(browser.texts("dt"), browser.texts("dd"), strict=True))
    assert details[seen] == seen
    assert "p" in details.values()


TRY = """
const found = [];
const note = ({ effectiveDirective }) => found.push(effectiveDirective);
document.addEventListener("securitypolicyviolation", note);
const add = (tag, values) =>
  document.body.append(Object.assign(document.createElement(tag), values));
for (const attempt of [
  () => (document.body.innerHTML += "<b>markup</b>"),
  () => document.body.setAttribute("onclick", "document.title = 'run'"),
  () => add("script", { textContent: "document.title = 'run'" }),
  () => add("style", { textContent: "body { color: red }" }),
  () => document.body.setAttribute("style", "color: red"),
  () => add("img", { src: `${arguments[0]}a.png` }),
  () => fetch(arguments[0]).catch(() => {}),
]) {
  try {
    attempt();
  } catch (error) {
    found.push(error.name);
  }
}
document.body.click();
return new Promise((done) => setTimeout(() => done(found), 200));
"""


def test_the_policy_refuses_scripts_markup_and_the_network(
    tmp_path: Path, driver: webdriver.Chrome
) -> None:
    browser = Browser(driver)
    write_gallery(fill(tmp_path, ["a"]))
    browser.open(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        refused = browser.run(TRY, f"http://127.0.0.1:{server.getsockname()[1]}/")
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody has called
            server.accept()
    assert set(refused) == {
        "TypeError",
        "require-trusted-types-for",
        "style-src-elem",
        "style-src-attr",
        "img-src",
        "connect-src",
    }
    assert driver.title == tmp_path.name
    assert browser.run("return getComputedStyle(document.body).color") != "rgb(255, 0, 0)"


NAMES = ["a b.png", "50%25.png", "ünï-日本.png", "q#1.png", "x?y=1&z\"'<b>.png"]


def test_names_of_files_may_be_anything(tmp_path: Path, browser: Browser) -> None:
    folder = fill(tmp_path / "a folder % # ? é", map(str, range(5)), shaped)
    for row, name in zip(export(folder), NAMES, strict=True):
        (folder / row["file"]).rename(folder / name)
        with opened(folder) as archive, archive.journal.writing() as journal:
            journal.execute("UPDATE image SET file = ? WHERE file = ?", (name, row["file"]))
    write_gallery(folder)
    shutil.rmtree(folder / ".genbatch" / "thumbs")  # as in a copy without hidden files
    browser.open(folder)
    browser.until("[...document.querySelectorAll('.tile img')].every((i) => i.naturalWidth)")
    assert len(browser.all(".tile img")) == 5
    browser.all(".tile")[3].click()
    assert browser.find("dd a").text == "q#1.png"
    browser.driver.get_log("browser")  # that thumbnails are not found


def test_a_file_that_cannot_be_shown_says_why(tmp_path: Path, browser: Browser) -> None:
    fill(tmp_path, ["a", "b"], lambda n: b"no image" if n else shaped(n))
    write_gallery(tmp_path)
    browser.open(tmp_path)
    assert browser.texts(".tile .bad") == ["Cannot be showncannot be shown: it is not an image"]
    browser.all(".tile")[1].click()
    assert browser.find("#picture").text.startswith("Cannot be shown")


@pytest.mark.parametrize("width", [320, 390, 768, 1280, 2560])
def test_no_width_makes_the_page_scroll_sideways(mixed: Path, browser: Browser, width: int) -> None:
    browser.resize(width, 844)
    browser.open(mixed)
    wide = "return [document.documentElement.scrollWidth, innerWidth]"
    assert browser.run(wide)[0] <= width
    right = browser.run(
        "return Math.max(...[...document.querySelectorAll('.tile')]"
        ".map((tile) => tile.getBoundingClientRect().right))"
    )
    assert right <= width
    browser.find(".tile").click()
    assert (
        browser.run("const box = document.getElementById('box'); return box.scrollWidth") <= width
    )


@pytest.mark.skipif(not PARTI.exists(), reason="PartiPrompts.tsv is not here")
def test_a_window_of_another_width_shows_the_same_images(parti: Path, browser: Browser) -> None:
    browser.open(parti)
    browser.run("scrollTo(0, 20000)")
    browser.until("!document.querySelector(`[data-at='0']`)")
    seen = browser.run(FIRST_IN_VIEW)
    browser.resize(390, 844)
    browser.until(
        "Math.max(...[...document.querySelectorAll('.tile')]"
        ".map((tile) => tile.getBoundingClientRect().right)) <= 390"
    )
    assert abs(browser.run(FIRST_IN_VIEW) - seen) < 3


@pytest.mark.skipif(not PARTI.exists(), reason="PartiPrompts.tsv is not here")
def test_what_is_found_is_in_view(parti: Path, browser: Browser) -> None:
    browser.open(parti)
    browser.run("scrollTo(0, 20000)")
    browser.search("the")
    browser.until("document.querySelector(`[data-at='0']`)")
    assert browser.run(FIRST_IN_VIEW) == 0
    assert browser.run("return scrollY") > 0  # the bar stays where it was


FIRST_IN_VIEW = """
const { bottom } = document.getElementById("bar").getBoundingClientRect();
const tiles = [...document.querySelectorAll(".tile")];
return Number(tiles.find((tile) => tile.getBoundingClientRect().bottom > bottom).dataset.at);
"""

LUMINANCE = """
const [element, side] = arguments;
const canvas = new OffscreenCanvas(1, 1).getContext("2d");
canvas.fillStyle = getComputedStyle(document.querySelector(element))[side];
canvas.fillRect(0, 0, 1, 1);
const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((byte) => {
  const share = byte / 255;
  return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
});
return 0.2126 * r + 0.7152 * g + 0.0722 * b;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(mixed: Path, browser: Browser, scheme: str) -> None:
    browser.wear(scheme)
    browser.open(mixed)
    ground = browser.run(LUMINANCE, ":root", "backgroundColor")
    assert (ground > 0.5) == (scheme == "light")
    for element, behind in {
        "h1": ":root",
        "#summary": ":root",
        ".caption": ":root",
        "#count": "#bar",
        "#search": "#search",
        ".bad": ".bad",
        ".absent:not(.bad)": ".absent:not(.bad)",
    }.items():
        ink = browser.run(LUMINANCE, element, "color")
        paper = browser.run(LUMINANCE, behind, "backgroundColor")
        brighter, darker = max(ink, paper), min(ink, paper)
        assert (brighter + 0.05) / (darker + 0.05) >= 4.5, element


def test_what_is_used_has_a_name_and_images_tell_their_prompts(
    mixed: Path, browser: Browser
) -> None:
    browser.open(mixed)
    used = [each for each in browser.all("#bar input, #bar select, .tile") if each.is_displayed()]
    assert len(used) > len(browser.all(".tile"))
    for element in used:
        assert element.accessible_name
    assert browser.find(".tile").accessible_name.startswith("prompt 0 at night")
    browser.find(".tile").click()
    assert browser.find("dialog").accessible_name == "prompt 0 at night"
    for element in browser.all("dialog button"):
        assert element.accessible_name


def test_the_focus_can_be_seen(mixed: Path, browser: Browser) -> None:
    browser.open(mixed)
    browser.press(Keys.TAB)
    style = "getComputedStyle(document.activeElement)"
    assert browser.focused() == "search"
    assert browser.run(f"return {style}.outlineStyle") == "solid"
    assert browser.run(f"return {style}.outlineWidth") == "2px"


def test_a_swipe_turns_the_page(mixed: Path, browser: Browser) -> None:
    browser.resize(390, 844)
    browser.open(mixed)
    browser.find(".tile").click()
    swipe = """
        const stage = document.getElementById("stage");
        for (const [kind, clientX] of [["touchstart", arguments[0]], ["touchend", arguments[1]]]) {
          const touch = new Touch({ identifier: 1, target: stage, clientX });
          stage.dispatchEvent(
            new TouchEvent(kind, { touches: [touch], changedTouches: [touch] }),
          );
        }
    """
    browser.run(swipe, 300, 100)
    assert browser.find("#place").text == "2 of 40"
    browser.run(swipe, 100, 300)
    assert browser.find("#place").text == "1 of 40"
    browser.run(swipe, 100, 120)
    assert browser.find("#place").text == "1 of 40"
