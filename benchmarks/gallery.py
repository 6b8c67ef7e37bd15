"""The gallery: thumbnails a second, and how soon many images are seen, scrolled and searched.

Run ``python -m benchmarks.gallery``. It makes images of the size that models send and reduces them,
then folders of 10,000 small images and of 100,000 prompts, and looks at their pages, from the disk
and as ``genbatch view`` serves them, in a headless Chromium. That needs selenium, chromium and
chromedriver; without them only the thumbnails are measured.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import io
import os
import random
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from PIL import Image

from genbatch import ImageRequest
from genbatch._store._archive import Archive
from genbatch._store._keys import digests_of_texts
from genbatch._store._plan import PlanRequest, Policy
from genbatch.gallery import write_gallery
from genbatch.view import serving

KINDS = (("PNG", 1024), ("PNG", 2048), ("JPEG", 1024), ("JPEG", 2048))
WORDS = (
    "corgi raincoat lighthouse dusk harbour pizza teapot robot meadow comet fjord violin".split()
)
TYPED = "corgi in a raincoat"
LOADS = 3

_SEEN = """
const inView = ({ top, bottom }) => bottom > 0 && top < innerHeight;
const images = [...document.querySelectorAll(".tile img")];
const seen = images.filter((image) => inView(image.getBoundingClientRect()));
return seen.length > 0 && seen.every(({ naturalWidth }) => naturalWidth) ? performance.now() : 0;
"""
_TIMES = """
const [{ startTime: first }] = performance.getEntriesByName("first-contentful-paint");
return new Promise((done) =>
  new PerformanceObserver((list) =>
    done({
      first,
      largest: list.getEntries().at(-1).startTime,
    }),
  ).observe({ type: "largest-contentful-paint", buffered: true }),
);
"""
_SEARCH = """
const box = document.getElementById("search");
box.value = arguments[0];
const began = performance.now();
box.dispatchEvent(new Event("input"));
document.body.offsetHeight;  // its layout too
return performance.now() - began;
"""
_SCROLL = """
const [pixels, seconds, done] = arguments;
const gaps = [];
let [began, last] = [];
const step = (now) => {
  if (last) gaps.push(now - last);
  [began, last] = [began ?? now, now];
  if (now - began > 1000 * seconds) return done(gaps);
  scrollTo(0, pixels * (now - began) / 1000);
  requestAnimationFrame(step);
};
requestAnimationFrame(step);
"""
PIXELS, SECONDS = 10_000, 10  # scrolled in a second, and for so long


def photo(size: int, kind: str, choose: random.Random) -> bytes:
    """Return an image of size by size pixels that compresses about as a photograph does."""
    coarse = Image.frombytes("RGB", (48, 48), choose.randbytes(48 * 48 * 3))
    smooth = coarse.resize((size, size), Image.Resampling.BICUBIC)
    grain = Image.effect_noise((size, size), 12).convert("RGB")
    file = io.BytesIO()
    Image.blend(smooth, grain, 0.15).save(file, kind, quality=90, compress_level=3)
    return file.getvalue()


def dot(number: int) -> bytes:
    """Return a small image like no other of another number."""
    image = Image.new("RGB", (96, 96), (number * 37 % 256, number * 91 % 256, number % 256))
    image.putpixel((0, 0), (number % 256, number >> 8 & 255, number >> 16))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def fill(folder: Path, prompts: int, images: int, draw: Callable[[int], bytes]) -> None:
    """Plan prompts in a folder and note the images of the first of them, in one transaction."""
    archive = Archive(Policy(folder), fresh=True)
    try:
        batch = archive.begin_batch("")
        wanted = []
        for number in range(prompts):
            words = random.Random(number).sample(WORDS, 5)
            about = {"animal": words[0], "style": words[1]}
            prompt = ImageRequest(f"a {' and a '.join(words)}, number {number}", metadata=about)
            wanted.append(PlanRequest.of(number, prompt, digests_of_texts("", prompt)(prompt.text)))
        archive.plan(batch, "", wanted, {}, 0)
        archive.end_batch(batch, {}, whole=True)
        with archive.journal.writing() as journal:
            for number, each in enumerate(wanted[:images]):
                assert each.plan is not None
                data = draw(number)
                file = f"{each.plan.stem}.png"
                (folder / file).write_bytes(data)
                digest = hashlib.sha256(data).hexdigest()
                about = {"mime_type": "image/png", "model": "flash", "cost": 0.03, "elapsed": 7.0}
                size = len(data)
                journal.add_image(each.plan.item, 1, file=file, sha256=digest, bytes=size, **about)
    finally:
        archive.close()


def measure_thumbs(place: Path, number: int) -> None:
    """Print how many thumbnails a second are made."""
    for kind, size in KINDS:
        choose = random.Random(size)
        pool = [photo(size, kind, choose) for _ in range(8)]
        folder = place / f"{kind}-{size}"
        # What follows the end of an image is skipped: the same pixels, another content.
        fill(folder, number, number, lambda n: pool[n % 8] + n.to_bytes(4))  # noqa: B023
        began = perf_counter()
        write_gallery(folder)
        seconds = perf_counter() - began
        began = perf_counter()
        write_gallery(folder)
        again = perf_counter() - began
        mb = sum(map(len, pool)) / 8e6
        print(
            f"{number} {kind} of {size} x {size}, {mb:.1f} MB each: {number / seconds:.0f} "
            f"thumbnails/s; again, with none to make: {1000 * again:.0f} ms"
        )
        shutil.rmtree(folder)


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a headless Chromium of this machine with a window of 1280 by 800."""
    from selenium import webdriver

    os.environ["SE_OFFLINE"] = "true"  # nothing is downloaded
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.add_argument("--window-size=1280,800")
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def measure_page(place: Path, prompts: int, images: int) -> None:
    """Print how soon a page is seen, and how long a search takes, in a new browser each time."""
    folder = place / f"{prompts}"
    fill(folder, prompts, images, dot)
    write_gallery(folder)
    began = perf_counter()
    page = write_gallery(folder)
    seconds = perf_counter() - began
    mb = page.stat().st_size / 1e6
    print(f"{prompts:,} prompts, {images:,} images: {mb:.1f} MB, written in {seconds:.2f} s")
    print_loads([look(page.absolute().as_uri()) for _ in range(LOADS)])
    with serving(folder) as server:
        print("the same as genbatch view serves it")
        print_loads([look(server.url) for _ in range(LOADS)])
    shutil.rmtree(folder)


def print_loads(loads: list[dict[str, float]]) -> None:
    """Print what was measured."""
    for name, meaning in MEANING.items():
        values = [load[name] for load in loads]
        most = f"{min(values):.0f} to {max(values):.0f}"
        print(f"  {meaning}: {statistics.median(values):.0f} {UNITS.get(name, 'ms')}, {most}")


UNITS = {"heap": "MB", "later": "MB", "rate": "frames/s"}
MEANING = {
    "first": "first contentful paint",
    "largest": "largest contentful paint",
    "seen": "all images in the window are there",
    "search": "slowest of a search typed letter by letter, with its layout",
    "rate": "scrolling",
    "slow": "longest of 95 % of the frames",
    "heap": "JavaScript heap",
    "later": "the same after scrolling",
}


def look(url: str) -> dict[str, float]:
    """Load a page in a new browser and return what was measured."""
    with chromium() as driver:
        driver.set_script_timeout(10 * SECONDS)
        driver.get(url)
        while not (seen := driver.execute_script(_SEEN)):
            pass
        found: dict[str, float] = driver.execute_script(_TIMES)
        typed = [TYPED[: length + 1] for length in range(len(TYPED))]
        search = max(driver.execute_script(_SEARCH, text) for text in typed)
        found |= {"seen": seen, "search": search, "heap": heap_of(driver)}
        driver.execute_script(_SEARCH, "")
        gaps = sorted(driver.execute_async_script(_SCROLL, PIXELS, SECONDS))
        rate, slow = 1000 * len(gaps) / sum(gaps), gaps[int(0.95 * len(gaps))]
        return found | {"rate": rate, "slow": slow, "later": heap_of(driver)}


def heap_of(driver: Any) -> float:
    """Return the megabytes of JavaScript that are in use."""
    driver.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
    return float(driver.execute_script("return performance.memory.usedJSHeapSize / 1e6"))


def main() -> None:
    """Measure what this machine can measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gallery", description=__doc__)
    parser.add_argument("--thumbs", type=int, default=200, metavar="N", help="of each kind")
    parser.add_argument("--images", type=int, default=10_000, metavar="N")
    parser.add_argument("--prompts", type=int, default=100_000, metavar="N")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        if options.thumbs:
            measure_thumbs(Path(directory), options.thumbs)
        programs = all(map(shutil.which, ("chromium", "chromedriver")))
        if not programs or importlib.util.find_spec("selenium") is None:
            print("no pages were looked at: that needs selenium, chromium and chromedriver")
            return
        measure_page(Path(directory), options.images, options.images)
        measure_page(Path(directory), options.prompts, options.images)


if __name__ == "__main__":
    main()
