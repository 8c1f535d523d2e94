// The table of policies, and which of them are shown.

const interval = (entry, show) => [show(entry[0]), make("small", {}, between(entry, show))];

function policyRow(policy, rank) {
  const p = state.price;
  const badge = policy.kind === "oracle" ? make("span", { class: "badge" }, "oracle") : null;
  const setting = policy.settings[p] ? make("small", {}, policy.settings[p]) : null;
  const swatch = make("span", { class: "swatch", of: policyColour(policy) });
  const name = badge ? policyName(policy).replace(/ oracle\b/, "") : policyName(policy);
  const lead = policy.lead ? interval(policy.lead[p], signed) : ["–"];
  return make(
    "tr",
    { class: policy.kind },
    make("td", { class: "rank" }, rank),
    make("th", { scope: "row" }, swatch, name, badge, setting),
    make("td", {}, ...interval(policy.utility[p], fixed)),
    make("td", {}, ...interval(policy.accuracy[p], percent)),
    make("td", {}, ...interval(policy.cost[p], costText)),
    make("td", { class: "wide" }, fixed(policy.rounds[p], 2)),
    make("td", { class: "wide" }, ...lead),
  );
}

/** Policies by utility at the chosen price; oracles are not ranked. */
function ranked() {
  const p = state.price;
  const sorted = [...data.policies].sort((a, b) => b.utility[p][0] - a.utility[p][0]);
  let rank = 0;
  return sorted.map((policy) => [policy, policy.kind === "oracle" ? "" : String(++rank)]);
}

function drawTable() {
  const rows = ranked().filter(([policy]) => !hidden.has(keyOf(policy)));
  const table = byId("policies");
  table.querySelector("caption").textContent =
    `Policies by utility at price ${priceText(data.prices[state.price])}`;
  table.querySelector("tbody").replaceChildren(...rows.map((row) => policyRow(...row)));
  byId("lead-title").textContent = `lead of ${several ? data.runs[0].name : "the controller"}`;
}

function sayPrice() {
  const price = data.prices[state.price];
  const [controller, rank] = ranked().find(([policy]) => policy === ours());
  const rivals = data.policies.filter((policy) => policy.kind !== "oracle").length;
  const name = policyName(controller);
  byId("price").setAttribute("aria-valuetext", `${priceText(price)}: ${pointsText(price)}`);
  byId("price-said").replaceChildren(
    make("span", {}, make("strong", {}, priceText(price)), make("span", { class: "worth" }, `: ${pointsText(price)}`)),
    make(
      "span",
      {},
      `${name}: ${percent(controller.accuracy[state.price][0])} right, ` +
        `cost ${costText(controller.cost[state.price][0])}, rank ${rank} of ${rivals}`,
    ),
  );
}

/** One checkbox per controller and per kind of rule that the runs hold. */
function drawKinds(changed) {
  const controllers = data.policies.filter((policy) => policy.kind === "controller");
  const kinds = Object.keys(KINDS).filter((kind) => data.policies.some((policy) => policy.kind === kind));
  const entries = [
    ...controllers.map((policy) => [keyOf(policy), policyName(policy), policyColour(policy)]),
    ...kinds.map((kind) => [kind, KINDS[kind], `var(--${kind})`]),
  ];
  for (const [key, name, shade] of entries) {
    const box = make("input", { type: "checkbox", checked: true });
    box.addEventListener("change", () => {
      if (box.checked) hidden.delete(key);
      else hidden.add(key);
      changed();
    });
    byId("kinds").append(make("label", {}, box, make("span", { class: "swatch", of: shade }), name));
  }
}
