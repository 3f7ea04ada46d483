"use strict";

const charts = [...document.querySelectorAll("svg.lines")].map((svg) => {
  const values = [...svg.closest("figure").querySelectorAll(".legend .value")];
  const curves = [...svg.querySelectorAll(".curve")].map((curve, place) => ({
    steps: curve.dataset.steps.split(" ").map(Number), values: curve.dataset.values.split(" "),
    shown: values[place], last: values[place].textContent,
  }));
  const [left, right] = svg.dataset.span.split(" ").map(Number);
  return { svg, curves, left, right, last: Number(svg.dataset.last), rule: svg.querySelector(".rule") };
});

function nearest(steps, step) {
  let low = 0, high = steps.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle + 1; else high = middle;
  }
  return low && step - steps[low - 1] < steps[low] - step ? low - 1 : low;
}

// One step in all charts: what each curve was there.
function show(step) {
  for (const chart of charts) {
    const x = chart.left + (chart.right - chart.left) * step / chart.last;
    chart.rule.setAttribute("x1", x);
    chart.rule.setAttribute("x2", x);
    chart.rule.classList.toggle("on", step <= chart.last);
    for (const curve of chart.curves) {
      const place = nearest(curve.steps, step);
      curve.shown.textContent = `${curve.values[place]} at ${curve.steps[place].toLocaleString("en")}`;
    }
  }
}

function leave() {
  for (const chart of charts) {
    chart.rule.classList.remove("on");
    for (const curve of chart.curves) curve.shown.textContent = curve.last;
  }
}

for (const chart of charts) {
  const follow = (event) => {
    const box = chart.svg.getBoundingClientRect();
    const x = (event.clientX - box.left) * chart.svg.viewBox.baseVal.width / box.width;
    const share = (x - chart.left) / (chart.right - chart.left);
    show(Math.round(Math.min(1, Math.max(0, share)) * chart.last));
  };
  let step = chart.last;
  chart.svg.addEventListener("pointermove", follow);
  chart.svg.addEventListener("pointerdown", follow);
  chart.svg.addEventListener("pointerleave", leave);
  chart.svg.addEventListener("blur", leave);
  chart.svg.addEventListener("keydown", (event) => {
    const way = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!way) return;
    event.preventDefault();
    const steps = chart.curves[0].steps;
    const place = Math.min(steps.length - 1, Math.max(0, nearest(steps, step) + way));
    step = steps[place];
    show(step);
  });
}
