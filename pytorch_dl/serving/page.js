"use strict";

const at = (id) => document.getElementById(id);
const state = { lines: [], line: 0, chosen: [], nbest: 3, beam: 5, maps: new Map(), turn: 0, most: Infinity };

function make(tag, text, attributes = {}) {
  const node = document.createElement(tag);
  if (text) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

async function ask(wish) {
  const body = JSON.stringify(wish);
  if (new Blob([body]).size > state.most) throw new Error("That is too much at once. Translate it in parts, or on the command line.");
  let response;
  try {
    response = await fetch("translate", {
      method: "POST", headers: { "content-type": "application/json" }, body,
    });
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  const told = await response.json().catch(() => ({}));
  if (response.ok) return told.translations;
  const what = told.error || `the server answered with status ${response.status}`;
  throw new Error(what[0].toUpperCase() + what.slice(1) + ".");
}

function tell(status, error = "") {
  at("status").textContent = status;
  at("status").hidden = !status;
  at("error").textContent = error;
  at("error").hidden = !error;
}

async function translate() {
  const text = at("source").value.replace(/\r/g, "").replace(/\n+$/, "");
  if (!text.trim()) {
    tell("Write something to translate.");
    at("source").focus();
    return;
  }
  const turn = ++state.turn;
  at("go").disabled = true;
  clear();
  tell("Translating …");
  try {
    const settings = { beam: Number(at("beam").value), nbest: Number(at("nbest").value) };
    const found = await ask({ text: text.split("\n"), ...settings });
    if (turn !== state.turn) return;
    Object.assign(state, settings, { lines: found, line: 0, chosen: found.map(() => 0), maps: new Map() });
    tell("");
    show();
  } catch (error) {
    tell("", error.message);
  } finally {
    at("go").disabled = false;
  }
}

function clear() {
  at("lines").replaceChildren();
  at("choices").hidden = at("map-card").hidden = true;
}

function show() {
  const many = state.lines.length > 1;
  at("lines").className = many ? "many" : "";
  at("lines").replaceChildren(...state.lines.map((line, number) => {
    const button = make("button", line.alternatives[state.chosen[number]].text, { type: "button" });
    button.setAttribute("aria-current", String(number === state.line));
    if (line.source_cut) button.append(make("small", "longer than the model reads: only the beginning is translated"));
    button.addEventListener("click", () => { state.line = number; show(); at("lines").querySelectorAll("button")[number].focus(); });
    const item = make("li");
    item.append(button);
    return item;
  }));
  showAlternatives();
  showMap();
}

function showAlternatives() {
  const line = state.lines[state.line];
  at("choices-title").textContent = state.lines.length > 1 ? `Alternatives of line ${state.line + 1}` : "Alternatives";
  at("choices").hidden = !line.source.trim();
  at("alternatives").replaceChildren(...line.alternatives.map((one, number) => {
    const checked = number === state.chosen[state.line];
    const button = make("button", "", {
      type: "button", role: "radio", "aria-checked": String(checked), tabindex: checked ? "0" : "-1",
      "aria-label": `${one.text}, score ${figure(one.score)}`,
    });
    const end = one.finished ? "" : " (cut off)";
    button.append(make("span", "", { class: "dot" }), make("span", one.text + end), make("span", figure(one.score), { class: "score" }));
    button.addEventListener("click", () => choose(number));
    return button;
  }));
}

function choose(number) {
  const count = state.lines[state.line].alternatives.length;
  state.chosen[state.line] = (number + count) % count;
  show();
  at("alternatives").children[state.chosen[state.line]].focus();
}

async function showMap() {
  const { line, lines, turn, maps } = state;
  const number = state.chosen[line];
  at("map-card").hidden = !lines[line].source.trim();
  if (at("map-card").hidden) return;
  if (!maps.has(line)) {
    at("map").replaceChildren();
    at("cell").textContent = "\u00a0";
    maps.set(line, ask({ text: lines[line].source, beam: state.beam, nbest: state.nbest, attention: true }));
  }
  try {
    const [found] = await maps.get(line);
    if (turn === state.turn && line === state.line && number === state.chosen[line]) draw(found, found.alternatives[number]);
  } catch (error) {
    maps.delete(line);
    if (turn === state.turn) at("map").replaceChildren(make("p", error.message, { class: "note" }));
  }
}

function draw(found, one) {
  at("cell").textContent = " ";
  if (!one.attention) {
    at("map").replaceChildren(make("p", "This text is too long for a map.", { class: "note" }));
    return;
  }
  const table = make("table");
  const head = table.createTHead().insertRow();
  head.append(make("td"));
  head.firstChild.style.visibility = "hidden";
  for (const token of found.source_tokens) {
    const cell = make("th", "", { scope: "col" });
    const text = readable(token);
    cell.append(make("span", text, { class: [...text].length > 1 ? "long" : "one" }));
    head.append(cell);
  }
  const body = table.createTBody();
  one.attention.forEach((weights, row) => {
    const line = body.insertRow();
    line.append(make("th", readable(one.target_tokens[row]), { scope: "row" }));
    weights.forEach((weight, column) => {
      const cell = line.insertCell();
      cell.style.setProperty("--weight", weight.toFixed(3));
      const words = `“${readable(one.target_tokens[row])}” looked at “${readable(found.source_tokens[column])}”: ${(100 * weight).toFixed(0)} %`;
      cell.setAttribute("aria-label", words);
      cell.addEventListener("mouseenter", () => light(words, head.cells[column + 1], line.firstChild));
      cell.addEventListener("click", () => light(words, head.cells[column + 1], line.firstChild));
    });
  });
  at("map").replaceChildren(table);
}

function light(words, ...cells) {
  for (const lit of at("map").querySelectorAll(".lit")) lit.classList.remove("lit");
  for (const cell of cells) cell.classList.add("lit");
  at("cell").textContent = words;
}

function figure(score) {
  return score.toFixed(3).replace(/^-0\.000$/, "0.000").replace("-", "−");
}

function readable(token) {
  return token === "</s>" ? "end" : token.replace(/[ ▁]/g, "␣").replace(/\t/g, "⇥");
}

at("form").addEventListener("submit", (event) => { event.preventDefault(); if (!at("go").disabled) translate(); });
at("source").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); at("form").requestSubmit(at("go")); }
});
at("alternatives").addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
  if (step) { event.preventDefault(); choose(state.chosen[state.line] + step); }
});
fetch("health").then((answer) => answer.json()).then((health) => {
  at("model").textContent = health.model;
  document.title = `${health.model} – pytorch-dl`;
  state.most = health.limits.body_bytes;
}).catch(() => {});
