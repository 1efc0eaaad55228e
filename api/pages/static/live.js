// Keeps a page as its server would render it now. All text comes ready from there and is set as text only.

const PERIOD = 1000;
const PATIENCE = 10000;

function bind(root, state) {
  for (const element of root.querySelectorAll("[data-bind]")) {
    const value = state[element.dataset.bind];
    if (value === undefined) continue;
    if (element instanceof HTMLProgressElement) {
      element.value = value;
      element.hidden = state.is_terminal || (state.status === "queued" && !element.classList.contains("wide"));
    } else if (element.textContent !== String(value)) {
      element.textContent = value;
    }
    if (element.dataset.bind === "status") element.dataset.status = value;
  }
}

function showList(section, state) {
  const body = section.querySelector("tbody");
  const template = section.querySelector("template");
  let after = null;
  for (const job of state.jobs) {
    let row = body.querySelector(`[data-job="${CSS.escape(job.id)}"]`);
    if (!row) {
      row = template.content.querySelector("tr").cloneNode(true);
      row.dataset.job = job.id;
      row.querySelector("a").href = `/jobs/${encodeURIComponent(job.id)}`;
      if (after) after.after(row); else body.prepend(row);
    }
    bind(row, job);
    const sweep = row.querySelector("a.sweep");
    sweep.hidden = !job.sweep;
    if (job.sweep) sweep.href = job.sweep;
    after = row;
  }
  show(section, "jobs", state.jobs.length > 0);
  show(section, "empty", state.jobs.length === 0);
}

function showJob(section, state) {
  if (JSON.stringify(state.layout) !== JSON.stringify(JSON.parse(section.dataset.layout))) {
    location.reload();
    return;
  }
  bind(section, state);
  const ticks = section.querySelectorAll("[data-tick]");
  for (const [place, tick] of (state.chart ? state.chart.y_ticks : []).entries()) {
    ticks[place].textContent = tick.text;
  }
  for (const line of state.chart ? state.chart.lines : []) {
    section.querySelector(`[data-points="${line.name}"]`)?.setAttribute("points", line.points);
    const label = section.querySelector(`[data-label="${line.name}"]`);
    if (label) {
      label.textContent = line.label;
      label.setAttribute("y", line.label_y);
    }
  }
}

function show(section, name, visible) {
  const part = section.querySelector(`[data-if="${name}"]`);
  if (part) part.hidden = !visible;
}

async function refresh(section) {
  if (document.hidden) return;
  try {
    const answer = await fetch(section.dataset.live, { signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) throw new Error(answer.statusText);
    const state = await answer.json();
    (section.dataset.kind === "list" ? showList : showJob)(section, state);
    show(section, "stale", false);
  } catch {
    show(section, "stale", true);
  }
}

async function follow(section) {
  while (!("done" in section.dataset)) {
    await new Promise((resolve) => setTimeout(resolve, PERIOD));
    await refresh(section);
  }
}

for (const section of document.querySelectorAll("[data-live]")) follow(section);

// A link to a part that is folded opens it.
function unfold() {
  const part = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (part instanceof HTMLDetailsElement) part.open = true;
}
addEventListener("hashchange", unfold);
unfold();
