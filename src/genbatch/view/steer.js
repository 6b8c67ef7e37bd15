// Steering: what the run is told, and what is in force there

const steering = make("div", { id: "steering", role: "group", ariaLabel: "The run", hidden: true });
const refused = make("p", { id: "refused", role: "status" });
const told = { pause: "Pausing…", resume: "Going on…" };
const [going, ending] = ["Pause", "Finish and end"].map((textContent) =>
  make("button", { type: "button", textContent }));
const limits = {
  max_concurrent: setting("Calls at once", { type: "number", min: 1 }, Number),
  pace: setting("Pace", { placeholder: "none", title: "such as 10/min" }, String),
  budget: setting("Budget in $", { type: "number", min: 0, step: "any" }, Number),
};
steering.append(going, ending, ...Object.values(limits).map((input) => input.parentNode), refused);
$("notice").before(steering);

function setting(name, properties, value) {
  const input = make("input", { autocomplete: "off", ...properties });
  make("label", {}, name, input);
  input.onchange = () => {
    const [key] = Object.entries(limits).find(([, each]) => each === input);
    // An empty field is none: what is in force comes back.
    if (input.value.trim() && input.checkValidity()) tune({ [key]: value(input.value) });
    else input.value = page.steer?.[key] ?? "";
  };
  return input;
}

async function tune(what) {
  refused.textContent = "";
  try {
    await post("tune", what);
  } catch (error) {
    refused.textContent = error.message;
    tellSteering();
  }
}

function tellSteering() {
  const { steer } = page;
  steering.hidden = !(page.running && steer) || page.ended;
  if (steering.hidden) return;
  const isPaused = steer.is === "paused";
  going.textContent = isPaused ? "Resume" : "Pause";
  going.hidden = ending.hidden = steer.is === "draining";
  for (const [name, input] of Object.entries(limits)) {
    if (input !== document.activeElement) input.value = steer[name] ?? "";
    input.disabled = steer.is === "draining";
  }
  limits.max_concurrent.parentNode.hidden = steer.via !== "live"; // jobs have none
  limits.budget.parentNode.hidden = steer.budget === null; // a run without one takes none
  const ends = steer.is === "draining" && "Ending: waiting for the calls in flight.";
  refused.textContent = ends || steer.problems?.join("; ") || refused.textContent;
}

going.onclick = () => {
  const command = page.steer.is === "paused" ? "resume" : "pause";
  going.textContent = told[command];
  tune({ command });
};
ending.onclick = () => {
  const question = "End the run once the calls in flight are answered? The same command resumes it.";
  if (confirm(question)) tune({ command: "drain" });
};
