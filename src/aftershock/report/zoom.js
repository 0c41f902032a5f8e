"use strict";
// Zooming a timeline. All that has a moment is moved; curves only get another view.
(() => {
  const STEPS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400];
  const SVG = "http://www.w3.org/2000/svg";
  const charts = [...document.querySelectorAll("svg.timeline")].map(read);
  const box = document.querySelector(".zoom");
  if (!charts.length || !box) return;
  const all = [charts[0].start, charts[0].end];
  const around = (box.dataset.around || "").split(" ").map(Number);
  let [from, to] = all;

  function read(svg) {
    const number = (name) => Number(svg.dataset[name]);
    const chart = { svg, start: number("start"), end: number("end"), left: number("left"), right: number("right") };
    chart.plots = [...svg.querySelectorAll("svg.plot")];
    chart.moments = [...svg.querySelectorAll("[data-t]")].filter((one) => !one.closest(".ticks"));
    chart.stretches = [...svg.querySelectorAll("[data-a]")];
    chart.ticks = svg.querySelector(".ticks");
    chart.lanes = chart.plots.map((plot) => {
      const legend = plot.previousElementSibling && [...svg.querySelectorAll("text.tick")].filter((text) =>
        text.querySelector(".value") && text.getAttribute("y") < Number(plot.getAttribute("y"))).pop();
      const values = legend ? [...legend.querySelectorAll(".value")] : [];
      return [...plot.querySelectorAll("path")].map((path) => ({
        points: points(path.getAttribute("d")), height: Number(plot.getAttribute("height")),
        top: Number(path.dataset.top), value: values[Number(path.dataset.n)],
      }));
    }).flat();
    chart.line = make("line", { class: "cursor", y1: 0, y2: svg.viewBox.baseVal.height - 30, visibility: "hidden" });
    chart.chosen = make("rect", { class: "chosen", y: 0, height: svg.viewBox.baseVal.height - 30, visibility: "hidden" });
    svg.append(chart.chosen, chart.line);
    return chart;
  }

  function make(name, attributes, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // A path of M, L, H and V as [x, y] points, null where it breaks off.
  function points(path) {
    const found = [];
    let x = 0, y = 0;
    for (const [, kind, rest] of path.matchAll(/([MLHV])([^MLHV]*)/g)) {
      const numbers = rest.trim().split(/[ ,]+/).map(Number);
      if (kind === "M") found.push(null);
      if (kind === "H") x = numbers[0];
      else if (kind === "V") y = numbers[0];
      else [x, y] = numbers;
      found.push([x, y]);
    }
    return found;
  }

  const place = (chart, at) => chart.left + (chart.right - chart.left) * (at - from) / (to - from);
  const show = (one, visible) => one.setAttribute("visibility", visible ? "visible" : "hidden");

  function draw(chart) {
    for (const plot of chart.plots) {
      plot.setAttribute("viewBox", `${from} 0 ${to - from} ${plot.getAttribute("height")}`);
    }
    for (const one of chart.moments) {
      const at = Number(one.dataset.t), x = place(chart, at);
      show(one, at >= from && at <= to);
      if (one.tagName === "line") { one.setAttribute("x1", x); one.setAttribute("x2", x); }
      else one.setAttribute("x", x + Number(one.dataset.dx));
    }
    for (const one of chart.stretches) {
      const a = Math.max(from, Number(one.dataset.a)), b = Math.min(to, Number(one.dataset.b));
      const x = place(chart, a), width = place(chart, b) - x;
      if (one.tagName === "rect") {
        show(one, b > a);
        one.setAttribute("x", x); one.setAttribute("width", Math.max(width, 0));
      } else {
        show(one, width > Number(one.dataset.room));
        one.setAttribute("x", one.getAttribute("text-anchor") === "middle" ? x + width / 2 : x + 4);
      }
    }
    const { top, floor } = chart.ticks.dataset;
    const step = STEPS.find((s) => (to - from) / s <= (chart.right - chart.left) / 46) || 604800;
    chart.ticks.replaceChildren();
    for (let n = Math.ceil(from / step); n * step <= to; n++) {
      const x = place(chart, n * step);
      chart.ticks.append(make("line", { class: "grid", x1: x, x2: x, y1: top, y2: floor }),
        make("text", { class: "tick", x, y: Number(floor) + 14, "text-anchor": "middle" }, Number((n * step).toFixed(2))));
    }
  }

  function zoom(a, b) {
    const least = 0.2, width = Math.min(Math.max(b - a, least), all[1] - all[0]);
    const middle = (a + b) / 2;
    from = Math.min(Math.max(middle - width / 2, all[0]), all[1] - width);
    to = from + width;
    charts.forEach(draw);
    box.querySelector("output").textContent = to - from < all[1] - all[0] - 0.01 ? `${from.toFixed(1)} to ${to.toFixed(1)} s` : "";
  }

  function value(line, at) {
    let before = null;
    for (const point of line.points) {
      if (point === null) { before = null; continue; }
      if (point[0] > at) {
        if (!before) return null;
        const share = point[0] === before[0] ? 0 : (at - before[0]) / (point[0] - before[0]);
        return line.top * (1 - (before[1] + share * (point[1] - before[1])) / line.height);
      }
      before = point;
    }
    return null;
  }

  function look(chart, at) {
    const inside = at !== null && at >= from && at <= to;
    show(chart.line, inside);
    if (inside) for (const end of ["x1", "x2"]) chart.line.setAttribute(end, place(chart, at));
    for (const line of chart.lanes) {
      if (!line.value) continue;
      const seen = inside ? value(line, at) : null;
      line.value.textContent = seen === null ? "" : ` ${Number(seen.toPrecision(3))}`;
    }
    box.querySelector(".at").textContent = inside ? `at ${at.toFixed(2)} s` : "";
  }

  for (const chart of charts) {
    let begin = null;
    const moment = (event) => {
      const seen = chart.svg.getBoundingClientRect();
      const x = (event.clientX - seen.left) * chart.svg.viewBox.baseVal.width / seen.width;
      const share = (x - chart.left) / (chart.right - chart.left);
      return from + Math.min(Math.max(share, 0), 1) * (to - from);
    };
    chart.svg.addEventListener("pointerdown", (event) => { begin = moment(event); event.pointerType === "mouse" && event.preventDefault(); });
    chart.svg.addEventListener("pointermove", (event) => {
      const at = moment(event);
      look(chart, at);
      if (begin === null) return;
      show(chart.chosen, true);
      chart.chosen.setAttribute("x", place(chart, Math.min(begin, at)));
      chart.chosen.setAttribute("width", Math.abs(place(chart, at) - place(chart, begin)));
    });
    const end = (event) => {
      show(chart.chosen, false);
      if (begin !== null && event.type === "pointerup") {
        const at = moment(event);
        if (Math.abs(place(chart, at) - place(chart, begin)) > 8) zoom(Math.min(begin, at), Math.max(begin, at));
      }
      begin = null;
      if (event.type !== "pointerup") look(chart, null);
    };
    for (const name of ["pointerup", "pointercancel", "pointerleave"]) chart.svg.addEventListener(name, end);
    chart.svg.addEventListener("dblclick", () => zoom(...all));
  }

  const moves = {
    all: () => zoom(...all),
    around: () => zoom(...around),
    in: () => zoom(from + (to - from) / 4, to - (to - from) / 4),
    out: () => zoom(from - (to - from) / 2, to + (to - from) / 2),
    back: () => zoom(from - (to - from) / 2, to - (to - from) / 2),
    on: () => zoom(from + (to - from) / 2, to + (to - from) / 2),
  };
  for (const button of box.querySelectorAll("button")) button.addEventListener("click", moves[button.dataset.do]);
  box.hidden = false;
})();
