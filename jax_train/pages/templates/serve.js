"use strict";
const byId = (id) => document.getElementById(id);
const results = byId("results"), status = byId("status"), picker = byId("files");
const TRIES = 20, PAUSE_MS = 500;
let files = [], turn = 0, count = 0;

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const percent = (share) => (100 * share).toFixed(1) + "\u00a0%";
const nameOf = (file) => file.name || "pasted image";

function chosenModels() {
  const second = byId("second").value;
  return [...new Set([byId("first").value, second].filter(Boolean))];
}

async function ask(file, model) {
  const query = new URLSearchParams({ model, top: byId("top").value });
  for (let left = TRIES; ; left--) {
    let answer;
    try {
      answer = await fetch("/explain?" + query, { method: "POST", body: file });
    } catch {
      return { error: "The server does not answer." };
    }
    if (answer.status !== 429 || left === 0) {
      return answer.json().catch(() => ({ error: `The server answers with ${answer.status}.` }));
    }
    await new Promise((done) => setTimeout(done, PAUSE_MS));
  }
}

function bars(classes) {
  return element("ol", { className: "bars" }, ...classes.map((one) => {
    const filled = element("span");
    filled.style.width = 100 * one.probability + "%";
    const bar = element("span", { className: "bar", ariaHidden: "true" }, filled);
    const share = element("span", {}, percent(one.probability));
    return element("li", {}, element("span", {}, one.class), share, bar);
  }));
}

function slider(text, most, value, shown) {
  const said = element("span"), input = element("input", { type: "range", min: 0, max: most });
  input.value = value;
  const tell = () => {
    said.textContent = shown(input.valueAsNumber);
    input.setAttribute("aria-valuetext", said.textContent);
  };
  input.addEventListener("input", tell);
  tell();
  return [element("label", {}, text + ": ", said, input), input];
}

function look(answer, name) {
  const { image, maps } = answer;
  const seen = element("img", { src: image.src, alt: name + ", as the model sees it" });
  const figure = element("div", { className: "look" }, seen);
  if (!maps.length) return element("div", {}, figure);
  const over = element("img", { className: "map" });
  figure.append(over);
  const told = (i) => maps[i].name + ", strongest " + maps[i].where;
  const [which, map] = slider("Where it looks", maps.length - 1, 0, told);
  const [strength, opacity] = slider("Strength", 100, 60, (value) => value + "\u00a0%");
  const draw = () => {
    const one = maps[map.valueAsNumber];
    over.src = one.src;
    over.alt = told(map.valueAsNumber);
    for (const side of ["left", "top", "width", "height"]) over.style[side] = one[side] + "%";
    over.style.opacity = opacity.value / 100;
  };
  map.addEventListener("input", draw);
  opacity.addEventListener("input", draw);
  draw();
  const sliders = [...(maps.length > 1 ? [which] : []), strength];
  return element("div", {}, figure, element("div", { className: "sliders" }, ...sliders));
}

function said(model, answer, name, alone) {
  const title = alone ? [] : [element("h4", {}, model)];
  if (answer.error) {
    return element("section", {}, ...title, element("p", { className: "error" }, answer.error));
  }
  return element("section", {}, ...title, look(answer, name), bars(answer.classes));
}

function summary(name, models, answers) {
  const parts = answers.map((answer, i) => {
    const best = answer.error || answer.classes[0].class + " " + percent(answer.classes[0].probability);
    return (models.length > 1 ? models[i] + ": " : "") + best;
  });
  return name + ": " + parts.join("; ");
}

async function show(file, models) {
  const mine = turn, name = nameOf(file), id = "image-" + ++count;
  const answers = await Promise.all(models.map((model) => ask(file, model)));
  if (mine !== turn) return null;
  const parts = models.map((model, i) => said(model, answers[i], name, models.length === 1));
  const article = element("article", {}, element("h3", { id }, name),
    element("div", { className: "models" }, ...parts));
  article.setAttribute("aria-labelledby", id);
  results.append(article);
  return summary(name, models, answers);
}

async function showAll(wanted) {
  const mine = turn, models = chosenModels(), told = [];
  byId("nothing").hidden = true;
  byId("clear").hidden = false;
  for (const [i, file] of wanted.entries()) {
    status.textContent = `Looking at image ${i + 1} of ${wanted.length} …`;
    told.push(await show(file, models));
    if (mine !== turn) return;
  }
  status.textContent = told.length > 3 ? `${told.length} images are done.` : told.join(". ");
}

let queue = Promise.resolve();
function add(wanted) {
  if (!wanted.length) return;
  files.push(...wanted);
  const mine = turn;
  queue = queue.then(() => (mine === turn ? showAll(wanted) : null));
}

function again() {
  turn++;
  results.replaceChildren();
  const wanted = files;
  files = [];
  add(wanted);
}

function clear() {
  turn++;
  files = [];
  results.replaceChildren();
  status.textContent = "All images are removed.";
  byId("nothing").hidden = false;
  byId("clear").hidden = true;
  picker.focus();
}

picker.addEventListener("change", () => {
  add([...picker.files]);
  picker.value = "";
});
for (const id of ["first", "second", "top"]) byId(id).addEventListener("change", again);
byId("clear").addEventListener("click", clear);
document.addEventListener("paste", (event) => add([...event.clipboardData.files]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  byId("drop").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) byId("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  add([...event.dataTransfer.files]);
});
