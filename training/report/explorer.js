// Steps through single episodes.

const episode = () => data.episodes[state.run][state.question][state.price];
const segmented = () => data.runs[state.run].segmented;
const chip = (action) => make("span", { class: "chip", of: actionColour(action) }, action);

function verdict(correct, answer) {
  if (answer === null) return make("span", { class: "wrong" }, "no answer");
  return make("span", { class: correct ? "right" : "wrong" }, correct ? "✓ right" : "✗ wrong");
}

/** The same in one character. */
function mark(correct, answer) {
  if (answer === null) return make("span", { class: "wrong" }, "none");
  const name = { class: correct ? "right" : "wrong", role: "img", "aria-label": correct ? "right" : "wrong" };
  return make("span", name, correct ? "✓" : "✗");
}

/** Where there is most to see, to begin with. */
function mostDecisions() {
  const counts = data.episodes[state.run].map((byPrice) => byPrice[state.price].decisions.length);
  return counts.indexOf(Math.max(...counts));
}

function drawQuestions() {
  const groups = new Map();
  data.questions.forEach((question, i) => {
    if (!groups.has(question.group)) groups.set(question.group, make("optgroup", { label: question.group }));
    const text = question.question || question.question_id;
    const short = text.length > 90 ? `${text.slice(0, 90)}…` : text;
    const name = question.dataset ? `${question.dataset}: ${short}` : short;
    groups.get(question.group).append(make("option", { value: i }, name));
  });
  byId("question").replaceChildren(...groups.values());
}

function drawEpisode() {
  const question = data.questions[state.question];
  const { answer, correct, cost, decisions } = episode();
  state.step = Math.min(state.step, decisions.length - 1);
  byId("question").value = state.question;
  byId("asked").textContent = question.question || "(this trace set does not keep the text)";
  byId("outcome").replaceChildren(
    verdict(correct, answer),
    ...(answer === null ? [] : [": ", make("bdi", {}, answer)]),
    ...(correct || question.reference === null ? [] : [" – the reference is ", make("bdi", {}, question.reference)]),
    `. Cost ${costText(cost)} ${
      data.currency ? `of the ${costText(1 / data.prices[state.price])} that a right answer is worth` : `× price ${priceText(data.prices[state.price])}`
    } = ${fixed(cost * data.prices[state.price])}.`,
  );
  byId("steps").replaceChildren(
    ...decisions.map(({ action }, i) => {
      const button = make(
        "button",
        { type: "button", of: actionColour(action), onclick: () => step(i) },
        make("small", {}, `${i + 1} `),
        action,
      );
      return make("li", {}, button);
    }),
  );
  drawStep();
  drawStrip();
}

/** Choose a decision; the arrow keys move the focus along. */
function step(to, focus = false) {
  state.step = Math.max(0, Math.min(to, episode().decisions.length - 1));
  drawStep();
  if (focus) byId("steps").querySelector("[aria-current]").focus();
}

function drawStep() {
  const { decisions } = episode();
  const decision = decisions[state.step];
  byId("steps").querySelectorAll("button").forEach((button, i) => {
    if (i === state.step) button.setAttribute("aria-current", "step");
    else button.removeAttribute("aria-current");
    button.tabIndex = i === state.step ? 0 : -1;
  });
  const open = byId("observation")?.open ?? false;
  byId("decision").replaceChildren(
    make("div", {}, make("h3", {}, "Probability of each action"), probabilities(decision), facts(decisions, state.step)),
    make("div", {}, make("h3", {}, "What it brought"), ...brought(decisions, state.step)),
    observation(decision, decisions[state.step - 1], open),
  );
}

function probabilities(decision) {
  const rows = data.runs[state.run].actions.flatMap((action, i) => {
    const share = decision.probabilities[i];
    const bar = make("i", { of: actionColour(action) });
    bar.style.width = percent(share);
    const look = action === decision.action ? "chosen" : share === 0 ? "off" : null;
    return [
      make("dt", { class: look }, action),
      make("dd", { class: "bar", "aria-hidden": "true" }, bar),
      make("dd", { class: look }, percent(share)),
    ];
  });
  return make("dl", { class: "bars" }, ...rows);
}

function facts(decisions, at) {
  const { cost, value, leader } = decisions[at];
  const rows = [
    ["cost so far", data.currency ? costText(cost) : `${count(cost)} small-model tokens`],
    ["expected return", `${fixed(value)} from here on`],
    [segmented() ? "answer if it stops" : "leading answer", leader === null ? "none yet" : make("bdi", {}, leader)],
  ];
  return make("dl", { class: "facts" }, ...rows.flatMap(([name, shown]) => [make("dt", {}, name), make("dd", {}, shown)]));
}

/** What an action brought: attempts, scores, or inside an attempt a segment. */
function brought(decisions, at) {
  const { action, attempts } = decisions[at];
  if (action === "STOP") return [make("p", {}, segmented() ? "The answer, forced unless the attempt is done." : "Nothing more: the leading answer is returned.")];
  if (action !== "VERIFY") return attempts.map((i) => attemptBox(data.attempts[i]));
  const earlier = decisions.slice(0, at);
  const since = earlier.findLastIndex((decision) => decision.action === "VERIFY") + 1;
  const scored = earlier.slice(since).flatMap((decision) => decision.attempts.map((i) => data.attempts[i]));
  return [
    make("p", {}, "Scores of the attempts so far: the verifier’s probability that each is right."),
    ...scored
      .filter((attempt) => attempt.verifier_score !== null)
      .map((attempt) =>
        make("p", {}, make("bdi", {}, attempt.answer ?? "no answer"), `: ${percent(attempt.verifier_score)}`),
      ),
  ];
}

function attemptBox(attempt) {
  const numbers = [`${count(attempt.completion_tokens)} tokens`];
  const logprobs = { mean: attempt.mean_logprob, least: attempt.min_logprob };
  for (const [which, value] of Object.entries(logprobs)) {
    if (value !== null) numbers.push(`${which} log-probability ${fixed(value)}`);
  }
  const said = segmented() ? [] : [verdict(attempt.correct, attempt.answer), ...(attempt.answer === null ? [] : [": ", make("bdi", {}, attempt.answer)]), " – "];
  return make(
    "div",
    { class: "attempt" },
    make(
      "p",
      {},
      ...said,
      make("bdi", {}, attempt.model),
      `, ${[attempt.action, ...numbers].filter((part) => part !== null).join(", ")}`,
    ),
    make("pre", { dir: "auto", tabindex: "0", "aria-label": segmented() ? "text of the segment" : "text of the attempt" }, attempt.text ?? "(text not recorded)"),
  );
}

function observation(decision, before, open) {
  const rows = data.runs[state.run].features.map((name, i) => {
    const changed = before && before.observation[i] !== decision.observation[i];
    const value = String(decision.observation[i]).replace("-", "−");
    return make("div", { class: changed ? "changed" : null }, make("dt", {}, name), make("dd", {}, value));
  });
  return make(
    "details",
    { id: "observation", open },
    make("summary", {}, `Observation: ${rows.length} features${before ? ", changes since the last decision marked" : ""}`),
    make("dl", { class: "features" }, ...rows),
  );
}

/** The same question at every price; a price can be chosen here too. */
function drawStrip() {
  const rows = data.episodes[state.run][state.question].map(({ answer, correct, cost, decisions }, p) => {
    const current = p === state.price;
    const button = make(
      "button",
      { type: "button", "aria-pressed": String(current), onclick: () => choosePrice(p) },
      priceText(data.prices[p]),
    );
    return make(
      "tr",
      { class: current ? "current" : null },
      make("th", { scope: "row" }, button),
      make("td", {}, ...decisions.map(({ action }) => chip(action))),
      make("td", {}, mark(correct, answer), ...(answer === null ? [] : [" ", make("bdi", {}, answer)])),
      make("td", {}, costText(cost)),
    );
  });
  const focused = byId("strip").contains(document.activeElement);
  byId("strip").querySelector("tbody").replaceChildren(...rows);
  if (focused) byId("strip").querySelector("[aria-pressed=true]").focus();
}

function chooseQuestion(to) {
  state.question = (to + data.questions.length) % data.questions.length;
  state.step = 0;
  drawEpisode();
}

function listenToExplorer() {
  byId("question").addEventListener("change", (event) => chooseQuestion(Number(event.target.value)));
  byId("previous-question").addEventListener("click", () => chooseQuestion(state.question - 1));
  byId("next-question").addEventListener("click", () => chooseQuestion(state.question + 1));
  byId("steps").addEventListener("keydown", (event) => {
    const to = {
      ArrowLeft: state.step - 1,
      ArrowRight: state.step + 1,
      Home: 0,
      End: episode().decisions.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    step(to, true);
  });
}
