// The bar, and what is listened to

function select(name, options, chosen, act) {
  const element = make("select", { ariaLabel: name, autocomplete: "off" });
  for (const [value, text] of options) {
    element.append(new Option(text, value, false, value === chosen));
  }
  element.onchange = () => {
    act(element.value);
    choose();
  };
  return element;
}

function check(name) {
  const input = make("input", { type: "checkbox", checked: want[name], autocomplete: "off" });
  input.onchange = () => {
    want[name] = input.checked;
    choose();
  };
  return make("label", {}, input, named(name));
}

function statusesOf() {
  return ["done", "failed", "to do"]
    .map((status) => [status, present.filter((item) => item.status === status).length])
    .filter(([, number]) => number);
}

function tellSummary() {
  const paid = dollars(page.spent) + (page.maybe ? `, perhaps ${dollars(page.maybe)} more` : "");
  const updated = `updated ${moment(new Date(page.written * 1000))}`;
  $("summary").textContent = [
    statusesOf().map(([status, number]) => `${count(number)} ${status}`).join(", "),
    page.spent || page.maybe ? paid : "",
    page.running ? `${updated}, while a run went on` : updated,
  ].filter(Boolean).join(" · ");
}

function prepare(some) {
  for (const item of some) {
    for (const take of item.takes ?? []) takes.set(take.file, take);
    item.text = `#${item.index ?? ""} ${item.id ?? ""} ${item.prompt}`.normalize().toLowerCase();
  }
}

function addControls() {
  const statuses = statusesOf();
  const controls = fields.map(([name, values], field) => {
    const options = [[-1, named(name)], ...values.map((value, n) => [n, value])];
    const act = (value) => (want.values[field] = Number(value));
    return select(name, options, want.values[field], act);
  });
  if (statuses.length > 1) {
    const options = [["", "Status"], ...statuses.map(([status]) => [status, named(status)])];
    controls.unshift(select("Status", options, want.status, (status) => (want.status = status)));
  }
  controls.push(...controlsOfChoices());
  if (present.length < items.length) controls.push(check("superseded"));
  if (fields.length > 1) {
    const options = fields.map(([name], field) => [field, named(name)]);
    const axes = make("span", { id: "axes" });
    for (const side of ["columns", "rows"]) {
      const act = (field) => (want[side] = Number(field));
      axes.append(named(side), select(named(side), options, want[side], act));
    }
    controls.push(check("table"), axes);
  }
  $("filters").replaceChildren(...controls);
}

function start() {
  prepare(items);
  restoreChoices();
  tellSummary();
  addControls();
  choose();
}

$("search").oninput = ({ target }) => {
  want.words = target.value.normalize().toLowerCase().split(/\s+/).filter(Boolean);
  choose();
};
$("clear").onclick = () => location.reload();
document.onkeydown = (event) => {
  if (event.target.matches("input:not([type=checkbox]), textarea, select")) return;
  if (chooseBy(event)) event.preventDefault();
  if (event.key !== "/" || box.open) return;
  event.preventDefault();
  $("search").select();
};
// A button would be clicked when the key is let go.
document.onkeyup = (event) => {
  const { classList, id } = event.target;
  if (event.key === " " && (classList?.contains("tile") || id === "close")) event.preventDefault();
};
canvas.onclick = ({ target }) => view(Number(target.closest(".tile")?.dataset.at));
canvas.onkeydown = (event) => {
  const at = neighbour(event.key);
  if (at === undefined) return;
  event.preventDefault();
  if (at >= 0 && at < shown.length) reveal(at);
};
// Without its thumbnail, as in a copy that has no hidden files, an image shows itself.
const showWhole = ({ target }) => {
  const { file } = takeOf(shown[target.closest(".tile").dataset.at]);
  if (!target.src.endsWith(urlOf(file))) target.src = urlOf(file);
};
canvas.addEventListener("error", showWhole, { capture: true });
box.onkeydown = ({ key, target }) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
  if (!step || target.matches("input:not([type=checkbox]), textarea, select")) return;
  if (panes.length) compareFrom(step);
  else view(current + step);
};
box.oncancel = (event) => {
  if (panes.length) event.preventDefault();
  endComparing();
};
box.onclose = () => reveal(current);
$("close").onclick = () => box.close();
$("previous").onclick = () => view(current - 1);
$("next").onclick = () => view(current + 1);
$("copy").onclick = () => copy($("prompt"), $("copy"));
const watching = { capture: true, passive: true };
const drawSoon = () => requestAnimationFrame(draw);
document.addEventListener("scroll", drawSoon, watching);
addEventListener("resize", drawSoon);
let touched; // where on the screen, by one finger
const touch = ({ touches: [{ clientX }, more] }) => (touched = more ? NaN : clientX);
$("stage").addEventListener("touchstart", touch, watching);
const swipe = ({ changedTouches: [{ clientX }] }) => {
  if (zoom.scale === 1 && !panes.length && Math.abs(clientX - touched) > 50) view(current - Math.sign(clientX - touched));
};
$("stage").addEventListener("touchend", swipe);
const observer = new ResizeObserver(() => {
  const bar = $("bar").offsetHeight;
  document.documentElement.style.setProperty("--bar", `${bar}px`);
  if (width === $("scroller").clientWidth) return;
  const { top } = canvas.getBoundingClientRect();
  const { start } = rows[rowAt(bar - top)] ?? {};
  layOut();
  if (start !== undefined && top < 0) bring(rowOf(start), bar);
});
observer.observe(document.body);
observer.observe($("bar"));
start();
