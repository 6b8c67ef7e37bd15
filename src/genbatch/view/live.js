// The live page: what the server tells, and what it is told

const unsaved = new Map(); // choices by file that the server has not confirmed
const byKey = new Map(items.map((item) => [item.key, item]));
const AGAIN = 2000; // milliseconds until what failed is tried again
let isSending = false;
let signature = "";

history.replaceState(null, "", location.pathname); // the token is in a cookie now
const source = new EventSource(`events?after=${encodeURIComponent(page.mark)}`);
source.onmessage = ({ data }) => receive(JSON.parse(data));
source.onopen = () => {
  tellNotice();
  send();
};
source.onerror = () => {
  if (!page.ended) {
    $("notice").textContent =
      "The page's server does not answer. What you choose is kept here until it does.";
  }
};

function receive({ head, items: changed }) {
  const names = fields.map(([name]) => name);
  const before = want.values.map((value, field) => fields[field][1][value]);
  Object.assign(page, head);
  const renewed = new Set(changed.map(renew));
  if (changed.length) {
    items = [...byKey.values()].sort((a, b) => byOrder(a.order, b.order));
    present = items.filter((item) => item.index !== null);
    prepare(renewed);
  }
  if (head.fields) {
    const axis = (side) => Math.max(0, head.fields.findIndex(([name]) => name === names[want[side]]));
    const axes = names.length ? [axis("columns"), axis("rows")] : (head.axes ?? [0, 1]);
    [want.columns, want.rows] = axes;
    fields = head.fields;
    want.values = fields.map(([name, values]) => values.indexOf(before[names.indexOf(name)]));
  }
  tellSummary();
  tellNotice();
  tellSteering();
  tellQueue();
  tellChosen();
  renewControls();
  if (changed.length) refresh(renewed);
  if (page.ended) source.close();
}

const byOrder = (a, b) => a[0] - b[0] || a[1] - b[1] || a[2] - b[2];

// Return the item of this key, made what is told of it.
function renew(told) {
  const item = byKey.get(told.key) ?? {};
  for (const name of Object.keys(item)) delete item[name];
  Object.assign(item, told);
  byKey.set(told.key, item);
  for (const take of item.takes ?? []) Object.assign(take, unsaved.get(take.file));
  return item;
}

// Lay out anew, and leave what is looked at where it is.
function refresh(renewed) {
  const isOnTile = document.activeElement?.classList.contains("tile");
  if (isOnTile && !box.open) current = Number(document.activeElement.dataset.at);
  const seen = shown[current];
  const bar = $("bar").offsetHeight;
  const { top } = canvas.getBoundingClientRect();
  const row = rows[rowAt(bar - top)];
  const [first, below] = [shown[row?.start], top + (row?.top ?? 0)];
  const { scrollLeft, scrollTop } = $("scroller");
  layOut(renewed);
  current = Math.max(0, shown.indexOf(seen));
  const at = shown.indexOf(first);
  if (isTable()) $("scroller").scrollTo(scrollLeft, scrollTop);
  else if (top < 0 && at >= 0) bring(rowOf(at), below);
  const tile = mark();
  if (isOnTile && !box.open) tile?.focus({ preventScroll: true });
  const all = want.superseded ? items.length : present.length;
  $("count").textContent = `${count(shown.length)} of ${count(all)}`;
  $("nothing").hidden = shown.length > 0 || !items.length;
  if (box.open) renewDialog(renewed);
}

function renewDialog(renewed) {
  const { item, take } = viewed;
  const now = item.takes?.find(({ file }) => file === take?.file) ?? takeOf(item);
  for (const pane of panes) pane.take = takes.get(pane.take?.file);
  if (!renewed.has(item)) return tellPlace();
  const focused = document.activeElement?.closest("#takes, #commands");
  tell(item, now);
  if (focused) (focused.querySelector("[aria-pressed=true], button") ?? $("close")).focus();
  if (now?.file !== take?.file && !panes.length) show(item, now);
}

function renewControls() {
  const now = JSON.stringify([fields, statusesOf().map(([name]) => name), takes.size > 0,
    present.length < items.length]);
  // A list that is open would close.
  if (now === signature || $("filters").contains(document.activeElement)) return;
  signature = now;
  addControls();
  if ($("axes")) $("axes").hidden = !want.table;
}

// What the page says of the run

tellSummary = () => {
  const kinds = Map.groupBy(present.filter(({ error }) => error), ({ error }) => error.kind);
  const failed = [...kinds].map(([kind, { length }]) => `${count(length)} ${kind}`).join(", ");
  const whys = failed && `failed: ${failed}`;
  const ours = page.state?.figures ?? [];
  const figures = ours.length && !page.ended ? ours : [
    ...statusesOf().map(([status, number]) => `${count(number)} ${status}`),
    page.spent || page.maybe
      ? dollars(page.spent) + (page.maybe ? `, perhaps ${dollars(page.maybe)} more` : "")
      : "",
    page.running && page.lately ? `${count(page.lately, "image")} in the last minute` : "",
    page.running && !page.state ? `a run is ${page.steer?.is ?? "in progress"}` : "",
  ];
  $("summary").textContent = [...figures, whys].filter(Boolean).join(" · ");
};

function tellNotice() {
  const what = page.state ? "The run has ended" : "The page's server has ended";
  $("notice").textContent = page.ended
    ? `${what}. To look at the images again: genbatch view ${directory()}`
    : (page.problem ?? "");
  if (!items.length && !page.ended && !page.problem) {
    $("notice").textContent = "No image yet: each is shown here as soon as it is saved.";
  }
}

// What the server is told

async function post(path, value) {
  const headers = { "content-type": "application/json" };
  const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(value) });
  const answer = await response.json().catch(() => ({ error: `the server says ${response.status}` }));
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

save = (changes) => {
  for (const [file, choice] of Object.entries(changes)) unsaved.set(file, choice);
  send();
};

async function send() {
  if (isSending || !unsaved.size) return;
  isSending = true;
  const sent = new Map(unsaved);
  let pause = 0;
  try {
    await post("choices", Object.fromEntries(sent));
    for (const [file, choice] of sent) {
      if (unsaved.get(file) === choice) unsaved.delete(file);
    }
    tellNotice();
  } catch (error) {
    $("notice").textContent = `Not saved, and kept here for now: ${error.message}`;
    pause = AGAIN;
  }
  isSending = false;
  if (unsaved.size) setTimeout(send, pause);
}

async function pickTake(take) {
  try {
    await post("pick", take.file);
  } catch (error) {
    $("notice").textContent = `Not picked: ${error.message}`;
    $("told").textContent = $("notice").textContent;
  }
}

addEventListener("beforeunload", (event) => {
  if (unsaved.size) event.preventDefault();
});
tellSummary();
tellNotice();
tellSteering();
tellQueue();
renewControls();
