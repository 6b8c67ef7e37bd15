"""The live page as it is seen and used, in Chromium, from a server of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from genbatch import Blocked, Prompt, Unavailable
from genbatch._store import (
    Choice,
    choices,
    choose,
    export,
    move_redo,
    open_redos,
    parse_choices,
    queue_redo,
)
from genbatch.gallery import write_gallery
from genbatch.view import serving
from support.chromium import Browser
from support.folders import add_take, fill, picture
from support.markup import MARKUP, RUN

pytestmark = pytest.mark.browser

SHAPES = [(48, 48), (64, 36), (36, 64)]


def shaped(number: int) -> bytes:
    return picture(number, SHAPES[number % 3])


@contextmanager
def shown(folder: Path, browser: Browser) -> Iterator[None]:
    """Show the page of a folder."""
    with serving(folder) as server:
        browser.driver.get(server.url)
        yield
        browser.driver.get("about:blank")  # no image is asked for when the server is gone


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve prompts, of which the first has three takes."""
    folder = fill(tmp_path / "out", [f"prompt {n}" for n in range(12)], shaped)
    add_take(folder, 0, picture(900))
    add_take(folder, 0, picture(901))
    return folder


def files_of(folder: Path) -> list[str]:
    return [row["file"] for row in export(folder)]


def focus(browser: Browser, at: int) -> None:
    browser.run(f"document.querySelector(`[data-at='{at}']`).focus()")


def is_saved(browser: Browser) -> None:
    browser.until("unsaved.size === 0 && !isSending")


def test_the_token_leaves_the_address_and_the_cookie_opens_it_again(
    folder: Path, live: Browser
) -> None:
    with shown(folder, live):
        live.until("location.search === ''")
        live.driver.refresh()
        assert live.count() == "12 of 12"
        assert live.run("return document.cookie") == ""


def test_images_appear_as_they_are_saved(tmp_path: Path, live: Browser) -> None:
    folder = tmp_path / "out"
    prompts = [Prompt(f"prompt {n}", metadata={"x": n % 2}) for n in range(6)]
    with serving(folder, state=lambda: {"figures": ["2/6", "1 in flight"]}) as server:
        live.driver.get(server.url)
        assert live.find("#notice").text.startswith("No image yet")
        fill(folder, prompts, lambda n: None)
        live.until("document.querySelectorAll('.tile').length === 6")
        assert live.texts(".tile strong") == ["To do"] * 6
        live.run("document.querySelector(`[data-at='1']`).focus()")
        fill(folder, prompts, lambda n: Unavailable("503") if n > 1 else shaped(n))
        live.until("document.querySelectorAll('.tile img').length === 2")
        assert live.focused() == "1"
        assert live.find("#summary").text == "2/6 · 1 in flight · failed: 4 Unavailable"
        live.choose("x", "1")
        fill(folder, prompts, shaped)
        live.until("document.querySelectorAll('.tile img').length === 3")
        assert live.count() == "3 of 6"
        live.choose("x", "X")
        live.until("[...document.querySelectorAll('.tile img')].every((it) => it.naturalWidth)")
        assert len(live.all(".tile img")) == 6
    live.until("page.ended")
    again = f"The run has ended. To look at the images again: genbatch view {folder}"
    assert live.find("#notice").text == again


def test_an_open_image_stays_while_others_come(folder: Path, live: Browser) -> None:
    with shown(folder, live):
        live.all(".tile")[3].click()
        live.find("#note").send_keys("unfinished")
        new = [f"prompt {n}" for n in range(40)]
        fill(folder, new, shaped)
        live.until("items.length === 40")
        assert live.find("#prompt").text == "prompt 3"
        assert live.find("#place").text == "4 of 40"
        assert live.find("#note").get_property("value") == "unfinished"
        live.press(Keys.ESCAPE)
        live.until("document.activeElement.dataset.at === '3'")
        live.until("[...document.querySelectorAll('.tile img')].every((it) => it.complete)")


def test_the_keyboard_chooses_and_moves_on(folder: Path, live: Browser) -> None:
    files = files_of(folder)
    with shown(folder, live):
        focus(live, 0)
        live.press("k", "x", "4", "k")
        assert live.focused() == "4"
        assert live.find("#kept").text == "2 of 12 kept, 1 rejected"
        live.press(Keys.ENTER, "k", "5", Keys.ARROW_LEFT, "u")
        assert live.find("#prompt").text == "prompt 5"  # whose stars were undone
        is_saved(live)
        expected = {
            files[0]: Choice("keep"),
            files[1]: Choice("reject"),
            files[2]: Choice(stars=4),
            files[3]: Choice("keep"),
            files[4]: Choice("keep"),
        }
        assert choices(folder) == expected
        live.driver.refresh()
        assert live.find("#kept").text == "3 of 12 kept, 1 rejected"
        live.choose("Choice", "Kept")
        assert live.texts(".caption") == ["prompt 0", "prompt 3", "prompt 4"]
        live.choose("Choice", "★★★★ or more")
        assert live.texts(".caption") == ["prompt 2"]
        live.choose("Choice", "Choice")
        live.choose("Order", "Best first")
        assert live.texts(".caption")[0] == "prompt 2"
        assert live.texts(".caption")[-1] == "prompt 1"


def test_a_second_page_sees_what_is_chosen(folder: Path, live: Browser) -> None:
    first, *_ = files_of(folder)
    with shown(folder, live):
        live.until("source.readyState === 1")
        choose(folder, {first: Choice("keep", 3, "seen")})
        live.until("document.querySelector('.kept .sign')?.textContent === '✓ ★★★'")
        live.find(".tile").click()
        assert live.find("#note").get_property("value") == "seen"


def test_a_take_is_picked(folder: Path, live: Browser) -> None:
    with shown(folder, live):
        live.find(".tile").click()
        live.all("#takes button")[2].click()
        button = live.find("#commands button")
        assert button.text == "Pick take 3"
        button.click()
        live.until("document.querySelectorAll('#takes button')[2].textContent === '3 ✓'")
    assert next(export(folder))["take"] == 3


def test_what_is_chosen_while_the_server_is_gone_is_kept(folder: Path, live: Browser) -> None:
    first, *_ = files_of(folder)
    with shown(folder, live):
        live.run("globalThis.fetched = fetch; fetch = () => Promise.reject(new Error('gone'))")
        focus(live, 0)
        live.press("k")
        live.until("document.getElementById('notice').textContent.endsWith('here for now: gone')")
        assert choices(folder) == {}
        live.run("fetch = fetched")
        is_saved(live)
        assert choices(folder) == {first: Choice("keep")}
        assert live.find("#notice").text == ""


TRANSFORMS = "return pictures().map(({ style }) => style.transform)"


def test_takes_are_compared_side_by_side(folder: Path, live: Browser) -> None:
    with shown(folder, live):
        live.find(".tile").click()
        live.press(" ")
        assert live.texts("#panes figcaption") == ["Take 1", "Take 2", "Take 3"]
        live.until("pictures().every((it) => it.naturalWidth)")
        live.press("z")
        assert live.run(TRANSFORMS) == ["translate(0%, 0%) scale(2)"] * 3
        live.run("zoomAt(4, 0.1, 0.2)")
        assert len(set(live.run(TRANSFORMS))) == 1
        live.press(Keys.ARROW_RIGHT, "k", Keys.ARROW_RIGHT, "x")
        is_saved(live)
        verdicts = [choice.verdict for choice in choices(folder).values()]
        assert verdicts == ["keep", "reject"]
        live.press(Keys.ESCAPE)
        assert live.find("dialog").is_displayed()
        assert not live.find("#panes").is_displayed()
        assert live.run(TRANSFORMS) == [""]


def test_marked_images_are_compared(folder: Path, live: Browser) -> None:
    with shown(folder, live):
        focus(live, 2)
        live.press(" ", Keys.ARROW_RIGHT, " ", Keys.ARROW_RIGHT, " ", " ")
        assert not live.find("dialog").is_displayed()
        assert live.find("#compare").text == "Compare 2"
        live.find("#compare").click()
        assert live.texts("#panes figcaption") == ["Prompt 2", "Prompt 3"]
        live.press(" ", Keys.ESCAPE)
        assert not live.find("#compare").is_displayed()


def test_an_edit_is_compared_with_its_input_image(tmp_path: Path, live: Browser) -> None:
    (tmp_path / "in.png").write_bytes(picture(5, (50, 40)))
    fill(tmp_path / "out", [Prompt("a", images=(str(tmp_path / "in.png"),))], shaped)
    with shown(tmp_path / "out", live):
        live.find(".tile").click()
        live.press(" ")
        assert live.texts("#panes figcaption") == ["Before", "After"]
        live.until("pictures()[0].naturalWidth === 50")


def test_one_number_is_everywhere(folder: Path, live: Browser) -> None:
    with shown(folder, live):
        assert live.texts(".number") == [str(n) for n in range(12)]
        live.search("prompt 7")
        assert live.texts(".number") == ["7"]
        live.find(".tile").click()
        assert live.find("#number").text == "Prompt 7"
        assert live.texts(".command code") == [f"genbatch redo {folder} 7"]
        assert live.find("dd a").text.startswith("0007-")


def test_markup_is_text(tmp_path: Path, live: Browser) -> None:
    prompts = [
        Prompt(text, id=text, metadata={text: text, "x": n % 2}) for n, text in enumerate(MARKUP)
    ]
    folder = fill(tmp_path / "<img src=x onerror=alert(1)>", prompts, shaped)
    fill(folder, prompts, lambda n: Blocked(MARKUP[n]))
    files = files_of(folder)
    choose(folder, {file: Choice(note=text) for file, text in zip(files, MARKUP, strict=True)})
    for text in MARKUP:  # as services and prompts may have it
        queue_redo(folder, text, {"index": 0})
        move_redo(folder, open_redos(folder)[-1], "failed", said=text)
    with shown(folder, live):
        assert live.count() == "50 of 50"
        assert len(live.all("#queue > p")) == len(live.all("#queue button")) == 50
        assert len(live.all("#queue *")) == 100
        live.find(".tile").click()
        for _ in MARKUP:
            live.press(Keys.ARROW_RIGHT)
        assert live.driver.title == folder.name
        assert not live.all("#panel script, #panel img:not(.face), svg[onload]")
        add = "const it = document.createElement('script'); it.textContent = arguments[0];"
        with pytest.raises(Exception, match="Trusted"):
            live.run(f"{add} document.body.append(it)", RUN)
        assert live.driver.title == folder.name
        live.driver.get_log("browser")  # that the policy has refused it


@pytest.mark.parametrize("width", [320, 390, 768, 1280, 2560])
def test_no_width_makes_the_page_scroll_sideways(folder: Path, live: Browser, width: int) -> None:
    live.resize(width, 844)
    with shown(folder, live):
        focus(live, 0)
        live.press("k", "x", " ", Keys.ARROW_RIGHT, " ")
        wide = "return document.documentElement.scrollWidth"
        assert live.run(wide) <= width
        live.find("#compare").click()
        assert live.run("return document.getElementById('box').scrollWidth") <= width


def test_choices_of_a_shared_page_come_back_as_text(folder: Path, browser: Browser) -> None:
    first, second, third, *_ = files_of(folder)
    choose(folder, {third: Choice("keep")})
    write_gallery(folder)
    allowed = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    browser.command("Browser.grantPermissions", {"permissions": allowed})
    browser.open(folder)
    browser.run("document.querySelector('.tile').focus()")
    browser.press("k", "3", "x")
    browser.press(Keys.ENTER)
    browser.find("#note").send_keys("no: blurred", Keys.ENTER)
    browser.press(Keys.ESCAPE)
    browser.open(folder)  # another time
    assert browser.find("#kept").text == "1 of 12 kept, 1 rejected"
    browser.find("#copy-choices").click()
    browser.until("document.getElementById('copy-choices').textContent === 'Copied'")
    text = browser.run("return navigator.clipboard.readText()")
    assert text.startswith(f"# genbatch keep {folder} --from -\n")
    files = set(files_of(folder))
    chosen = parse_choices(text.splitlines(), files)
    assert chosen[first] == Choice("keep")
    assert chosen[second] == Choice(stars=3)
    assert chosen[third] == Choice("reject")
    assert Choice(note="no: blurred") in chosen.values()
    browser.run("localStorage.clear()")


def test_what_else_a_browser_keeps_harms_no_page(folder: Path, browser: Browser) -> None:
    write_gallery(folder)
    for kept in ("{", "null", '{"x": 1}', f'{{"{files_of(folder)[0]}": {{"verdict": "<b>"}}}}'):
        browser.open(folder)
        browser.run("localStorage.setItem(STORED, arguments[0])", kept)
        browser.open(folder)
        assert browser.count() == "12 of 12"
        assert browser.find("#kept").text == ""
    browser.run("localStorage.clear()")
