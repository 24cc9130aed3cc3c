/* The epoch browser. It reads two inert elements of the page (#epoch-data, JSON; #epoch-pictures,
   Base64 end to end), asks the network for nothing, and writes what models and files say only as
   text (textContent, setAttribute), never as HTML. */
"use strict";
(() => {
  const root = document.getElementById("epochs");
  const island = document.getElementById("epoch-data");
  if (!root || !island) return;
  const data = JSON.parse(island.textContent);
  const n = data.id.length;
  const STAGES = data.stages;
  const ROW = 30; // pixels, as in browser.css
  const AROUND = 12; // neighbours on either side
  const SCORED = [...STAGES, "no label"];
  const ANSWERED = [...STAGES, "unreadable"];
  const VERDICTS = ["right", "wrong", "unreadable", "no label"];
  const FACETS = { true: SCORED, answer: ANSWERED, verdict: VERDICTS };

  // Columns -----------------------------------------------------------------------------------
  const digits = (text) => Uint8Array.from(text, (c) => (c === "-" ? STAGES.length : Number(c)));
  const scored = digits(data.true);
  const answered = digits(data.answer);
  const alone = data.alone ? digits(data.alone) : null;
  const verdict = scored.map((t, i) =>
    answered[i] === STAGES.length ? 2 : t === STAGES.length ? 3 : t === answered[i] ? 0 : 1);
  const column = { true: scored, answer: answered, verdict };
  const hasCertainty = data.probabilities.length > 0;
  const certainty = Float32Array.from({ length: n }, (_, i) => {
    const p = hasCertainty && data.probabilities[i];
    return p ? Math.max(...p) / 10 : -1;
  });
  const offsets = new Float64Array(n);
  for (let i = 1; i < n; i++) offsets[i] = offsets[i - 1] + data.size[i - 1];
  const rowOfId = new Map(data.id.map((id, i) => [id, i]));
  const subjectsOf = data.recordings.map(() => new Set());
  data.recording.forEach((r, i) => subjectsOf[r].add(data.subject[i]));
  const isWrong = (i) => verdict[i] === 1 || verdict[i] === 2;

  // Elements ----------------------------------------------------------------------------------
  function el(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === true) element.setAttribute(name, "");
      else if (value !== false && value !== null) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }
  const swatch = (k) => el("i", { class: "swatch", style: `background:${colour(k)}` });
  const colour = (k) => (k < STAGES.length ? `var(--${STAGES[k]})` : "var(--faint)");
  const stage = (k, names) => el("span", { class: "stage" }, swatch(k), names[k]);
  const count = (x) => x.toLocaleString("en-US");
  const one = (selector) => root.querySelector(selector);
  const [form, list, rowsBox, detail] = [".filters", ".list", ".rows", ".detail"].map(one);
  const fields = Object.fromEntries([...form.elements].filter((f) => f.name).map((f) => [f.name, f]));
  const chips = [...form.querySelectorAll(".chip")];
  const pictures = document.getElementById("epoch-pictures");
  let base64 = null; // taken out of the page when the first picture is shown

  function clock(i) {
    const index = data.index[i];
    const s = data.onset[i] ?? (index === null ? null : index * data.epoch_s);
    if (s === null) return "";
    const two = (x) => String(Math.floor(x)).padStart(2, "0");
    return `${Math.floor(s / 3600)}:${two((s / 60) % 60)}:${two(s % 60)}`;
  }

  // Filters -----------------------------------------------------------------------------------
  const nothing = () => ({ true: new Set(), answer: new Set(), verdict: new Set(), subject: "", low: "", high: "", find: "", order: "" });
  let wanted = nothing();
  let found = new Int32Array(0); // rows of `data` in the order shown
  let chosen = -1; // row of `data`
  let place = -1; // its place in `found`

  /* One pass: each epoch that passes all facets is found; one that only a single facet keeps out
     counts for the chips of that facet. */
  function filter() {
    const needle = wanted.find.trim().toLowerCase();
    const said = needle && data.texts.map(([text]) => text.toLowerCase().includes(needle));
    const of = data[wanted.subject.startsWith("r") ? "recording" : "subject"];
    const name = wanted.subject === "" ? -1 : Number(wanted.subject.slice(1));
    const low = wanted.low === "" ? -Infinity : Number(wanted.low);
    const high = wanted.high === "" ? Infinity : Number(wanted.high);
    const bounded = hasCertainty && (wanted.low !== "" || wanted.high !== "");
    const names = Object.keys(FACETS);
    const passes = names.map((f) => FACETS[f].map((value) => !wanted[f].size || wanted[f].has(value)));
    const counts = names.map((f) => FACETS[f].map(() => 0));
    const hits = [];
    for (let i = 0; i < n; i++) {
      if (name >= 0 && of[i] !== name) continue;
      if (bounded && !(certainty[i] >= Math.max(low, 0) && certainty[i] <= high)) continue;
      if (said && !said[data.text[i]] && !data.id[i].toLowerCase().includes(needle)) continue;
      const failing = names.filter((f, k) => !passes[k][column[f][i]]);
      if (failing.length > 1) continue;
      if (failing.length === 0) hits.push(i);
      names.forEach((f, k) => { if (failing.length === 0 || failing[0] === f) counts[k][column[f][i]]++; });
    }
    if (wanted.order) {
      const sign = wanted.order === "sure" ? -1 : 1;
      hits.sort((a, b) => (certainty[a] < 0) - (certainty[b] < 0) || sign * (certainty[a] - certainty[b]) || a - b);
    }
    found = Int32Array.from(hits);
    return Object.fromEntries(names.map((f, k) => [f, counts[k]]));
  }

  /* Filter again and show what is found. The epoch shown stays (`keep`: even if it is not among them),
     unless all begins `anew`. */
  function refresh({ keep = false, anew = false } = {}) {
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
    one(".all").hidden = !filtered && !wanted.order && !wanted.find;
    rowsBox.style.height = `${found.length * ROW}px`;
    place = found.indexOf(chosen);
    if (anew || (place < 0 && !keep)) show(found.length ? found[0] : -1);
    reveal();
    drawList();
  }

  // List: only what can be seen is in the page ------------------------------------------------
  function drawList() {
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 6);
    const last = Math.min(found.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 6);
    const shown = [];
    for (let k = first; k < last; k++) shown.push(listRow(k));
    if (!found.length) shown.push(el("p", { class: "aside" }, "No epoch is like that."));
    rowsBox.replaceChildren(...shown);
    if (place >= first && place < last) list.setAttribute("aria-activedescendant", `row-${place}`);
    else list.removeAttribute("aria-activedescendant");
  }

  function listRow(k) {
    const i = found[k];
    const selected = i === chosen;
    return el("div", {
      id: `row-${k}`, class: `row ${VERDICTS[verdict[i]].replace(" ", "-")}`, role: "option", "data-row": i,
      "aria-selected": String(selected), "aria-setsize": found.length, "aria-posinset": k + 1, style: `top:${k * ROW}px`,
    },
      el("span", { class: "where" }, whereShort(i)),
      stage(scored[i], SCORED.map((s) => (s === "no label" ? "–" : s))),
      el("span", { class: "arrow", "aria-hidden": "true" }, "→"),
      stage(answered[i], ANSWERED.map((s) => (s === "unreadable" ? "?" : s))),
      hasCertainty ? meter(certainty[i]) : null);
  }

  const meter = (value) => value < 0 ? el("span", { class: "meter none" }) :
    el("span", { class: "meter", title: `certainty ${value.toFixed(1)} %` }, el("i", { style: `width:${value}%` }));

  function whereShort(i) {
    const recording = data.recordings[data.recording[i]];
    if (data.index[i] === null || !recording) return data.id[i];
    const of = data.recordings.length > 1 ? `${recording} · ` : "";
    return `${of}${data.index[i]}`;
  }

  // Choosing ----------------------------------------------------------------------------------
  function show(i) {
    chosen = i;
    place = found.indexOf(i);
    detail.replaceChildren(...(i < 0 ? [] : description(i)));
  }

  /* The reader chose this epoch: from now on the address names it and a print shows it. */
  function choose(i) {
    if (i < 0) return;
    show(i);
    root.classList.add("chosen");
    one(".spoken").textContent = `${title(i)}: ${spoken(i)}`;
    reveal();
    drawList();
    remember();
  }

  /* Next place in the list; an epoch that is not in it stands between two that are. */
  function step(direction, fits = () => true) {
    let k = place >= 0 ? place : direction > 0 ? insertion() - 1 : insertion();
    for (k += direction; k >= 0 && k < found.length; k += direction) {
      if (fits(found[k])) return choose(found[k]);
    }
  }
  function insertion() {
    if (wanted.order) return 0;
    const after = found.findIndex((row) => row > chosen);
    return after < 0 ? found.length : after;
  }

  function beside(direction) {
    const i = chosen + direction;
    if (i >= 0 && i < n && data.recording[i] === data.recording[chosen] && data.index[i] !== null) choose(i);
  }

  /* The epoch that is drawn at a place of a hypnogram: all its parts share one axis of time, whose
     box matplotlib writes as the first clip path. */
  function rowUnder(svg, clientX) {
    const { recording, first, count: length } = svg.closest(".night").dataset;
    const axis = svg.querySelector("clipPath rect");
    const of = data.recordings.indexOf(recording);
    if (!axis || of < 0) return -1;
    const box = svg.getBoundingClientRect();
    const x = ((clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const share = (x - axis.x.baseVal.value) / axis.width.baseVal.value;
    if (share < 0 || share >= 1) return -1;
    const index = Number(first) + Math.floor(share * Number(length));
    let best = -1;
    for (let i = data.recording.indexOf(of); i >= 0 && i < n && data.recording[i] === of; i++) {
      if (best < 0 || Math.abs(data.index[i] - index) < Math.abs(data.index[best] - index)) best = i;
    }
    root.scrollIntoView();
    return best;
  }

  function reveal() {
    if (place < 0) return;
    const top = place * ROW;
    if (top < list.scrollTop) list.scrollTop = top - ROW;
    else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + 2 * ROW - list.clientHeight;
  }

  // Detail ------------------------------------------------------------------------------------
  const title = (i) => (data.index[i] === null ? data.id[i] : `Epoch ${data.index[i]}`);
  const spoken = (i) => `scored ${SCORED[scored[i]]}, answered ${ANSWERED[answered[i]]}` +
    (verdict[i] === 3 ? "" : ` (${VERDICTS[verdict[i]]})`);

  function description(i) {
    const subject = data.subjects[data.subject[i]];
    const whence = [data.recordings[data.recording[i]], subject && `subject ${subject}`, data.index[i] !== null && data.id[i]];
    const time = clock(i);
    const parts = [
      el("h3", {}, title(i), time ? el("span", {}, ` ${time}`) : null),
      el("p", { class: "whence" }, whence.filter(Boolean).join(" · ")),
      el("p", { class: `verdict ${VERDICTS[verdict[i]].replace(" ", "-")}` },
        "scored ", stage(scored[i], SCORED), " answered ", stage(answered[i], ANSWERED), el("b", {}, VERDICTS[verdict[i]])),
      neighbours(i),
      el("div", { class: "sides" },
        picture(i),
        el("div", { class: "texts" }, answer(i), probabilities(i), moduleAlone(i), question(i))),
    ];
    return parts.filter((part) => part !== null);
  }

  function picture(i) {
    const image = el("img", { alt: `Picture of ${title(i)}`, decoding: "async" });
    const caption = el("figcaption");
    const figure = el("figure", { class: "picture" }, image, caption);
    const link = data.link[i] === 0 ? "" : data.way + data.link[i];
    image.addEventListener("load", () => {
      image.classList.toggle("small", image.naturalWidth < 200);
      figure.dataset.shown = data.size[i] ? "embedded" : "linked";
    });
    image.addEventListener("error", () => {
      image.hidden = true;
      caption.textContent = link ? `The picture is not in this file; it belongs at ${decodeURI(link)} beside it.` : "The picture cannot be shown.";
    });
    if (data.size[i]) {
      base64 ??= pictures.textContent;
      image.src = `data:${data.kinds[data.kind[i]]};base64,${base64.substr(offsets[i], data.size[i])}`;
    } else if (link) {
      image.src = link;
      caption.textContent = "From the image folder: this picture is not in this file.";
    } else {
      image.hidden = true;
      caption.textContent = "No picture of this epoch.";
    }
    return figure;
  }

  function answer(i) {
    const [text, begin, end] = data.texts[data.text[i]];
    const said = el("p", { class: "said" });
    if (!text) said.append(el("span", { class: "nothing" }, "(empty)"));
    else if (begin === undefined) said.append(text);
    else said.append(text.slice(0, begin), el("mark", { style: `--mark:${colour(answered[i])}` }, text.slice(begin, end)), text.slice(end));
    const unread = answered[i] === STAGES.length ? el("p", { class: "aside" }, "No stage can be read from it.") : null;
    return el("div", {}, el("h4", {}, "Answer"), said, ...[unread].filter(Boolean));
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
    const apart = answered[i] < STAGES.length && best !== answered[i]
      ? el("p", { class: "aside" }, `The probabilities favour ${STAGES[best]}; the answer says ${STAGES[answered[i]]}.`) : null;
    return el("div", {}, el("h4", {}, "Probabilities"), el("table", { class: "bars" }, el("tbody", {}, ...bars)), apart);
  }

  const moduleAlone = (i) => alone && alone[i] < STAGES.length
    ? el("p", { class: "alone" }, "Vision module alone: ", stage(alone[i], STAGES)) : null;

  function question(i) {
    const text = data.questions[data.question[i]];
    return text ? el("div", {}, el("h4", {}, "Question"), el("p", { class: "asked" }, text)) : null;
  }

  /* The epochs before and after, each with what was scored above what was answered. */
  function neighbours(i) {
    const centre = data.index[i];
    if (centre === null || !data.recordings[data.recording[i]]) return null;
    const at = new Map();
    for (let k = Math.max(0, i - AROUND); k <= Math.min(n - 1, i + AROUND); k++) {
      if (data.recording[k] === data.recording[i] && data.index[k] !== null) at.set(data.index[k], k);
    }
    const of = data.recording[i]; // the rows of a recording lie side by side, in time
    const first = data.index[data.recording.indexOf(of)];
    const last = data.index[data.recording.lastIndexOf(of)] ?? Infinity;
    const cells = [];
    for (let d = -AROUND; d <= AROUND; d++) {
      const k = at.get(centre + d);
      const far = Math.abs(d) > 7 ? " far" : "";
      if (k === undefined) {
        const within = centre + d >= first && centre + d <= last;
        cells.push(el("span", { class: `cell${within ? " gap" : ""}${far}`, title: within ? `epoch ${centre + d} is not in the answers` : null }));
        continue;
      }
      const sure = certainty[k] < 0 ? "" : `, certainty ${certainty[k].toFixed(0)} %`;
      cells.push(el("button", {
        type: "button", class: `cell${far}${isWrong(k) ? " bad" : ""}`, "data-row": k, "aria-current": d === 0 ? "true" : null,
        title: `${title(k)}: ${spoken(k)}${sure}`, "aria-label": `${title(k)}: ${spoken(k)}${sure}`, tabindex: d === 0 ? 0 : -1,
      },
        el("i", { style: `background:${colour(scored[k])}` }),
        el("i", { style: `background:${colour(answered[k])}` }),
        hasCertainty ? el("i", { class: "sure", style: `height:${Math.max(certainty[k], 0) * 0.16}px` }) : null));
    }
    return el("div", { class: "strip", role: "group", "aria-label": "Neighbours: scored above answered" },
      el("span", { class: "names", "aria-hidden": "true" }, el("span", {}, "scored"), el("span", {}, "answered"), hasCertainty ? el("span", {}, "certainty") : null),
      ...cells);
  }

  // The address: #epoch=…&true=…&answer=… -------------------------------------------------------
  let timer = 0;
  function remember() {
    clearTimeout(timer); // a held key would call this more often than browsers allow
    timer = setTimeout(() => {
      const hash = new URLSearchParams();
      if (chosen >= 0 && root.classList.contains("chosen")) hash.set("epoch", data.id[chosen]);
      for (const facet of Object.keys(FACETS)) if (wanted[facet].size) hash.set(facet, [...wanted[facet]].join(","));
      if (wanted.subject) hash.set(wanted.subject[0] === "r" ? "recording" : "subject", fields.subject.selectedOptions[0].dataset.name);
      for (const name of ["low", "high", "find", "order"]) if (wanted[name]) hash.set(name, wanted[name]);
      const text = hash.toString();
      history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
    }, 250);
  }

  function recall() {
    if (!location.hash.includes("=")) return false;
    const hash = new URLSearchParams(location.hash.slice(1));
    wanted = nothing();
    for (const facet of Object.keys(FACETS)) {
      for (const value of (hash.get(facet) ?? "").split(",")) if (FACETS[facet].includes(value)) wanted[facet].add(value);
    }
    for (const [key, names] of [["subject", data.subjects], ["recording", data.recordings]]) {
      const number = hash.has(key) ? names.indexOf(hash.get(key)) : -1;
      const value = number < 0 ? "" : `${key[0]}${number}`;
      if ([...fields.subject.options].some((option) => value && option.value === value)) wanted.subject = value;
    }
    wanted.find = hash.get("find") ?? "";
    for (const name of ["low", "high"]) if (/^\d{1,3}$/.test(hash.get(name) ?? "")) wanted[name] = hash.get(name);
    if (hasCertainty && ["sure", "unsure"].includes(hash.get("order"))) wanted.order = hash.get("order");
    const row = rowOfId.get(hash.get("epoch"));
    if (row !== undefined) show(row);
    refresh({ keep: row !== undefined });
    if (chosen >= 0) choose(chosen);
    root.scrollIntoView();
    return true;
  }

  function changed(how) {
    refresh(how);
    remember();
  }

  // Events ------------------------------------------------------------------------------------
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("click", (event) => {
    const chip = event.target.closest(".chip");
    if (!chip) return;
    const set = wanted[chip.closest("fieldset").dataset.facet];
    if (!set.delete(chip.dataset.value)) set.add(chip.dataset.value);
    changed();
  });
  form.addEventListener("input", (event) => {
    const { name, value } = event.target;
    if (name in fields) {
      wanted[name] = value;
      changed({ anew: name === "order" });
    }
  });
  one(".all").addEventListener("click", () => { wanted = nothing(); changed(); list.focus({ preventScroll: true }); });
  one(".steps").addEventListener("click", (event) => {
    const button = event.target.closest("[data-step]");
    if (button) step(Number(button.dataset.step));
  });
  one(".keys").addEventListener("click", () => one("dialog").showModal());
  let drawing = 0;
  list.addEventListener("scroll", () => { drawing ||= requestAnimationFrame(() => { drawing = 0; drawList(); }); }, { passive: true });
  new ResizeObserver(drawList).observe(list);
  root.addEventListener("click", (event) => {
    const row = event.target.closest("[data-row]");
    if (!row) return;
    choose(Number(row.dataset.row));
    if (row.classList.contains("cell")) one(".cell[aria-current]").focus({ preventScroll: true });
  });
  document.addEventListener("click", (event) => {
    const svg = event.target.closest(".night svg");
    if (svg) choose(rowUnder(svg, event.clientX));
  });
  document.addEventListener("click", (event) => { // the same link twice: the address does not change
    const link = event.target.closest('a[href^="#"]');
    if (link && link.hash === location.hash && link.hash.includes("=")) recall();
  });
  addEventListener("hashchange", recall);

  const KEYS = {
    j: () => step(1), k: () => step(-1), ArrowRight: () => step(1), ArrowLeft: () => step(-1),
    n: () => step(1, isWrong), p: () => step(-1, isWrong), "]": () => beside(1), "[": () => beside(-1),
    x: () => { wanted = nothing(); changed(); },
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
      if (key === "Escape") list.focus({ preventScroll: true });
      if (key === "Enter" && target === fields.find) list.focus({ preventScroll: true });
      return;
    }
    const inside = target === document.body || root.contains(target);
    const action = (target === list && LIST_KEYS[key]) || ((inside || key.length === 1) && KEYS[key]);
    if (!action) return;
    event.preventDefault();
    action();
    const box = root.getBoundingClientRect();
    if (box.bottom < 0 || box.top > innerHeight) root.scrollIntoView();
  });

  // Begin -------------------------------------------------------------------------------------
  function begin() {
    fields.subject.append(el("option", { value: "" }, "all"));
    data.subjects.forEach((subject, s) => {
      const nights = data.recordings.map((_, r) => r).filter((r) => subjectsOf[r].has(s) && data.recordings[r]);
      const alike = nights.length === 1 ? ` · ${data.recordings[nights[0]]}` : "";
      fields.subject.append(el("option", { value: `s${s}`, "data-name": subject }, (subject || "no subject") + alike));
      if (nights.length < 2) return;
      for (const r of nights) {
        fields.subject.append(el("option", { value: `r${r}`, "data-name": data.recordings[r] }, `\u2003${data.recordings[r]}`));
      }
    });
    if (!hasCertainty) for (const name of ["low", "order"]) fields[name].closest("label").remove();
    one(".head .sure").hidden = !hasCertainty;
    for (const chip of chips) {
      const { facet } = chip.closest("fieldset").dataset;
      const k = FACETS[facet].indexOf(chip.dataset.value);
      const optional = facet === "verdict" ? 2 : STAGES.length; // stages stand there even if none is like that
      if (k >= optional && !column[facet].includes(k)) chip.hidden = true;
    }
    if (matchMedia("(max-width: 50rem)").matches) one(".filters-box").open = false;
    root.hidden = false;
    if (!recall()) {
      refresh({ keep: true });
      const first = found.find(isWrong) ?? (n ? 0 : -1);
      show(first);
      reveal();
      drawList();
    }
    root.dataset.ready = "true";
    performance.mark("browser-ready");
  }
  begin();
})();
