// Comparing up to four images side by side, zoomed and moved as one

const MOST_PANES = 4;
const MOST_ZOOM = 16;
let marked = []; // items that Space has marked among the tiles
let panes = []; // of the comparison: a title, a picture and its source, an item and its take
let zoom = { scale: 1, x: 0, y: 0 }; // x and y in parts of the picture

function compareOrMark() {
  if (panes.length) return endComparing();
  if (box.open) return compare(panesOf(viewed));
  const item = shown[current];
  if (!takeOf(item)?.size) return;
  const others = marked.filter((each) => each !== item);
  marked = others.length < marked.length ? others : [...marked, item].slice(-MOST_PANES);
  tellMarked();
}

function tellMarked() {
  for (const tile of canvas.querySelectorAll(".tile")) markChoice(tile, shown[tile.dataset.at]);
  $("compare").hidden = marked.length < 2;
  $("compare").textContent = `Compare ${marked.length}`;
}

const paneOf = (item, take, title) => ({ item, take, title, source: urlOf(take.file) });

// What an image is best compared with: what it was made from, its other takes, or the next ones.
function panesOf({ item, take }) {
  const inputs = (item.inputs ?? []).map((number) => ({
    title: "Before", source: `input/${item.key}/${number}`,
  }));
  const others = (item.takes ?? []).map((each) => paneOf(item, each, `Take ${each.take}`));
  if (inputs.length && others.length === 1) others[0].title = "After";
  const found = [...inputs.slice(0, 1), ...others].slice(0, MOST_PANES);
  if (found.length > 1 || !take) return found;
  const next = shown.slice(current + 1).find((each) => takeOf(each)?.size);
  return [item, next].filter(Boolean).map(paneOfItem);
}

const paneOfItem = (item) => paneOf(item, takeOf(item), `Prompt ${item.index ?? "superseded"}`);

function compare(found) {
  if (found.length < 2) return;
  resetZoom();
  panes = found;
  for (const pane of panes) {
    pane.picture = make("img", { src: pane.source, alt: pane.title, draggable: false });
    const title = make("figcaption", { textContent: pane.title });
    pane.element = make("figure", {}, pane.picture, title);
    pane.element.onclick = () => enter(panes.indexOf(pane));
  }
  $("panes").replaceChildren(...panes.map(({ element }) => element));
  $("panes").dataset.count = panes.length;
  $("panes").hidden = false;
  for (const id of ["picture", "previous", "next"]) $(id).hidden = true;
  const at = panes.findIndex(({ take }) => take && take === viewed.take);
  enter(at < 0 ? panes.findLastIndex(({ take }) => take) : at);
}

// Make a pane the one that keys speak of.
function enter(number) {
  const pane = panes[number];
  if (!pane?.take) return;
  panes.forEach(({ element }, n) => (element.ariaCurrent = n === number));
  const at = shown.indexOf(pane.item);
  if (at >= 0) current = at;
  tell(pane.item, pane.take);
}

function compareFrom(step) {
  const at = panes.findIndex(({ element }) => element.ariaCurrent === "true");
  const next = [...panes.keys()].filter((n) => panes[n].take && (n - at) * step > 0);
  enter(step > 0 ? next[0] : next.at(-1));
}

function endComparing() {
  if (!panes.length) return;
  panes = [];
  if (marked.length) {
    marked = [];
    tellMarked();
  }
  $("panes").hidden = true;
  for (const id of ["picture", "previous", "next"]) $(id).hidden = false;
  resetZoom();
  tell(viewed.item, viewed.take);
  show(viewed.item, viewed.take);
}

// Zooming

const pictures = () => (panes.length ? panes.map(({ picture }) => picture) : [$("picture")]);

function zoomTo(scale, x, y) {
  const most = (scale - 1) / 2; // so that no picture is moved out of its place
  const within = (part) => Math.min(most, Math.max(-most, part));
  zoom = { scale, x: within(x), y: within(y) };
  for (const picture of pictures()) {
    const { style } = picture;
    style.transform =
      scale === 1 ? "" : `translate(${100 * zoom.x}%, ${100 * zoom.y}%) scale(${scale})`;
  }
  $("stage").classList.toggle("zoomed", scale > 1);
}

function resetZoom() {
  zoomTo(1, 0, 0);
}

// One pixel of the image on one of the screen, or where the image is small, twice its size.
function zoomToPixels(x = 0, y = 0) {
  if (zoom.scale > 1) return resetZoom();
  const [{ naturalWidth, clientWidth }] = pictures();
  const scale = naturalWidth / clientWidth / devicePixelRatio;
  zoomAt(Math.min(MOST_ZOOM, scale > 1.05 ? scale : 2), x, y);
}

// Zoom, and leave what is at a place, in parts of the picture from its middle, where it is.
function zoomAt(scale, x, y) {
  const factor = scale / zoom.scale;
  zoomTo(scale, x - (x - zoom.x) * factor, y - (y - zoom.y) * factor);
}

function placeOf({ target, clientX, clientY }) {
  const picture = pictures().find((each) => each === target) ?? pictures()[0];
  const { left, top, width, height } = picture.getBoundingClientRect();
  const part = zoom.scale; // of the zoomed picture, whose middle has moved
  return [
    ((clientX - left) / width - 0.5) * part + zoom.x,
    ((clientY - top) / height - 0.5) * part + zoom.y,
  ];
}

$("stage").addEventListener("wheel", (event) => {
  event.preventDefault();
  const scale = Math.min(MOST_ZOOM, Math.max(1, zoom.scale * Math.exp(-event.deltaY / 300)));
  zoomAt(scale, ...placeOf(event));
}, { passive: false });
$("stage").ondblclick = (event) => {
  if (event.target.closest("img")) zoomToPixels(...placeOf(event));
};
$("stage").onpointerdown = (event) => {
  if (zoom.scale === 1 || event.target.closest("button")) return;
  event.preventDefault();
  $("stage").setPointerCapture(event.pointerId);
};
$("stage").onpointermove = (event) => {
  if (zoom.scale === 1 || !$("stage").hasPointerCapture(event.pointerId)) return;
  const [{ clientWidth, clientHeight }] = pictures();
  zoomTo(
    zoom.scale,
    zoom.x + event.movementX / clientWidth,
    zoom.y + event.movementY / clientHeight,
  );
};
$("compare").onclick = () => {
  const items = marked;
  const at = shown.indexOf(items[0]);
  if (at < 0) return;
  view(at);
  compare(items.map(paneOfItem));
};
