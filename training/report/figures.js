// Figures. Names come from files, so they are escaped before Plotly reads them as its markup.

const INTERACTION = {
  displaylogo: false,
  responsive: true,
  displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
};

const escaped = (text) =>
  String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

/** The value behind `var(--name)`, which Plotly cannot read. */
function colour(reference) {
  const name = reference.replace(/^var\(|\)$/g, "");
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function layout(changes) {
  const ink = colour("var(--ink)");
  const axis = {
    gridcolor: colour("var(--line)"),
    zerolinecolor: colour("var(--muted)"),
    linecolor: colour("var(--line)"),
    automargin: true,
    title: { standoff: 8 },
  };
  const touch = !matchMedia("(hover: hover)").matches;
  const base = {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: ink },
    margin: { l: 48, r: 12, t: 12, b: 44 },
    showlegend: false,
    dragmode: touch ? false : "zoom",
    hovermode: "closest",
    hoverlabel: {
      bgcolor: colour("var(--surface)"),
      bordercolor: colour("var(--muted)"),
      font: { color: ink, size: 13 },
      align: "left",
    },
  };
  const merged = { ...base, ...changes };
  for (const name of ["xaxis", "yaxis"]) merged[name] = { ...axis, ...changes[name] };
  return merged;
}

const draw = (id, traces, changes) => Plotly.react(byId(id), traces, layout(changes), INTERACTION);

const isNarrow = () => byId("frontier").clientWidth < 500;

const priceAxis = () => ({
  type: "log",
  title: {
    text: `price (accuracy per ${data.currency ? costText(1) : isNarrow() ? "token" : "small-model token"})`,
    standoff: 8,
  },
  exponentformat: "power",
  dtick: 1,
  automargin: false,
});

function hoverText(policy, p) {
  const setting = policy.settings[p];
  return [
    `<b>${escaped(policyName(policy))}</b>`,
    ...(setting ? [escaped(setting)] : []),
    `price ${priceText(data.prices[p])}`,
    `accuracy ${percent(policy.accuracy[p][0])}  (${between(policy.accuracy[p], percent)})`,
    `cost ${costText(policy.cost[p][0])}  (${between(policy.cost[p], costText)})`,
    `utility ${fixed(policy.utility[p][0])}`,
  ].join("<br>");
}

/** The operating points of [policy, price] pairs that cost something, cheapest first. */
function points(pairs) {
  const sold = pairs.filter(([policy, p]) => policy.cost[p][0] > 0);
  sold.sort(([a, p], [b, q]) => a.cost[p][0] - b.cost[q][0]);
  return {
    x: sold.map(([policy, p]) => policy.cost[p][0]),
    y: sold.map(([policy, p]) => policy.accuracy[p][0]),
    hovertext: sold.map(([policy, p]) => hoverText(policy, p)),
    hoverinfo: "text",
    pairs: sold,
  };
}

const prices = () => data.prices.map((_, p) => p);
const best = (policies, p) =>
  policies.reduce((a, b) => (b.utility[p][0] > a.utility[p][0] ? b : a));

/** A kind's line: at every price its best member. */
function kindLine(kind) {
  const members = data.policies.filter((policy) => policy.kind === kind);
  if (!members.length || hidden.has(kind)) return [];
  const at = points(prices().map((p) => [best(members, p), p]));
  return [{ ...at, mode: "lines", line: { color: colour(`var(--${kind})`), width: 1.5 } }];
}

function oracleLine(policy) {
  const at = points(prices().map((p) => [policy, p]));
  const line = { color: colour("var(--oracle)"), width: 1.5, dash: "dot" };
  return { ...at, mode: "lines", line };
}

function controllerLines(policy) {
  const at = points(prices().map((p) => [policy, p]));
  const ends = (end) => at.pairs.map(([, p]) => policy.accuracy[p][end]);
  const edge = { x: at.x, mode: "lines", line: { width: 0 }, hoverinfo: "skip" };
  const ink = colour(policyColour(policy));
  return [
    { ...edge, y: ends(1) },
    { ...edge, y: ends(2), fill: "tonexty", fillcolor: translucent(ink) },
    { ...at, mode: "lines+markers", line: { color: ink, width: 3 }, marker: { size: 6 } },
  ];
}

const translucent = (hex) => {
  const [red, green, blue] = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  return `rgba(${red},${green},${blue},0.13)`;
};

/** Every policy at the chosen price; controllers with both intervals. */
function atPrice(policies) {
  const p = state.price;
  const dots = points(policies.filter((q) => q.kind !== "controller").map((q) => [q, p]));
  const rules = {
    ...dots,
    mode: "markers",
    marker: {
      size: 9,
      color: colour("var(--paper)"),
      line: { width: 2, color: dots.pairs.map(([policy]) => colour(policyColour(policy))) },
    },
  };
  const bars = (interval) => ({
    type: "data",
    symmetric: false,
    array: [interval[2] - interval[0]],
    arrayminus: [interval[0] - interval[1]],
    thickness: 1.5,
    width: 5,
  });
  const controllers = policies.filter((policy) => policy.kind === "controller");
  return [
    rules,
    ...controllers.map((policy) => ({
      ...points([[policy, p]]),
      mode: "markers",
      error_x: bars(policy.cost[p]),
      error_y: bars(policy.accuracy[p]),
      marker: {
        size: 14,
        color: colour(policyColour(policy)),
        line: { width: 2, color: colour("var(--paper)") },
      },
    })),
  ];
}

/** Where accuracy − price × cost is the chosen controller's: a curve on a log axis. */
function equalUtility(low, high) {
  const utility = ours().utility[state.price][0];
  const x = Array.from({ length: 80 }, (_, i) => low * (high / low) ** (i / 79));
  return {
    x,
    y: x.map((cost) => utility + data.prices[state.price] * cost),
    mode: "lines",
    line: { color: colour("var(--muted)"), width: 1.2, dash: "dash" },
    hoverinfo: "skip",
  };
}

/** Title and ticks of the log axis: at 1, 2 and 5 of every decade where there is room. */
function computeAxis(low, high) {
  const narrow = isNarrow();
  const unit = data.currency ? data.currency.name : "small-model tokens";
  const of = narrow ? "" : " per question";
  const decades = Array.from({ length: 24 }, (_, i) => 10 ** (i - 6));
  const steps = narrow ? [1, 5] : [1, 2, 5];
  const inside = decades
    .flatMap((unit) => steps.map((digit) => digit * unit))
    .filter((value) => value >= low && value <= high);
  return {
    type: "log",
    range: [Math.log10(low), Math.log10(high)],
    title: { text: `${data.currency ? "cost" : "compute"}${of} (${unit})`, standoff: 8 },
    tickvals: inside,
    ticktext: inside.map((value) => (data.currency ? costText(value) : value < 1 ? String(value) : count(value))),
    tickangle: 0,
  };
}

function drawFrontier() {
  const shown = data.policies.filter((policy) => !hidden.has(keyOf(policy)));
  const everywhere = points(data.policies.flatMap((q) => prices().map((p) => [q, p])));
  const low = everywhere.x[0] / 1.3;
  const high = everywhere.x.at(-1) * 1.3;
  const traces = [
    equalUtility(low, high),
    ...Object.keys(KINDS)
      .filter((kind) => kind !== "oracle")
      .flatMap(kindLine),
    ...shown.filter((policy) => policy.kind === "oracle").map(oracleLine),
    ...shown.filter((policy) => policy.kind === "controller").flatMap(controllerLines),
    ...atPrice(shown),
  ].map(({ pairs, ...trace }) => trace);
  const heights = everywhere.y;
  draw("frontier", traces, {
    xaxis: computeAxis(low, high),
    yaxis: {
      title: { text: "accuracy", standoff: 8 },
      tickformat: ".0%",
      range: [Math.min(...heights) - 0.03, Math.max(...heights) + 0.04],
    },
  });
}

function drawLead() {
  const apart = (r) => 1.06 ** (r - (data.runs.length - 1) / 2); // intervals side by side
  const traces = data.runs.map((run, r) => ({
    x: data.prices.map((price) => price * apart(r)),
    y: run.best_rule.map(({ lead }) => lead[0]),
    error_y: {
      type: "data",
      symmetric: false,
      array: run.best_rule.map(({ lead }) => lead[2] - lead[0]),
      arrayminus: run.best_rule.map(({ lead }) => lead[0] - lead[1]),
      thickness: 1.5,
      width: 4,
    },
    mode: "lines+markers",
    line: { color: colour(runColour(r)), width: 2 },
    marker: { size: prices().map((p) => (p === state.price ? 13 : 6)), opacity: 1 },
    hoverinfo: "text",
    hovertext: run.best_rule.map(({ name, lead }, p) =>
      [
        `<b>${escaped(run.name)}</b>`,
        `price ${priceText(data.prices[p])}`,
        `best rule: ${escaped(name)}`,
        `lead ${signed(lead[0])}  (${between(lead, signed)})`,
      ].join("<br>"),
    ),
  }));
  draw("lead", traces, {
    // Plotly comes to no end with margins of its own where leads are far below 0.
    margin: { l: 68, r: 12, t: 12, b: 56 },
    xaxis: priceAxis(),
    yaxis: { automargin: false, title: { text: "lead in utility", standoff: 8 }, rangemode: "tozero", zeroline: true },
  });
}

const givenUp = (group) => group.given_up[state.price] >= 0.005;

function groupNote(group) {
  const right = `${percent(group.accuracy[state.price], 0)} right`;
  const cost = `cost ${costText(group.cost[state.price])}`;
  if (!givenUp(group)) return `${right}<br>${cost}`;
  return `${right}, ${cost}<br>gave up ${percent(group.given_up[state.price], 0)}`;
}

function drawGroups() {
  const { groups } = data.runs[state.run];
  const names = groups.map((group) => escaped(`${group.name} `));
  const actions = Object.keys(groups[0].actions);
  const traces = actions.map((action) => ({
    type: "bar",
    orientation: "h",
    name: escaped(action),
    y: names,
    x: groups.map((group) => group.actions[action][state.price]),
    marker: { color: colour(actionColour(action)) },
    hovertemplate: "%{y}: %{x:.2f} × %{fullData.name} per question<extra></extra>",
  }));
  const notes = groups.map((group, i) => ({
    x: 1,
    xref: "paper",
    xanchor: "left",
    y: names[i],
    showarrow: false,
    align: "left",
    text: groupNote(group),
    font: { size: 12, color: colour("var(--muted)") },
  }));
  byId("groups").style.height = `${60 + 48 * groups.length}px`;
  byId("groups-key").replaceChildren(...actions.map((action) => chip(action)));
  draw("groups", traces, {
    barmode: "stack",
    bargap: 0.35,
    margin: { l: 48, r: groups.some(givenUp) ? 130 : 84, t: 4, b: 44 },
    annotations: notes,
    xaxis: { title: { text: "actions per question", standoff: 8 } },
    yaxis: { autorange: "reversed" },
  });
  const said = groups.map((group) => {
    const done = actions.map((action) => `${fixed(group.actions[action][state.price], 2)} ${action}`);
    return `${group.name}: ${percent(group.accuracy[state.price])} right, per question ${done.join(", ")}`;
  });
  byId("groups").setAttribute("aria-label", `Actions by kind of question. ${said.join(". ")}.`);
}

/** By title: what to see in a training curve, and its metrics. */
const PANELS = {
  "utility per episode (dotted: validation)": ["Rises while it learns.", "episodic/utility", "validation/utility"],
  "share of right answers": ["Need not rise: what is saved counts, too.", "episodic/right"],
  "cost per episode": ["Falls where it learns to stop.", "episodic/cost"],
  "samples per episode": ["Attempts by the small model.", "episodic/samples"],
  "escalations per episode": ["Attempts by larger models.", "episodic/escalations"],
  "revisions per episode": ["Attempts that rewrite another.", "episodic/revisions"],
  "forced answers per episode": ["Answers that were due before the attempt was done.", "episodic/forced"],
  "entropy of the policy (nats)": ["Falls as decisions become certain; at 0 nothing new is tried.", "losses/entropy"],
  "explained variance of the value": ["Near 1 it foresees what an episode will bring.", "losses/explained_variance"],
  "approximate KL per update": ["How far an update moves the policy: small and steady is good.", "losses/approx_kl"],
};

function curveTraces(metrics) {
  return data.runs.flatMap((run, r) =>
    run.curves.flatMap((curve) =>
      metrics
        .filter((metric) => curve.metrics[metric])
        .map((metric, m) => ({
          x: curve.steps,
          y: curve.metrics[metric],
          connectgaps: true,
          mode: m ? "lines+markers" : "lines",
          marker: { size: 4 },
          line: { color: colour(runColour(r)), width: 1.5, dash: m ? "dot" : "solid" },
          name: escaped(curve.name ? `${run.name}, ${curve.name}` : run.name),
          hovertemplate: "%{y:.4~g} after %{x:.3~s} steps<extra>%{fullData.name}</extra>",
        })),
    ),
  );
}

function drawCurves() {
  Object.entries(PANELS).forEach(([title, [caption, ...metrics]], i) => {
    const traces = curveTraces(metrics);
    if (!traces.length) return;
    const id = `curve-${i}`;
    if (!byId(id)) {
      const plot = make("div", { class: "plot", id, role: "group", "aria-label": `Training curve: ${title}` });
      byId("curves").append(make("figure", {}, make("h3", {}, title), plot, make("figcaption", {}, caption)));
    }
    draw(id, traces, { xaxis: { title: { text: "steps" }, nticks: 5 }, yaxis: { nticks: 5 } });
  });
}
