// Choosing what is shown, and laying it out

function choose() {
  current = 0;
  layOut();
  const all = want.superseded ? items.length : present.length;
  $("count").textContent = `${count(shown.length)} of ${count(all)}`;
  $("nothing").hidden = shown.length > 0;
  const head = document.querySelector("header").offsetHeight;
  if (scrollY > head) scrollTo(0, head);
  $("scroller").scrollTo(0, 0);
}

// Rows that are as they were, without an item that has changed, keep their elements.
function layOut(changed) {
  const [oldRows, oldShown, oldDrawn] = [rows, shown, drawn];
  if ($("axes")) $("axes").hidden = !want.table;
  document.body.classList.toggle("table", isTable());
  canvas.role = isTable() ? "table" : "list";
  canvas.style.width = "";
  drawn = new Map();
  width = $("scroller").clientWidth;
  const isKept = changed && !isTable();
  if (!isKept) canvas.replaceChildren();
  const chosen = items.filter((item) => matches(item) || (box.open && item === viewed.item));
  (isTable() ? layOutTable : layOutGrid)(sorted(chosen), width < 600);
  for (const [number, element] of isKept ? oldDrawn : []) {
    const [row, old] = [rows[number], oldRows[number]];
    const isSame = (item, n) => item === oldShown[row.start + n] && !changed.has(item);
    if (
      JSON.stringify(row) === JSON.stringify(old) &&
      shown.slice(row.start, row.end).every(isSame)
    ) drawn.set(number, element);
    else element.remove();
  }
  const last = rows.at(-1);
  place(canvas, { height: last ? last.top + last.height : 0 });
  draw();
}

// Rows of one width, each as high as the images in it allow.
function layOutGrid(chosen, isNarrow) {
  const usual = isNarrow ? 170 : 230;
  const fitting = (line) =>
    (width - GAP * (line.length - 1)) / line.reduce((sum, { ratio }) => sum + ratio, 0);
  let [top, line] = [0, []];
  const end = (whole, high) => {
    const [start, height] = [whole[0].at, high + CAPTION + GAP];
    const row = { top, height, cells: [], start, end: start + whole.length };
    let left = 0;
    for (const { at, ratio } of whole) {
      const wide = high * ratio;
      row.cells.push({ left, width: wide, tiles: [{ at, left: 0, top: 0, wide, high }] });
      left += wide + GAP;
    }
    rows.push(row);
    top += height;
    line = line.slice(whole.length);
  };
  [shown, rows] = [chosen, []];
  shown.forEach((item, at) => {
    const [wide, high] = takeOf(item)?.size ?? [1, 1];
    line.push({ at, ratio: Math.min(3, Math.max(0.5, wide / high)) });
    if (fitting(line) > usual) return;
    const fewer = line.slice(0, -1);
    const isCloser = fewer.length && fitting(fewer) - usual < usual - fitting(line);
    end(isCloser ? fewer : line, fitting(isCloser ? fewer : line));
  });
  if (line.length) end(line, Math.min(usual, fitting(line)));
}

// A column and a row for each value of two fields that something shown has, or has not.
function layOutTable(chosen, isNarrow) {
  const found = Map.groupBy(chosen, ({ at }) => `${at[want.columns]} ${at[want.rows]}`);
  const met = (field) => {
    const values = new Set(chosen.map(({ at }) => at[field]));
    return [...fields[field][1].keys(), -1].filter((value) => values.has(value));
  };
  const columns = met(want.columns);
  const [label, least] = isNarrow ? [100, 120] : [150, 150];
  const side = Math.max(least, (width - label) / (columns.length || 1));
  const most = Math.max(...[...found.values()].map(({ length }) => length));
  const beside = Math.min(Math.ceil(Math.sqrt(most)), Math.floor(side / LEAST_TILE));
  const wide = (side - 8) / beside;
  const high = Math.min(wide, TALLEST_TILE);
  const tileAt = (at, n) => {
    const corner = { left: (n % beside) * wide, top: Math.floor(n / beside) * high };
    return { at, ...corner, wide, high: high - 4 };
  };
  let top = CAPTION;
  [shown, rows] = [[], []];
  for (const value of met(want.rows)) {
    const cells = columns.map((column) => found.get(`${column} ${value}`) ?? []);
    const lines = Math.ceil(Math.max(...cells.map(({ length }) => length)) / beside);
    // A row of many lines is drawn in parts.
    for (let line = 0; line < lines; line += MOST_LINES) {
      const start = shown.length;
      const parts = cells.map((inside, n) => {
        const part = inside.slice(line * beside, (line + MOST_LINES) * beside);
        const first = shown.push(...part) - part.length;
        const tiles = part.map((_, number) => tileAt(first + number, number));
        return { left: label + n * side, width: side, tiles };
      });
      const height = Math.min(MOST_LINES, lines - line) * high + 8;
      const about = { top, height, cells: parts, start, end: shown.length };
      rows.push({ ...about, label: fields[want.rows][1][value] ?? NONE });
      top += height;
    }
  }
  const corner = `${named(fields[want.rows][0])} ↓ ${named(fields[want.columns][0])} →`;
  const head = make("div", { role: "row", className: "head" }, labelOf("columnheader", corner));
  columns.forEach((column, n) => {
    const name = labelOf("columnheader", fields[want.columns][1][column] ?? NONE);
    head.append(place(name, { left: label + n * side, width: side }));
  });
  canvas.append(head);
  place(canvas, { width: label + side * columns.length });
  document.body.style.setProperty("--label", `${label}px`);
}

const labelOf = (role, textContent) =>
  make("div", { role, className: "label", dir: "auto", textContent });

// Drawing the rows near the window

function draw() {
  const { top } = canvas.getBoundingClientRect();
  const now = performance.now();
  const [pixels, passed] = [Math.abs(top - lastDrawn.top), now - lastDrawn.when];
  const isFast = passed < PAUSE && pixels > FAST * passed;
  lastDrawn = { top, when: now };
  const first = rowAt(-top - AHEAD);
  let end = first;
  while (end < rows.length && rows[end].top < innerHeight - top + AHEAD) end += 1;
  if (first < end && (current < rows[first].start || current >= rows[end - 1].end)) {
    current = rows[Math.min(rowAt(-top), end - 1)].start; // where the eye is
  }
  for (const [number, element] of drawn) {
    if (number >= first && number < end) continue;
    if (element.contains(document.activeElement)) canvas.focus({ preventScroll: true });
    element.remove();
    drawn.delete(number);
  }
  // Backwards, each before the next: the order in the document is that of the eye.
  for (let number = end - 1; number >= first; number -= 1) {
    if (drawn.has(number)) continue;
    const element = elementOf(rows[number]);
    if (isFast) hold(element);
    canvas.insertBefore(element, drawn.get(number + 1) ?? null);
    drawn.set(number, element);
  }
  mark();
}

// What is scrolled past faster than anybody sees is not loaded until the scrolling is slower.
function hold(element) {
  for (const image of element.querySelectorAll("img")) {
    image.dataset.src = image.getAttribute("src");
    image.removeAttribute("src");
  }
  clearTimeout(held);
  held = setTimeout(() => {
    for (const image of canvas.querySelectorAll("img[data-src]")) {
      image.src = image.dataset.src;
      delete image.dataset.src;
    }
  }, PAUSE);
}

function rowAt(pixels) {
  let [low, high] = [0, rows.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rows[middle].top + rows[middle].height > pixels) high = middle;
    else low = middle + 1;
  }
  return low;
}

function elementOf({ top, height, cells, label }) {
  const element = make("div", { className: "row", role: isTable() ? "row" : "none" });
  if (isTable()) element.append(labelOf("rowheader", label));
  for (const { left, width, tiles } of cells) {
    const of = { ariaPosInSet: tiles[0]?.at + 1, ariaSetSize: shown.length };
    const role = isTable() ? { role: "cell" } : { role: "listitem", ...of };
    const cell = make("div", { className: "cell", ...role }, ...tiles.map(tileOf));
    element.append(place(cell, { left, width }));
  }
  return place(element, { top, height });
}

function tileOf({ at, left, top, wide, high }) {
  const item = shown[at];
  const take = takeOf(item);
  const tile = make("button", { type: "button", className: "tile" });
  tile.dataset.at = at;
  tile.append(place(faceOf(item, take), { height: high }));
  const notes = [
    wide > 90 && item.takes?.length > 1 && count(item.takes.length, "take"),
    wide > 90 && item.index === null && "superseded",
  ].filter(Boolean);
  const textContent = notes.join(" · ");
  if (textContent) tile.append(make("span", { className: "note", textContent }));
  if (wide > 60 && item.index !== null) {
    tile.append(make("span", { className: "number", ariaHidden: true, textContent: item.index }));
  }
  if (!isTable()) {
    const caption = { className: "caption", dir: "auto", textContent: item.prompt };
    tile.append(make("span", { ...caption, ariaHidden: Boolean(take?.size) })); // the alt has it
  }
  markChoice(tile, item);
  return place(tile, { left, top, width: wide });
}

function faceOf(item, take) {
  if (!take?.size) {
    const kind = take ? "Cannot be shown" : (item.error?.kind ?? "To do");
    const why = { textContent: take?.problem ?? item.error?.message ?? "", dir: "auto" };
    const className = take || item.error ? "face absent bad" : "face absent";
    return make("span", { className }, make("strong", {}, kind), make("span", why));
  }
  const [width, height] = take.size;
  const image = { className: "face", alt: take.prompt ?? item.prompt, width, height };
  return make("img", { ...image, loading: "lazy", decoding: "async", src: thumbOf(take) });
}

// Moving with the keyboard: Tab leads to one image, the arrows on from there

function mark() {
  const tiles = [...canvas.querySelectorAll(".tile")];
  const marked = tiles.findLast((tile) => tile.dataset.at <= current) ?? tiles[0];
  for (const tile of tiles) tile.tabIndex = tile === marked ? 0 : -1;
  return marked;
}

const rowOf = (at) => rows.findIndex(({ end }) => at < end);

// Scroll until a row begins so many pixels below the top of the window.
function bring(number, below) {
  const scroller = isTable() ? $("scroller") : document.scrollingElement;
  scroller.scrollBy(0, canvas.getBoundingClientRect().top + rows[number].top - below);
  draw();
}

function reveal(at) {
  current = at;
  if (!drawn.has(rowOf(at))) bring(rowOf(at), innerHeight / 2);
  const tile = mark();
  tile.scrollIntoView({ block: "nearest", inline: "nearest" });
  tile.focus({ preventScroll: true });
}

function neighbour(key) {
  if (!shown.length) return undefined;
  const ends = { Home: 0, End: shown.length - 1 };
  const beside = { ...ends, ArrowLeft: current - 1, ArrowRight: current + 1 }[key];
  const line = drawn.get(rowOf(current) + { ArrowUp: -1, ArrowDown: 1 }[key]);
  const middle = (tile) => {
    const { left, width } = tile.getBoundingClientRect();
    return left + width / 2;
  };
  const here = middle(mark());
  const away = (tile) => Math.abs(middle(tile) - here);
  const tiles = [...(line?.querySelectorAll(".tile") ?? [])].sort((a, b) => away(a) - away(b));
  return beside ?? (tiles.length ? Number(tiles[0].dataset.at) : undefined);
}
