// Tables and texts are there before Plotly, which comes last on the page, has been read.

function drawNumbers() {
  sayPrice();
  drawTable();
  drawEpisode();
}

/** Figures by the id of what they are drawn in; those out of sight wait until they are seen. */
const figures = { frontier: drawFrontier, lead: drawLead, groups: drawGroups, curves: drawCurves };
const stale = new Set();
const inSight = new Set();

function redraw(...ids) {
  for (const id of ids) stale.add(id);
  for (const id of [...stale].filter((id) => inSight.has(id))) {
    stale.delete(id);
    figures[id]();
  }
}

function watchFigures() {
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) inSight.add(target.id);
        else inSight.delete(target.id);
      }
      redraw();
    },
    { rootMargin: "300px" },
  );
  for (const id of Object.keys(figures)) observer.observe(byId(id));
  redraw(...Object.keys(figures));
  addEventListener("beforeprint", () => Object.values(figures).forEach((drawNow) => drawNow()));
}

/** At most once per frame, however fast the slider moves. */
function choosePrice(to) {
  state.price = to;
  state.step = 0;
  byId("price").value = to;
  drawNumbers();
  if (!choosePrice.waiting) {
    choosePrice.waiting = true;
    requestAnimationFrame(() => {
      choosePrice.waiting = false;
      redraw("frontier", "lead", "groups");
    });
  }
}

function chooseRun(to) {
  state.run = to;
  state.step = 0;
  for (const place of document.querySelectorAll("[data-of-run]")) {
    place.textContent = several ? ` of ${data.runs[to].name}` : "";
  }
  sayPrice();
  drawEpisode();
}

byId("price").addEventListener("input", (event) => choosePrice(Number(event.target.value)));
byId("run").addEventListener("change", (event) => {
  chooseRun(Number(event.target.value));
  redraw("frontier", "groups");
});
drawKinds(() => {
  drawTable();
  redraw("frontier");
});
drawQuestions();
listenToExplorer();
state.price = Number(byId("price").value);
state.question = mostDecisions();
drawNumbers();
chooseRun(0);

document.addEventListener("DOMContentLoaded", () => {
  byId("frontier").setAttribute("aria-label", "Accuracy against compute; the table below holds the numbers.");
  byId("lead").setAttribute("aria-label", "Lead of the controller over the best rule at each price.");
  if (!data.runs.some((run) => run.curves.length)) {
    byId("curves").append(make("p", { class: "note" }, "These runs keep no training curve."));
  }
  watchFigures();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw(...Object.keys(figures)));
});
