// What actions inside an attempt brought, and the attempt as it then stands.

/** Segments written up to a decision, in order, with the drafts that were dropped on the way. */
function written(decisions, at) {
  const parts = [];
  decisions.slice(0, at + 1).forEach(({ action, segment }, i) => {
    if (segment === null) return;
    if (action === "REVISE") parts.findLast((part) => !part.dropped).dropped = true;
    const { answer, correct } = decisions[i + 1];
    parts.push({ action, answer, correct, segment: data.segments[segment], dropped: false, last: i === at });
  });
  parts.filter((part) => !part.dropped).forEach((part, i) => (part.number = i + 1));
  return parts;
}

/** What a decision brought: its segment, or the answer that ends the attempt. */
function segmentBrought(decisions, at, cost) {
  const parts = written(decisions, at);
  const { action, answer, correct, cost: before } = decisions[at];
  if (action !== "STOP") return segmentBox(parts.at(-1));
  if (!parts.length) return [make("p", {}, "Nothing: it gives up without an answer.")];
  if (parts.at(-1).segment.done) return [make("p", {}, "Nothing more: the attempt is done, and its answer is returned.")];
  const forced = cost > before ? `An answer is forced, for ${count(cost - before)} small-model tokens: ` : "The answer last forced is returned: ";
  return [make("p", {}, forced, ...answerText(answer, correct))];
}

function segmentBox({ action, number, segment }) {
  const numbers = [`${count(segment.num_tokens)} tokens`, ...logprobs(segment)];
  const told = [
    `Segment ${number}, by `,
    make("bdi", {}, segment.model),
    `: ${numbers.join(", ")}.`,
    action === "REVISE" ? " The draft before it is dropped." : "",
    segment.done ? " The attempt ends with it." : "",
  ];
  return [make("p", {}, ...told), make("pre", segmentLabel, segment.text ?? "(text not recorded)")];
}

const segmentLabel = { dir: "auto", tabindex: "0", "aria-label": "text of the segment" };

function logprobs({ min_logprob: least, mean_logprob: mean }) {
  const known = { "least log-probability": least, "mean log-probability": mean };
  return Object.entries(known).flatMap(([name, value]) => (value === null ? [] : [`${name} ${fixed(value)}`]));
}

function answerText(answer, correct) {
  return [verdict(correct, answer), ...(answer === null ? [] : [": ", make("bdi", {}, answer)])];
}

/** The answer that stopping returns before a decision, as a fact beside cost and value. */
function answerSoFar(decisions, at) {
  const before = written(decisions, at - 1);
  if (!before.length) return ["answer if it stops", "none yet"];
  const { answer, correct } = decisions[at];
  const name = before.at(-1).segment.done ? "answer of the attempt" : "answer if forced here";
  return [name, make("span", {}, ...answerText(answer, correct))];
}

const WHOSE_ANSWERS =
  "Answers are what stopping would have returned: forced, until the attempt is done. They are recorded; " +
  "the policy sees whether they agree only if it has one forced after every segment.";

/** The whole attempt so far, dropped drafts crossed out, one segment a row. */
function attemptSoFar(decisions, at) {
  const parts = written(decisions, at);
  if (!parts.length) return [];
  const says = parts.some(({ segment }) => segment.text !== null);
  const heads = ["#", "action", ...(says ? ["text"] : []), "tokens", "least log-probability", "answer after it"];
  const head = make("tr", {}, ...heads.map((name) => make("th", { scope: "col", class: name === "text" ? "says" : null }, name)));
  const table = make("table", { class: "segments" }, make("thead", {}, head), make("tbody", {}, ...parts.map((part) => segmentRow(part, says))));
  return [
    make(
      "div",
      { class: "so-far" },
      make("h3", { id: "so-far-title" }, "The attempt so far"),
      make("div", { class: "scroll", role: "region", "aria-labelledby": "so-far-title", tabindex: "0" }, table),
      make("p", { class: "note" }, WHOSE_ANSWERS),
    ),
  ];
}

function segmentRow({ action, answer, correct, dropped, last, number, segment }, says) {
  const text = segment.text ?? "";
  return make(
    "tr",
    { class: dropped ? "dropped" : last ? "current" : null },
    make("td", {}, dropped ? make("small", {}, "dropped") : String(number)),
    make("td", {}, chip(action)),
    says ? make("td", { class: "says", dir: "auto" }, dropped ? make("del", {}, text) : text) : null,
    make("td", {}, count(segment.num_tokens)),
    make("td", {}, segment.min_logprob === null ? "–" : fixed(segment.min_logprob)),
    make("td", {}, mark(correct, answer), ...(answer === null ? [] : [" ", make("bdi", {}, answer)])),
  );
}
