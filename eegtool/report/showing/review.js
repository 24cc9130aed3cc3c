/* The review: every epoch, its picture, what the model says of it, and a pencil. It reads two inert elements
   of the page (#epoch-data, JSON; #epoch-pictures, Base64 end to end), asks the network for nothing, and
   writes what models, files and people say only as text (textContent, setAttribute), never as HTML. */
"use strict";
(() => {
  const root = document.getElementById("epochs");
  const data = JSON.parse(document.getElementById("epoch-data").textContent);
  const n = data.id.length;
  const STAGES = data.stages;
  const NONE = STAGES.length; // the digit of no stage
  const ROW = 30; // pixels, as in review.css
  const AROUND = 12; // neighbours on either side
  const SCORED = [...STAGES, "no label"];
  const ANSWERED = [...STAGES, "unreadable"];
  const VERDICTS = ["right", "wrong", "unreadable", "no label"];
  const REVIEW = ["open", "confirmed", "corrected"];
  const FACETS = { true: SCORED, answer: ANSWERED, verdict: VERDICTS, review: REVIEW };

  // Columns -----------------------------------------------------------------------------------
  const digits = (text) => Uint8Array.from(text, (c) => (c === "-" ? NONE : Number(c)));
  const scored = digits(data.true);
  const answered = digits(data.answer);
  const alone = digits(data.alone);
  const labelled = scored.some((k) => k < NONE);
  const verdict = scored.map((t, i) => (answered[i] === NONE ? 2 : t === NONE ? 3 : t === answered[i] ? 0 : 1));
  const column = { true: scored, answer: answered, verdict, review: new Uint8Array(n) };
  const hasCertainty = data.probabilities.length > 0;
  const certainty = Float32Array.from({ length: n }, (_, i) => (hasCertainty && data.probabilities[i] ? Math.max(...data.probabilities[i]) / 10 : -1));
  const offsets = new Float64Array(n);
  for (let i = 1; i < n; i++) offsets[i] = offsets[i - 1] + data.size[i - 1];
  const rowOfId = new Map(data.id.map((id, i) => [id, i]));
  const isWrong = (i) => verdict[i] === 1 || verdict[i] === 2;
  const firstOf = (i) => data.recording.indexOf(data.recording[i]); // the rows of a night lie side by side, in time
  const lastOf = (i) => data.recording.lastIndexOf(data.recording[i]);

  // Elements ----------------------------------------------------------------------------------
  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) if (value !== false && value !== null) element.setAttribute(name, value === true ? "" : value);
    element.append(...children.filter((child) => child !== null));
    return element;
  }
  const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  const drawn = (tag, attributes = {}, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
  const colour = (k) => (k < NONE ? `var(--${STAGES[k]})` : "var(--faint)");
  const stage = (k, names) => el("span", { class: "stage" }, el("i", { class: "swatch", style: `background:${colour(k)}` }), names[k]);
  const count = (x) => x.toLocaleString("en-US");
  const one = (selector) => document.querySelector(selector);
  const [form, list, rowsBox, detail, nights, chart, who] = [".filters", ".list", ".rows", ".detail", "[name=night]", ".chart", "[name=by]"].map(one);
  const fields = Object.fromEntries([...form.elements].filter((f) => f.name).map((f) => [f.name, f]));
  const chips = [...form.querySelectorAll(".chip")];
  const hasOption = (way) => [...fields.subject.options].some(({ value }) => value === way);
  let base64 = null; // taken out of the page when the first picture is shown

  function clock(i) {
    const s = data.onset[i] ?? (data.index[i] === null ? null : data.index[i] * data.epoch_s);
    const two = (x) => String(Math.floor(x)).padStart(2, "0");
    return s === null ? "" : `${Math.floor(s / 3600)}:${two((s / 60) % 60)}:${two(s % 60)}`;
  }

  // The pencil: what was decided, kept in this browser ------------------------------------------
  const SHELF = `eegvlm review ${data.key}`;
  const marks = new Map(); // row -> { stage: digit or null, at: ISO time, by, note }
  let past = []; // [id, what its mark was before], the latest last
  const keeps = (() => {
    try { localStorage.setItem(`${SHELF} test`, ""); localStorage.removeItem(`${SHELF} test`); return true; } catch { return false; }
  })();

  function mark(i, to) {
    if (to) marks.set(i, to); else marks.delete(i);
    column.review[i] = !to || to.stage === null ? 0 : to.stage === answered[i] ? 1 : 2;
  }

  function keep() {
    if (!keeps) return;
    const kept = { by: who.value, past, marks: [...marks].map(([i, m]) => [data.id[i], m]) };
    try { localStorage.setItem(SHELF, JSON.stringify(kept)); } catch { warn("This browser keeps nothing more: save now."); }
  }

  function restore() {
    if (!keeps) return warn("This browser keeps nothing of a page that is opened as a file: save before you close it.");
    try {
      const kept = JSON.parse(localStorage.getItem(SHELF) ?? "{}");
      const right = (m) => m && (m.stage === null || (Number.isInteger(m.stage) && m.stage >= 0 && m.stage < NONE));
      for (const [id, m] of kept.marks ?? []) if (rowOfId.has(id) && right(m)) mark(rowOfId.get(id), m);
      past = (kept.past ?? []).filter(([id, m]) => rowOfId.has(id) && (m === null || right(m)));
      who.value = kept.by ?? "";
    } catch { warn("What this browser had kept of the review cannot be read."); }
  }

  const warn = (text) => { one(".warning").hidden = !text; one(".warning").textContent = text; };
  const final = (i) => marks.get(i)?.stage ?? answered[i];

  function note(i, change) {
    const before = marks.get(i) ?? null;
    past.push([data.id[i], before]);
    const after = { stage: null, at: "", by: "", note: "", ...before, ...change };
    mark(i, after.stage === null && !after.note ? null : after);
    keep();
    drawStages();
  }

  /* A stage is decided: it is written down, and the next epoch comes. */
  function decide(k) {
    if (chosen < 0 || k === NONE) return;
    const i = chosen;
    note(i, { stage: k, at: new Date().toISOString(), by: who.value });
    if (!step(1)) choose(i);
    one(".spoken").textContent = `${title(i)} is ${STAGES[k]}. ${one(".spoken").textContent}`;
  }

  function undo() {
    const last = past.pop();
    if (!last) return;
    const i = rowOfId.get(last[0]);
    mark(i, last[1]);
    keep();
    drawStages();
    choose(i);
  }

  /* NIGHT_reviewed.csv: every epoch of the night, so that it is a scoring by itself. */
  function save() {
    if (chosen < 0) return;
    if (data.index[chosen] === null || !data.recordings[data.recording[chosen]]) return warn("This answer does not say which epoch of which recording it is about: nothing to save.");
    if (!who.value.trim()) { warn("Who reviews? Type a name, then save."); return who.focus(); }
    warn("");
    const text = (s) => (/^\p{C}*\s*[=+\-@＝＋－＠]/u.test(s) ? `'${s}` : s).replace(/\s+/g, " ");
    const cell = (x) => (/[",]/.test(x) ? `"${x.replaceAll('"', '""')}"` : x);
    const [first, last] = [firstOf(chosen), lastOf(chosen)];
    const night = data.recordings[data.recording[chosen]];
    const lines = [data.columns];
    for (let i = first; i <= last; i++) {
      const m = marks.get(i) ?? { stage: null, at: "", by: "", note: "" };
      const decided = m.stage !== null;
      lines.push([text(night), data.index[i], data.onset[i] ?? data.index[i] * data.epoch_s, data.epoch_s, STAGES[final(i)] ?? "?", STAGES[answered[i]] ?? "?",
        certainty[i] < 0 ? "" : (certainty[i] / 100).toFixed(3), decided ? text(m.by || who.value) : "", decided ? m.at : "", text(m.note), last - first + 1]);
    }
    const blob = new Blob([lines.map((line) => line.map((x) => cell(String(x))).join(",")).join("\n") + "\n"], { type: "text/csv" });
    const link = el("a", { href: URL.createObjectURL(blob), download: `${night.replace(/[^\p{L}\p{N}_.-]/gu, "_").replace(/^\.+/, "") || "night"}_reviewed.csv` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    one(".spoken").textContent = `${link.download} saved`;
  }

  // Hypnogram and hypnodensity of the night ------------------------------------------------------
  const DEPTH = ["W", "REM", "N1", "N2", "N3"].map((s) => STAGES.indexOf(s)); // from above
  const place_of = (i) => data.index[i] ?? i - firstOf(i);
  let night = -1; // first row of the night that is drawn

  function drawNight() {
    if (chosen < 0 || (night >= 0 && firstOf(chosen) === night)) return drawCursor();
    night = firstOf(chosen);
    nights.value = String(data.recording[chosen]);
    const last = lastOf(night);
    const [begin, length] = [place_of(night), place_of(last) - place_of(night) + 1];
    const density = DEPTH.map(() => "");
    for (let i = night; hasCertainty && i <= last; i++) {
      const shares = data.probabilities[i];
      let y = 60;
      if (shares) DEPTH.forEach((k, d) => { const h = shares[k] * 0.03; if (h > 0.1) density[d] += `M${place_of(i)} ${y.toFixed(1)}h1v${h.toFixed(1)}h-1z`; y += h; });
    }
    const hours = [];
    for (let h = Math.ceil((begin * data.epoch_s) / 3600); h * 3600 < (begin + length) * data.epoch_s; h++) hours.push(h);
    const at = (epoch) => `${((epoch - begin) / length) * 100}%`;
    chart.replaceChildren(
      drawn("svg", { viewBox: `${begin} 0 ${length} ${hasCertainty ? 90 : 58}`, preserveAspectRatio: "none" },
        ...DEPTH.map((k, d) => drawn("path", { d: density[d], fill: colour(k) })), drawn("g", { class: "stages" })),
      el("i", { class: "cursor" }), ...hours.map((h) => el("small", { style: `left:${at((h * 3600) / data.epoch_s)}` }, `${h} h`)));
    chart.classList.toggle("dense", hasCertainty);
    drawStages();
  }

  /* The final stages in their colours, over a line of what the model said; a tick marks what was corrected. */
  function drawStages() {
    if (night < 0) return;
    const bars = STAGES.map(() => "");
    let [line, ticks, before, done, changed] = ["", "", -2, 0, 0];
    const last = lastOf(night);
    for (let i = night; i <= last; i++) {
      const [x, k, row] = [place_of(i), final(i), DEPTH.indexOf(answered[i])];
      if (k < NONE) bars[k] += `M${x} ${DEPTH.indexOf(k) * 10 + 6}h1v6h-1z`;
      if (row >= 0) { line += `${before === x - 1 ? "V" : `M${x} `}${row * 10 + 9}H${x + 1}`; before = x; }
      if (column.review[i]) { done++; changed += column.review[i] - 1; ticks += `M${x} ${column.review[i] === 2 ? 0 : 2.5}h1v${column.review[i] === 2 ? 4 : 1.5}h-1z`; }
    }
    chart.querySelector(".stages").replaceChildren(drawn("path", { d: line, class: "line" }),
      ...bars.map((d, k) => drawn("path", { d, fill: colour(k) })), drawn("path", { d: ticks, class: "ticks" }));
    one(".progress").textContent = `${count(done)} of ${count(last - night + 1)} epochs reviewed, ${count(changed)} corrected`;
    one(".undo").disabled = !past.length;
    drawCursor();
  }

  function drawCursor() {
    const svg = chart.querySelector("svg");
    if (svg) chart.querySelector(".cursor").style.left = `${((place_of(chosen) + 0.5 - svg.viewBox.baseVal.x) / svg.viewBox.baseVal.width) * 100}%`;
  }

  function rowUnder(clientX) {
    const box = chart.getBoundingClientRect();
    const { x, width } = chart.querySelector("svg").viewBox.baseVal;
    const wanted = x + ((clientX - box.left) / box.width) * width - 0.5;
    let best = night;
    for (let i = night; i <= lastOf(night); i++) if (Math.abs(place_of(i) - wanted) < Math.abs(place_of(best) - wanted)) best = i;
    return best;
  }

  // Filters -----------------------------------------------------------------------------------
  const nothing = () => ({
    ...Object.fromEntries(Object.keys(FACETS).map((facet) => [facet, new Set()])),
    ...{ subject: "", low: "", high: "", find: "", order: hasCertainty && !labelled ? "unsure" : "" },
  });
  let wanted = nothing();
  let found = []; // rows of `data` in the order shown
  let chosen = -1; // row of `data`
  let place = -1; // its place in `found`

  /* One pass: each epoch that passes all facets is found; one that only a single facet keeps out
     counts for the chips of that facet. */
  function filter() {
    const needle = wanted.find.trim().toLowerCase();
    const said = needle && data.texts.map(([text]) => text.toLowerCase().includes(needle));
    const of = data[wanted.subject.startsWith("r") ? "recording" : "subject"];
    const name = wanted.subject === "" ? -1 : Number(wanted.subject.slice(1));
    const bounded = hasCertainty && (wanted.low !== "" || wanted.high !== "");
    const [low, high] = [Math.max(Number(wanted.low), 0), wanted.high === "" ? Infinity : Number(wanted.high)];
    const facets = Object.keys(FACETS).map((f) => ({ f, of: column[f], counts: FACETS[f].map(() => 0), passes: FACETS[f].map((value) => !wanted[f].size || wanted[f].has(value)) }));
    found = [];
    for (let i = 0; i < n; i++) {
      if (name >= 0 && of[i] !== name) continue;
      if (bounded && !(certainty[i] >= low && certainty[i] <= high)) continue;
      if (said && !said[data.text[i]] && !data.id[i].toLowerCase().includes(needle)) continue;
      const failing = facets.filter((facet) => !facet.passes[facet.of[i]]);
      if (failing.length > 1) continue;
      for (const facet of failing.length ? failing : facets) facet.counts[facet.of[i]]++;
      if (!failing.length) found.push(i);
    }
    if (wanted.order) {
      const sign = wanted.order === "sure" ? -1 : 1;
      found.sort((a, b) => (certainty[a] < 0) - (certainty[b] < 0) || sign * (certainty[a] - certainty[b]) || a - b);
    }
    return Object.fromEntries(facets.map(({ f, counts }) => [f, counts]));
  }

  /* Filter again and show what is found. The epoch shown stays (`keep`: even if it is not among them),
     unless all begins `again`. */
  function refresh({ keep = false, again = false } = {}) {
    const counts = filter();
    for (const chip of chips) {
      const { facet } = chip.closest("fieldset").dataset;
      const { value } = chip.dataset;
      const total = counts[facet][FACETS[facet].indexOf(value)];
      chip.setAttribute("aria-pressed", wanted[facet].has(value));
      chip.querySelector("small").textContent = count(total);
      chip.classList.toggle("empty", total === 0);
    }
    for (const field of Object.values(fields)) if (field.value !== wanted[field.name]) field.value = wanted[field.name];
    const filtered = found.length < n;
    one(".count").textContent = filtered ? `${count(found.length)} of ${count(n)} epochs` : `${count(n)} epochs`;
    one(".all").hidden = !filtered && wanted.order === nothing().order && !wanted.find;
    rowsBox.style.height = `${found.length * ROW}px`;
    place = found.indexOf(chosen);
    if (again || (place < 0 && !keep)) show(found.length ? found[0] : -1);
    reveal();
    drawList();
  }

  // List: only what can be seen is in the page ------------------------------------------------
  function drawList() {
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 6);
    const last = Math.min(found.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 6);
    const shown = Array.from({ length: Math.max(0, last - first) }, (_, k) => listRow(first + k));
    rowsBox.replaceChildren(...(found.length ? shown : [el("p", { class: "aside" }, "No epoch is like that.")]));
    if (place >= first && place < last) list.setAttribute("aria-activedescendant", `row-${place}`);
    else list.removeAttribute("aria-activedescendant");
  }

  function listRow(k) {
    const i = found[k];
    const done = column.review[i];
    return el("div", {
      id: `row-${k}`, class: `row ${VERDICTS[verdict[i]].replace(" ", "-")} ${REVIEW[done]}`, role: "option", "data-row": i,
      "aria-selected": String(i === chosen), "aria-setsize": found.length, "aria-posinset": k + 1, style: `top:${k * ROW}px`,
    },
      el("span", { class: "where" }, whereShort(i)),
      labelled ? stage(scored[i], SCORED.map((s) => (s === "no label" ? "–" : s))) : el("span"),
      stage(answered[i], ANSWERED.map((s) => (s === "unreadable" ? "?" : s))),
      done ? el("span", { class: "mine" }, "✎ ", stage(final(i), STAGES)) : el("span"),
      certainty[i] < 0 ? null : el("span", { class: "meter", title: `certainty ${certainty[i].toFixed(1)} %` }, el("i", { style: `width:${certainty[i]}%` })));
  }

  function whereShort(i) {
    const recording = data.recordings[data.recording[i]];
    if (data.index[i] === null || !recording) return data.id[i];
    return `${data.index[i]}${data.recordings.length > 1 ? ` · ${recording}` : ""}`;
  }

  // Choosing ----------------------------------------------------------------------------------
  function show(i) {
    chosen = i;
    place = found.indexOf(i);
    detail.replaceChildren(...(i < 0 ? [] : description(i)));
    drawNight();
  }

  /* The reader chose this epoch: from now on the address names it and a print shows it. */
  function choose(i) {
    if (i < 0) return false;
    show(i);
    root.classList.add("chosen");
    one(".spoken").textContent = `${title(i)}: ${spoken(i)}`;
    reveal();
    drawList();
    remember();
    return true;
  }

  /* Next place in the list; an epoch that is not in it stands between two that are. */
  function step(direction, fits = () => true) {
    const after = found.findIndex((row) => row > chosen);
    const between = wanted.order ? 0 : after < 0 ? found.length : after;
    for (let k = (place >= 0 ? place : direction > 0 ? between - 1 : between) + direction; k >= 0 && k < found.length; k += direction) {
      if (fits(found[k])) return choose(found[k]);
    }
    return false;
  }

  function beside(direction) {
    const i = chosen + direction;
    if (i >= 0 && i < n && data.recording[i] === data.recording[chosen] && data.index[i] !== null) choose(i);
  }

  function reveal() {
    if (place < 0) return;
    const top = place * ROW;
    if (top < list.scrollTop) list.scrollTop = top - ROW;
    else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + 2 * ROW - list.clientHeight;
  }

  // Detail ------------------------------------------------------------------------------------
  const title = (i) => (data.index[i] === null ? data.id[i] : `Epoch ${data.index[i]}`);
  const spoken = (i) => (labelled ? `scored ${SCORED[scored[i]]}, ` : "") + `answered ${ANSWERED[answered[i]]}` + (verdict[i] === 3 ? "" : ` (${VERDICTS[verdict[i]]})`);

  function description(i) {
    const subject = data.subjects[data.subject[i]];
    const where = [data.recordings[data.recording[i]], subject && `subject ${subject}`, data.index[i] !== null && data.id[i]];
    const done = column.review[i];
    const pencil = DEPTH.map((k, d) => el("button", { type: "button", "data-stage": k, "aria-pressed": String(done > 0 && final(i) === k) }, stage(k, STAGES), " ", el("kbd", {}, "WR123"[d])));
    const beforehand = el("input", { name: "note", placeholder: "note", "aria-label": "Note", value: marks.get(i)?.note ?? "", autocomplete: "off" });
    beforehand.addEventListener("change", () => note(i, { note: beforehand.value.trim() }));
    const parts = [
      el("h3", {}, title(i), clock(i) ? el("span", {}, ` ${clock(i)}`) : null),
      el("p", { class: "origin" }, where.filter(Boolean).join(" · ")),
      el("p", { class: `verdict ${VERDICTS[verdict[i]].replace(" ", "-")}` }, ...(labelled ? ["scored ", stage(scored[i], SCORED)] : []),
        "answered ", stage(answered[i], ANSWERED), labelled ? el("b", {}, VERDICTS[verdict[i]]) : null,
        done ? el("em", {}, ` ${REVIEW[done]}${done === 2 ? ` to ${STAGES[final(i)]}` : ""} by ${marks.get(i).by || "you"}`) : null),
      el("div", { class: "pencil", role: "group", "aria-label": "Correct the stage" }, ...pencil, beforehand),
      neighbours(i),
      el("div", { class: "sides" }, el("div", { class: "pictures" }, picture(i, ""), ...[i - 1, i + 1].map((k) => (isBeside(k, i) ? picture(k, k < i ? "before: " : "after: ") : null))),
        el("div", { class: "texts" }, probabilities(i), answer(i), measured(i), question(i))),
    ];
    return parts.filter((part) => part !== null);
  }

  const isBeside = (k, i) => k >= 0 && k < n && data.recording[k] === data.recording[i] && data.index[i] !== null && Math.abs(data.index[k] - data.index[i]) === 1 && (data.size[k] > 0 || data.link[k] !== 0);

  function picture(i, which) {
    const image = el("img", { alt: `Picture of ${title(i)}`, decoding: "async" });
    const caption = el("figcaption", {}, which && `${which}${ANSWERED[answered[i]]}`);
    const link = data.link[i] === 0 ? "" : data.way + data.link[i];
    const figure = el("figure", { class: which ? "picture beside" : "picture" }, image, caption);
    image.addEventListener("load", () => {
      image.classList.toggle("small", image.naturalWidth < 200);
      figure.dataset.shown = data.size[i] ? "embedded" : "linked";
    });
    image.addEventListener("error", () => {
      image.hidden = true;
      caption.textContent = link ? `The picture is not in this file; it belongs at ${decodeURI(link)} beside it.` : "The picture cannot be shown.";
    });
    if (data.size[i]) {
      base64 ??= document.getElementById("epoch-pictures").textContent;
      image.src = `data:${data.kinds[data.kind[i]]};base64,${base64.slice(offsets[i], offsets[i] + data.size[i])}`;
    } else if (link) {
      image.src = link;
      caption.textContent ||= "From the image folder: this picture is not in this file.";
    } else {
      image.hidden = true;
      caption.textContent = "No picture of this epoch.";
    }
    return figure;
  }

  const box = (name, ...parts) => el("div", {}, el("h4", {}, name), ...parts);

  function answer(i) {
    const [text, begin, end] = data.texts[data.text[i]];
    const said = el("p", { class: "said" });
    if (!text) said.append(el("span", { class: "nothing" }, "(empty)"));
    else if (begin === undefined) said.append(text);
    else said.append(text.slice(0, begin), el("mark", { style: `--mark:${colour(answered[i])}` }, text.slice(begin, end)), text.slice(end));
    const words = data.words[data.id[i]];
    return box("Answer", said, words ? el("p", { class: "said" }, words) : null, answered[i] === NONE ? el("p", { class: "aside" }, "No stage can be read from it.") : null,
      alone[i] < NONE ? el("p", { class: "alone" }, "Vision module alone: ", stage(alone[i], STAGES)) : null);
  }

  function probabilities(i) {
    const shares = hasCertainty && data.probabilities[i];
    if (!shares) return null;
    const best = shares.indexOf(Math.max(...shares));
    const bars = shares.map((share, k) => el("tr", { class: k === best ? "best" : false },
      el("th", { scope: "row" }, stage(k, STAGES)),
      el("td", { class: "bar" }, el("i", { style: `width:${share / 10}%;background:${colour(k)}` })),
      el("td", {}, `${(share / 10).toFixed(1)} %`),
      el("td", { class: "role" }, [k === scored[i] && "scored", k === answered[i] && "answered"].filter(Boolean).join(", "))));
    return box("Probabilities", el("table", { class: "bars" }, el("tbody", {}, ...bars)),
      answered[i] < NONE && best !== answered[i] ? el("p", { class: "aside" }, `The probabilities favour ${STAGES[best]}; the answer says ${STAGES[answered[i]]}.`) : null);
  }

  const measured = (i) => data.facts[data.id[i]] ? box("Measured", el("p", { class: "facts" }, data.facts[data.id[i]])) : null;
  const question = (i) => data.questions[data.question[i]] ? box("Question", el("p", { class: "asked" }, data.questions[data.question[i]])) : null;

  /* The epochs before and after, each with what was scored above what was answered. */
  function neighbours(i) {
    const centre = data.index[i];
    if (centre === null || !data.recordings[data.recording[i]]) return null;
    const at = new Map();
    const [first, last] = [firstOf(i), lastOf(i)];
    for (let k = Math.max(first, i - AROUND); k <= Math.min(last, i + AROUND); k++) at.set(data.index[k], k);
    const cells = [];
    for (let d = -AROUND; d <= AROUND; d++) {
      const k = at.get(centre + d);
      const far = Math.abs(d) > 7 ? " far" : "";
      if (k === undefined) {
        const within = centre + d >= data.index[first] && centre + d <= data.index[last];
        cells.push(el("span", { class: `cell${within ? " gap" : ""}${far}`, title: within ? `epoch ${centre + d} is not in the answers` : null }));
        continue;
      }
      const name = `${title(k)}: ${spoken(k)}${certainty[k] < 0 ? "" : `, certainty ${certainty[k].toFixed(0)} %`}`;
      cells.push(el("button", { type: "button", class: `cell${far}${isWrong(k) ? " bad" : ""}`, "data-row": k, "aria-current": d === 0 ? "true" : null, title: name, "aria-label": name, tabindex: d === 0 ? 0 : -1 },
        el("i", { style: `background:${labelled ? colour(scored[k]) : colour(final(k))}` }), el("i", { style: `background:${colour(answered[k])}` }),
        hasCertainty ? el("i", { class: "sure", style: `height:${Math.max(certainty[k], 0) * 0.16}px` }) : null));
    }
    const names = [labelled ? "scored" : "reviewed", "answered", hasCertainty && "certainty"].filter(Boolean).map((name) => el("span", {}, name));
    return el("div", { class: "strip", role: "group", "aria-label": `Neighbours: ${labelled ? "scored" : "reviewed"} above answered` },
      el("span", { class: "names", "aria-hidden": "true" }, ...names), ...cells);
  }

  // The address: #epoch=…&true=…&answer=… -------------------------------------------------------
  let timer = 0;
  function remember() {
    clearTimeout(timer); // a held key would call this more often than browsers allow
    timer = setTimeout(() => {
      const { subject, ...others } = wanted;
      const kept = { epoch: root.classList.contains("chosen") ? data.id[chosen] : "", ...others };
      if (subject) kept[subject[0] === "r" ? "recording" : "subject"] = fields.subject.selectedOptions[0].dataset.name;
      const said = Object.entries(kept).map(([name, value]) => [name, value instanceof Set ? [...value].join(",") : value]);
      const text = new URLSearchParams(said.filter(([, value]) => value)).toString();
      history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
    }, 250);
  }

  function recall() {
    if (!location.hash.includes("=")) return false;
    const hash = new URLSearchParams(location.hash.slice(1));
    const said = (name) => hash.get(name) ?? "";
    wanted = nothing();
    for (const facet in FACETS) wanted[facet] = new Set(said(facet).split(",").filter((value) => FACETS[facet].includes(value)));
    for (const [key, names] of [["subject", data.subjects], ["recording", data.recordings]]) {
      const value = `${key[0]}${names.indexOf(hash.get(key))}`;
      if (hasOption(value)) wanted.subject = value;
    }
    wanted.find = said("find");
    for (const name of ["low", "high"]) if (/^\d{1,3}$/.test(said(name))) wanted[name] = said(name);
    if (hasCertainty && ["sure", "unsure"].includes(said("order"))) wanted.order = said("order");
    const row = rowOfId.get(hash.get("epoch")) ?? data.recording.indexOf(data.recordings.indexOf(hash.get("recording") ?? "\0"));
    if (row >= 0) show(row);
    refresh({ keep: row >= 0 });
    choose(chosen);
    return true;
  }

  function changed(how) {
    refresh(how);
    remember();
  }

  // Events ------------------------------------------------------------------------------------
  const on = (selector, type, act) => one(selector).addEventListener(type, act);
  on(".filters", "submit", (event) => event.preventDefault());
  on(".filters", "click", (event) => {
    const chip = event.target.closest(".chip");
    if (!chip) return;
    const set = wanted[chip.closest("fieldset").dataset.facet];
    if (!set.delete(chip.dataset.value)) set.add(chip.dataset.value);
    changed();
  });
  on(".filters", "input", ({ target: { name, value } }) => {
    if (!(name in fields)) return;
    wanted[name] = value;
    changed({ again: name === "order" });
  });
  const all = () => { wanted = nothing(); changed(); };
  on(".all", "click", () => { all(); list.focus({ preventScroll: true }); });
  on(".keys", "click", () => one("dialog").showModal());
  on(".undo", "click", undo);
  on(".save", "click", save);
  on("[name=by]", "input", () => { warn(""); keep(); });
  on("[name=night]", "input", () => { // one night is reviewed at a time: the list holds its epochs
    const r = Number(nights.value);
    wanted.subject = [`r${r}`, `s${data.subject[data.recording.indexOf(r)]}`].find(hasOption) ?? "";
    changed({ again: true });
    choose(chosen);
  });
  on(".chart", "click", (event) => choose(rowUnder(event.clientX)));
  let drawing = 0;
  list.addEventListener("scroll", () => { drawing ||= requestAnimationFrame(() => { drawing = 0; drawList(); }); }, { passive: true });
  new ResizeObserver(drawList).observe(list);
  root.addEventListener("click", ({ target }) => {
    const [row, stageButton, stepButton] = ["[data-row]", "[data-stage]", "[data-step]"].map((s) => target.closest(s));
    if (row) { choose(Number(row.dataset.row)); if (row.classList.contains("cell")) one(".cell[aria-current]").focus({ preventScroll: true }); }
    if (stageButton) decide(Number(stageButton.dataset.stage));
    if (stepButton) step(Number(stepButton.dataset.step));
  });
  addEventListener("hashchange", recall);

  const byName = (name) => () => decide(STAGES.indexOf(name));
  const KEYS = {
    w: byName("W"), r: byName("REM"), 1: byName("N1"), 2: byName("N2"), 3: byName("N3"), Enter: () => decide(answered[chosen] ?? NONE), u: undo, s: save,
    c: () => one("[name=note]")?.focus(), o: () => { wanted.order = wanted.order ? "" : "unsure"; changed({ again: !!wanted.order }); },
    j: () => step(1), k: () => step(-1), ArrowRight: () => step(1), ArrowLeft: () => step(-1),
    n: () => step(1, isWrong), p: () => step(-1, isWrong), "]": () => beside(1), "[": () => beside(-1), x: all,
    "/": () => { one(".filters-box").open = true; fields.find.focus(); fields.find.select(); }, "?": () => one("dialog").showModal(),
  };
  const page = () => Math.max(1, Math.floor(list.clientHeight / ROW) - 1);
  const jump = (k) => { if (found.length) choose(found[Math.min(Math.max(k, 0), found.length - 1)]); };
  const LIST_KEYS = {
    ArrowDown: () => step(1), ArrowUp: () => step(-1), Home: () => jump(0), End: () => jump(found.length - 1),
    PageDown: () => jump(place + page()), PageUp: () => jump(place - page()),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || one("dialog").open) return;
    const { target, key } = event;
    if (target.matches("input, select, textarea")) {
      if (key === "Escape" || (key === "Enter" && target.matches("input"))) list.focus({ preventScroll: true });
      return;
    }
    if (key === "Enter" && target.matches("button, a, summary")) return; // presses it
    const action = (target === list && LIST_KEYS[key]) || KEYS[key.length === 1 ? key.toLowerCase() : key];
    if (!action) return;
    event.preventDefault();
    action();
  });

  // Begin -------------------------------------------------------------------------------------
  fields.subject.append(el("option", { value: "" }, "all"));
  const subjectsOf = data.recordings.map(() => new Set());
  data.recording.forEach((r, i) => subjectsOf[r].add(data.subject[i]));
  data.recordings.forEach((name, r) => nights.append(el("option", { value: r }, name || "no recording")));
  data.subjects.forEach((subject, s) => {
    const of = data.recordings.map((_, r) => r).filter((r) => subjectsOf[r].has(s) && data.recordings[r]);
    const alike = of.length === 1 ? ` · ${data.recordings[of[0]]}` : "";
    fields.subject.append(el("option", { value: `s${s}`, "data-name": subject }, (subject || "no subject") + alike));
    for (const r of of.length > 1 ? of : []) fields.subject.append(el("option", { value: `r${r}`, "data-name": data.recordings[r] }, `\u2003${data.recordings[r]}`));
  });
  if (!hasCertainty) for (const name of ["low", "order"]) fields[name].closest("label").remove();
  one(".head .sure").hidden = !hasCertainty;
  root.classList.toggle("labelled", labelled);
  for (const chip of chips) {
    const { facet } = chip.closest("fieldset").dataset;
    const k = FACETS[facet].indexOf(chip.dataset.value);
    const optional = facet === "review" ? 9 : facet === "verdict" ? 2 : NONE; // stages stand there even if none is like that
    if (k >= optional && !column[facet].includes(k)) chip.hidden = true;
    if (!labelled && (facet === "true" || facet === "verdict")) chip.closest("fieldset").hidden = true;
  }
  root.hidden = false;
  restore();
  if (!recall()) {
    refresh({ keep: true });
    show((labelled ? found.find(isWrong) : undefined) ?? found[0] ?? -1);
    reveal();
    drawList();
  }
  root.dataset.ready = "true";
  performance.mark("browser-ready");
})();
