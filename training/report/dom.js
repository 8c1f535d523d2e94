// Text reaches the page through here alone, always as text, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const state = { price: Math.floor(data.prices.length / 2), run: 0, question: 0, step: 0 };
const hidden = new Set(); // keys of policies that are switched off

const byId = (id) => document.getElementById(id);

/** An element with attributes and children; strings become text nodes. */
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "of") node.style.setProperty("--of", value);
    else if (name === "onclick") node.addEventListener("click", value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const KINDS = {
  prompt: "prompt-only rules",
  cascade: "cascades",
  stop: "stop rules",
  verify: "revising or verifying",
  whole: "controllers of whole attempts",
  static: "static",
  other: "other rules",
  oracle: "oracles",
};

const several = data.runs.length > 1;

/** The controller of the run that is looked at in detail. */
const ours = () => data.policies.find((policy) => policy.kind === "controller" && policy.run === state.run);

/** What a policy is switched on and off with: its kind, or the run that a controller is of. */
const keyOf = (policy) => (policy.kind === "controller" ? `run ${policy.run}` : policy.kind);

function policyColour(policy) {
  return policy.kind === "controller" ? runColour(policy.run) : `var(--${policy.kind})`;
}

function runColour(run) {
  return run ? `var(--run-${((run - 1) % 4) + 1})` : "var(--controller)";
}

function policyName(policy) {
  if (policy.run === null || !several) return policy.name;
  const run = data.runs[policy.run].name;
  return policy.kind === "controller" ? run : `${policy.name} (${run})`;
}

function actionColour(action) {
  const name = action.toLowerCase().replace("(end)", "-to-end");
  return name.startsWith("sample(") ? "var(--act-sample-wide)" : `var(--act-${name})`;
}

const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}%`;
const fixed = (value, digits = 3) => value.toFixed(digits).replace("-", "−");
const signed = (value) => (value >= 0 ? "+" : "") + fixed(value);
const count = (value) => value.toLocaleString("en", { maximumFractionDigits: 0 });

function costText(cost) {
  if (!data.currency) return count(cost);
  const amount = Number((cost * data.currency.size).toPrecision(2));
  return data.currency.name === "dollars" ? `$${amount}` : `${amount} s`;
}

const between = ([, low, high], show) => `${show(low)} to ${show(high)}`;

function priceText(price) {
  const [digits, exponent] = price.toExponential(1).split("e");
  const raised = exponent.replace("+", "").replace("-", "⁻");
  const superscripts = "⁰¹²³⁴⁵⁶⁷⁸⁹";
  return `${digits} × 10${raised.replace(/\d/g, (digit) => superscripts[digit])}`;
}

function pointsText(price) {
  if (data.currency) return `a right answer is worth ${costText(1 / price)}`;
  const points = price * 1000 * 100;
  const shown = points >= 10 ? points.toFixed(0) : points.toPrecision(2);
  return `1,000 small-model tokens are worth ${shown} points of accuracy`;
}
