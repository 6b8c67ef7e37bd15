// Further takes: what to change, what that costs, and those that wait or are made

const RATIOS = "1:1 2:3 3:2 3:4 4:3 4:5 5:4 9:16 16:9 21:9".split(" ");
const queue = make("div", { id: "queue", role: "status" });
$("notice").before(queue);
const form = make("details", { id: "redo" });
const inputs = {
  prompt: make("textarea", { rows: 4, dir: "auto" }),
  model: make("input", { placeholder: "as before" }),
  aspect_ratio: make("input", { placeholder: "as before" }),
  image_size: make("select", {}, new Option("as before", ""), ...["1K", "2K", "4K"].map((it) => new Option(it))),
  seed: make("input", { type: "number", step: 1, placeholder: "as before" }),
  variants: make("input", { type: "number", min: 1, max: 1000, value: 1 }),
};
const ask = make("button", { type: "button", textContent: "What does it cost?" });
const agree = make("button", { type: "button", className: "strong", hidden: true });
const price = make("p", { role: "status" });
const mine = make("div", { id: "mine" });
let priced; // what the server has told of the price
let asking = 0; // counts what was asked for: an answer to an earlier question is none to this

form.append(make("summary", { textContent: "Another take" }));
for (const [name, input] of Object.entries(inputs)) {
  Object.assign(input, { autocomplete: "off", oninput: forget });
  form.append(make("label", {}, make("span", {}, name === "variants" ? "Takes" : named(name)), input));
}
for (const [name, values] of [["model", []], ["aspect_ratio", RATIOS]]) {
  const list = make("datalist", { id: `${name}s` }, ...values.map((value) => new Option(value)));
  inputs[name].setAttribute("list", list.id);
  form.append(list);
}
const asked = make("div", { className: "asking" }, price, ask, agree);
form.append(asked);
$("commands").after(form, mine);

const tellAlone = tell;
tell = (item, take) => {
  const isOther = viewed?.item !== item;
  tellAlone(item, take);
  form.hidden = item.index === null || item.status === "to do" || page.ended
    || !((item.namespace ?? "") in OPTIONS);
  if (isOther) renewForm(item, take);
  tellQueue();
};

function renewForm(item, take) {
  form.open = false;
  for (const input of Object.values(inputs)) input.value = "";
  inputs.prompt.value = take?.prompt ?? item.prompt;
  inputs.variants.value = 1;
  const models = new Set(["flash", "pro", "lite", ...present.map(({ model }) => model)]);
  models.delete(undefined);
  $("models").replaceChildren(...[...models].map((model) => new Option(model)));
  forget();
}

function forget() {
  asking += 1;
  priced = undefined;
  price.textContent = "";
  agree.hidden = true;
  ask.hidden = ask.disabled = false;
}

ask.onclick = async () => {
  forget();
  const question = asking;
  const wrong = Object.values(inputs).find((input) => !input.checkValidity());
  if (wrong) return wrong.reportValidity();
  const given = Object.entries(inputs).filter(([, { value }]) => value.trim());
  const values = given.map(([name, { type, value }]) => [name, type === "number" ? Number(value) : value]);
  ask.disabled = true;
  price.textContent = "Asking for the price…";
  try {
    const answer = await post("price", { key: viewed.item.key, ...Object.fromEntries(values) });
    if (question !== asking) return;
    priced = answer;
    const cost = answer.cost === null ? "price unknown" : `about ${dollars(answer.cost)}`;
    price.textContent = `${count(answer.calls, "take")} of ${answer.model}: ${cost}.`;
    agree.textContent = answer.cost === null ? "Make it" : `Make it for ${dollars(answer.cost)}`;
    agree.hidden = false;
    ask.hidden = true;
    agree.focus();
    asked.scrollIntoView({ block: "nearest" });
  } catch (error) {
    if (question === asking) price.textContent = error.message;
    asked.scrollIntoView({ block: "nearest" });
  }
  ask.disabled = false;
};

agree.onclick = async () => {
  const { number, asks, cost } = priced;
  const question = `That is about ${dollars(cost ?? 0)}. Continue?`;
  if (asks && !confirm(question)) return;
  agree.disabled = true;
  try {
    await post("redo", { number, sure: asks });
    forget();
    form.open = false;
    $("close").focus();
  } catch (error) {
    price.textContent = error.message;
  }
  agree.disabled = false;
};

function lineOf({ id, index, state, said, ours }) {
  const when = page.state ? "made by this run's command when the run has ended"
    : "made by this page when the run has ended";
  const words = {
    waiting: ours ? (page.running ? `waits: ${when}` : "is about to be made") : "was left waiting by another page",
    making: ours || page.running ? "is being made" : "was being made when its page ended: look at its takes",
    failed: `was not made: ${said}`,
  }[state];
  const line = make("p", {}, `Another take of prompt ${index} ${words} `);
  const act = (textContent, path) => {
    const button = make("button", { type: "button", textContent });
    button.onclick = () => {
      button.disabled = true;
      post(path, id).catch((error) => ($("notice").textContent = error.message));
    };
    line.append(button, " ");
  };
  if (state === "waiting" && !ours) act("Make it", "take-over");
  const isGoing = state === "making" && (ours || page.running);
  if (!isGoing) act(state === "waiting" ? "Take back" : "Dismiss", "give-up");
  else if (ours) act("End early", "give-up");
  return line;
}

function tellQueue() {
  if (page.ended) return queue.replaceChildren(), mine.replaceChildren();
  const now = JSON.stringify([page.redos, page.running]);
  if (queue.dataset.now !== now) {
    queue.dataset.now = now;
    queue.replaceChildren(...(page.redos ?? []).map(lineOf));
  }
  if (!viewed) return;
  const own = (page.redos ?? []).filter(({ index }) => index === viewed.item.index);
  const seen = JSON.stringify([own, page.running]);
  if (mine.dataset.now === seen) return;
  mine.dataset.now = seen;
  mine.replaceChildren(...own.map(lineOf));
}

addEventListener("keydown", ({ key, target, ctrlKey, metaKey, altKey }) => {
  if (key !== "r" || !box.open || form.hidden || ctrlKey || metaKey || altKey) return;
  if (target.matches("input, textarea, select")) return;
  form.open = true;
  form.scrollIntoView({ block: "nearest" });
  setTimeout(() => inputs.prompt.focus());
});
