// The curves of one job, drawn with uPlot and extended as steps are reported.
"use strict";

window.charts = (() => {
  const section = document.getElementById("charts");
  // Beyond this many new points the thinned curves are asked for again.
  const RELOAD_AFTER = 500;
  let columns = null, fresh = 0, plots = {};

  const color = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const short = value => value == null ? "–" : Number(value.toPrecision(3)).toLocaleString("en");
  const size = bytes => bytes == null ? "–" : `${(bytes / 1e9).toPrecision(3)} GB`;

  const CURVES = {
    loss: { write: short, lines: [["loss", "training loss", "--train"], ["held", "held-out loss", "--held"]] },
    speed: { write: short, lines: [["tokens_per_second", "tokens/s", "--train"]] },
    memory: {
      write: size,
      lines: [["memory_bytes", "process", "--train"], ["cuda_reserved_bytes", "GPU, reserved", "--held"]],
    },
  };

  // Held-out losses come at few steps: a column with gaps puts them on the same axis.
  function held() {
    const at = new Map(columns.eval_step.map((step, i) => [step, columns.eval_loss[i]]));
    const column = columns.step.map(() => null);
    for (const [step, loss] of at) {
      const i = columns.step.findIndex(one => one >= step);
      column[i < 0 ? column.length - 1 : i] = loss;
    }
    return column;
  }

  // A line without values, such as the GPU's memory on a machine without one, is left out.
  const known = name => name === "held" ? columns.eval_step.length > 0 : columns[name].some(value => value != null);
  const shown = curve => curve.lines.filter(([name], i) => i === 0 || known(name));
  const data = curve => [columns.step, ...shown(curve).map(([name]) => name === "held" ? held() : columns[name])];

  function draw(name, curve) {
    const place = section.querySelector(`[data-curve="${name}"] .plot`);
    const grid = { stroke: color("--line"), width: 1 };
    const font = "12px system-ui, sans-serif";
    const axis = { stroke: color("--muted"), grid, ticks: { show: false }, font };
    const options = {
      width: place.clientWidth,
      height: 220,
      scales: { x: { time: false } },
      cursor: { drag: { x: false, y: false } },
      axes: [{ ...axis, grid: { show: false } }, { ...axis, size: 64, values: (_, ticks) => ticks.map(curve.write) }],
      series: [{ label: "step" }, ...shown(curve).map(([column, label, ink]) => ({
        label,
        stroke: color(ink),
        width: 1.75,
        spanGaps: true,
        points: { show: column === "held" || columns.step.length < 30, size: column === "held" ? 7 : 4, fill: color(ink) },
        value: (_, value) => curve.write(value),
      }))],
    };
    place.replaceChildren();
    plots[name] = new uPlot(options, data(curve), place);
  }

  function drawAll() {
    section.hidden = columns.step.length === 0;
    if (section.hidden) return;
    for (const [name, curve] of Object.entries(CURVES)) draw(name, curve);
  }

  async function load() {
    const answer = await fetch(section.dataset.curves);
    if (!answer.ok) return;
    columns = await answer.json();
    fresh = 0;
    drawAll();
  }

  let pending = false;
  function update() {
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => {
      pending = false;
      if (section.hidden || columns.step.length < 30) drawAll();
      else for (const [name, curve] of Object.entries(CURVES)) {
        if (plots[name].series.length === shown(curve).length + 1) plots[name].setData(data(curve));
        else draw(name, curve);
      }
    });
  }

  function forgetFrom(step) {
    while (columns.step.length && columns.step.at(-1) >= step) {
      for (const name of Object.keys(columns)) if (!name.startsWith("eval_")) columns[name].pop();
    }
  }

  let tokens = null;
  function step(event) {
    if (!columns) return;
    if (++fresh > RELOAD_AFTER) { load(); return; }
    forgetFrom(event.step);
    const before = tokens;
    tokens = event.content_tokens;
    columns.step.push(event.step);
    columns.loss.push(event.loss);
    columns.learning_rate.push(event.learning_rate);
    columns.memory_bytes.push(event.memory_bytes ?? null);
    columns.cuda_reserved_bytes.push(event.cuda_reserved_bytes ?? null);
    columns.tokens_per_second.push(before != null && tokens > before ? (tokens - before) / event.seconds : null);
    update();
  }

  function evaluation(event) {
    if (!columns || event.loss == null) return;
    columns.eval_step.push(event.step);
    columns.eval_loss.push(event.loss);
    drawAll();
  }

  if (!section) return null;
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => columns && drawAll());
  let width = 0;
  new ResizeObserver(() => {
    if (!columns || section.clientWidth === width) return;
    width = section.clientWidth;
    drawAll();
  }).observe(section);
  load();
  return { step, evaluation };
})();
