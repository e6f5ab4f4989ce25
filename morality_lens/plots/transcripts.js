(function () {
  "use strict";
  const BLUE = "33,102,172", RED = "192,40,50", ORANGE = "200,105,0";
  const MISSING = -32768, PAGE = 40;
  const EDGES = {
    question: "#7f7f7f", answer_request: "#c5ccd3", answer: "#8a94a0", review: "#9aa4ae", instruction: "#0072b2",
    cot_request: "#d55e00", rationale: "#d55e00", thought: "#d55e00", feedback: "#009e73", evidence: "#cc79a7",
  };
  const OUTCOMES = {
    r: ["right", "\u2713"], w: ["wrong", "\u2717"], u: ["unparsed", "?"], a: ["answered", "\u2022"], "-": ["not played", "\u2013"],
  };
  const ANSWERS = { r: "right", w: "wrong", u: "unparsed", a: "answered", c: "changed since the round before" };
  const ATTENTION = "attention of a head", PLAIN = "nothing";

  function make(tag, kind, text) {
    const node = document.createElement(tag);
    if (kind) node.className = kind;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  function number(value) {
    if (value === null) return "no value";
    const text = Math.abs(value) >= 1000 ? value.toPrecision(4) : value.toFixed(Math.abs(value) < 1 ? 3 : 2);
    return (value > 0 ? "+" : "") + text.replace("-", "\u2212");
  }

  const layerName = (layer) => (layer === -1 ? "embedding" : "layer " + layer);
  const readable = (name) => name.replace(/_/g, " ");

  // A colour over the background of the page, light or dark: the stronger, the less of it shows through.
  function color(share, positive, negative) {
    const strength = Math.min(1, Math.abs(share));
    return "rgba(" + (share < 0 ? negative : positive) + "," + (0.82 * strength).toFixed(3) + ")";
  }

  // Half of a character cannot be part of an address.
  const wellFormed = (text) => text.replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd");
  const address = (item, condition) => "#dialogue=" + encodeURIComponent(wellFormed(item)) + "|" + encodeURIComponent(condition);
  function addressed() {
    if (!location.hash.startsWith("#dialogue=")) return null;
    let text = location.hash.slice("#dialogue=".length);
    try { text = decodeURIComponent(text); } catch (error) { return null; }
    const cut = text.lastIndexOf("|");
    return cut < 0 ? null : { item: text.slice(0, cut), condition: text.slice(cut + 1) };
  }

  // ---------------------------------------------------------------------------------- dialogues of this page
  const outcomeIs = (one, round, wanted) =>
    one.rounds.some((told) => (round === "" || told.round === Number(round)) && (wanted === "c" ? told.changed : told.outcome === wanted));

  function embedded(data) {
    const text = (content) => (Array.isArray(content) ? content.map((i) => data.strings[i]).join("") : data.strings[content]);
    const words = (one) => {
      if (one.words === undefined)
        one.words = [one.item, one.title, ...one.pieces.filter((p) => p[2] === "model" || p[0] === "question" || p[0] === "feedback").map((p) => text(p[3]))].join("\n").toLowerCase();
      return one.words;
    };
    const matches = (one, query) =>
      (!query.condition || one.condition === query.condition) && (!query.category || one.category === query.category) &&
      (!query.outcome || outcomeIs(one, query.round, query.outcome)) &&
      query.words.toLowerCase().split(/\s+/).every((word) => words(one).includes(word));
    const find = (item, condition) => data.dialogues.find((one) => wellFormed(one.item) === wellFormed(item) && one.condition === condition);
    return {
      about: data.about,
      list(query, cursor, size) {
        const found = data.dialogues.filter((one) => matches(one, query)), from = cursor || 0;
        const next = from + size < found.length ? from + size : null;
        return Promise.resolve({ rows: found.slice(from, from + size), cursor: next, total: found.length });
      },
      dialogue(item, condition) {
        const one = find(item, condition);
        return one ? Promise.resolve({ ...one, strings: data.strings, scales: data.scales }) : Promise.reject(new Error("This page holds no dialogue of " + item + " under " + condition + "."));
      },
      conditions: (item) => data.dialogues.filter((one) => one.item === item).map((one) => one.condition),
    };
  }

  function unpack(colours) {
    if (colours.grid) return colours;
    const raw = atob(colours.values), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    colours.grid = new DataView(bytes.buffer);
    colours.width = raw.length / 2 / colours.layers.length;
    return colours;
  }

  function valueAt(colours, row, position) {
    const step = unpack(colours).grid.getInt16(2 * (row * colours.width + position), true);
    return step === MISSING ? null : step * colours.scale[row];
  }

  // A short picture of one token's value at every layer.
  function profile(colours, position, current) {
    const ns = "http://www.w3.org/2000/svg", width = 190, height = 48;
    const svg = document.createElementNS(ns, "svg");
    const put = (tag, attributes) => {
      const node = document.createElementNS(ns, tag);
      for (const key in attributes) node.setAttribute(key, attributes[key]);
      svg.appendChild(node);
    };
    const about = { width: width, height: height, role: "img", "aria-label": "value of this token over layers" };
    for (const key in about) svg.setAttribute(key, about[key]);
    const values = colours.layers.map((_, row) => valueAt(colours, row, position));
    const most = Math.max(1e-12, ...values.map((v) => Math.abs(v === null ? 0 : v)));
    const x = (row) => 5 + row / Math.max(1, values.length - 1) * (width - 10);
    const y = (v) => height / 2 - v / most * (height / 2 - 5);
    put("line", { x1: 0, x2: width, y1: height / 2, y2: height / 2, stroke: "#98a1ab" });
    const points = values.map((v, row) => (v === null ? null : x(row) + "," + y(v))).filter((p) => p !== null);
    put("polyline", { points: points.join(" "), fill: "none", stroke: "#7d8894", "stroke-width": 1.5 });
    if (values[current] !== null && values[current] !== undefined)
      put("circle", { cx: x(current), cy: y(values[current]), r: 4, fill: values[current] < 0 ? "#c02832" : "#2166ac" });
    return svg;
  }

  function bars(options, told) {
    const list = make("ul", "mlt-options");
    options.forEach((option, i) => {
      const share = told.probabilities ? told.probabilities[i] : null;
      const row = make("li", "mlt-option");
      const marks = [option.good ? "right option" : "", told.choice === i ? "chosen" : ""].filter(Boolean);
      row.classList.toggle("mlt-good", Boolean(option.good));
      row.classList.toggle("mlt-chosen", told.choice === i);
      const name = make("span", "mlt-option-name");
      name.append(make("b", "", option.sign), " ", make("bdi", "", option.text), ...marks.map((mark) => make("span", "mlt-mark", mark)));
      row.appendChild(name);
      if (share !== null && share !== undefined) {
        const bar = make("span", "mlt-bar-room"), inside = make("span", "mlt-bar-share");
        bar.setAttribute("aria-hidden", "true");
        inside.style.width = (100 * share).toFixed(1) + "%";
        bar.appendChild(inside);
        row.append(bar, make("span", "mlt-share", (100 * share).toFixed(1) + " %"));
      }
      list.appendChild(row);
    });
    return list;
  }

  function start(root, source) {
    const about = source.about, links = Boolean(about.links);
    const state = { shown: null, direction: null, layer: null, token: null, pointed: null, asked: 0, rows: [], cursor: null, reading: false, weights: null };
    let spans = [];

    // -------------------------------------------------------------------------------------- what there is
    const choose = make("div", "mlt-choose");
    choose.setAttribute("role", "search");
    choose.setAttribute("aria-label", "Choose a dialogue");
    const chooser = (into, text, kind, options) => {
      const label = make("label", "", text), select = make("select", kind);
      for (const [value, shown] of options) {
        const option = make("option", "", shown);
        option.value = value;
        select.appendChild(option);
      }
      label.appendChild(select);
      label.hidden = options.length < 2;
      into.appendChild(label);
      return select;
    };
    const named = (all, values) => (values && values.length ? [["", all], ...values] : []);
    const filters = {
      condition: chooser(choose, "Components", "mlt-f-condition", about.conditions.length > 1 ? named("all conditions", about.conditions.map((c) => [c, c])) : []),
      outcome: chooser(choose, "Answer", "mlt-f-outcome", named("any answer", [...(about.outcomes || "")].map((o) => [o, ANSWERS[o]]))),
      round: chooser(choose, "in", "mlt-f-round", named("any round", Array.from({ length: about.rounds || 0 }, (_, n) => [String(n), "round " + n]))),
      category: chooser(choose, "Category", "mlt-f-category", (about.categories || []).length > 1 ? named("all categories", about.categories.map((c) => [c, c])) : []),
    };
    filters.round.parentNode.hidden = filters.outcome.parentNode.hidden || (about.rounds || 0) < 2;
    const searchLabel = make("label", "", "Search"), search = make("input", "mlt-search");
    search.type = "search";
    search.placeholder = "words of the item or a reply";
    searchLabel.appendChild(search);
    choose.appendChild(searchLabel);

    const found = make("div", "mlt-found"), count = make("div", "mlt-count"), list = make("ol", "mlt-list"), more = make("button", "mlt-more", "Show more");
    count.setAttribute("role", "status");
    list.setAttribute("aria-label", "Dialogues");
    more.type = "button";
    found.append(count, list, more);
    if (about.missing) found.appendChild(make("p", "mlt-missing", about.missing));

    const panel = make("div", "mlt-panel"), head = make("div", "mlt-head"), bar = make("div", "mlt-bar"), legend = make("div", "mlt-legend");
    const body = make("div", "mlt-body mlt-hide-template"), info = make("div", "mlt-info"), note = make("div", "mlt-status");
    note.setAttribute("role", "status");
    body.tabIndex = 0;
    body.setAttribute("role", "region");
    body.setAttribute("aria-label", "Dialogue");
    const before = make("button", "mlt-step mlt-before", "\u2190"), after = make("button", "mlt-step mlt-after", "\u2192");
    before.setAttribute("aria-label", "Dialogue before");
    after.setAttribute("aria-label", "Next dialogue");
    before.type = after.type = "button";
    const title = make("h4", "mlt-title"), where = make("div", "mlt-where"), link = make("a", "mlt-link", "link to this dialogue");
    link.hidden = !links;
    const conditions = chooser(where, "Components", "mlt-condition", []);
    const itemName = make("span", "mlt-item");
    where.prepend(itemName);
    where.append(link);
    head.append(before, after, title, where);

    const by = chooser(bar, "Colour by", "mlt-direction", []);
    const sliderLabel = make("label", "", "Layer"), slider = make("input", "mlt-layer"), sliderText = make("output");
    slider.type = "range";
    slider.step = 1;
    slider.min = 0;
    sliderLabel.append(slider, sliderText);
    bar.appendChild(sliderLabel);
    const headLabel = make("label", "", "Head"), headBox = make("input", "mlt-attention-head");
    headBox.type = "number";
    headBox.min = headBox.value = 0;
    headLabel.appendChild(headBox);
    bar.appendChild(headLabel);
    const white = chooser(bar, "No colour at", "mlt-white", [["median", "the median token"], ["zero", "zero"]]);
    const boxLabel = make("label"), box = make("input", "mlt-show-template");
    box.type = "checkbox";
    boxLabel.append(box, make("span", "", "template tokens"));
    const read = make("button", "mlt-read", "Read it with the model, to colour its tokens");
    read.type = "button";
    bar.append(boxLabel, read);
    const notes = make("div", "mlt-notes");
    panel.append(head, notes, bar, note, legend, body, info);
    info.setAttribute("aria-live", "polite");

    // -------------------------------------------------------------------------------------- the list
    function query() {
      const asked = { words: search.value.trim() };
      for (const name in filters) asked[name] = filters[name].value;
      return asked;
    }

    function row(one) {
      const entry = make("li"), button = make("button", "mlt-entry"), outcomes = make("span", "mlt-outcomes");
      button.type = "button";
      const words = [];
      (one.outcomes || "").split("").forEach((o, n) => {
        outcomes.appendChild(make("span", "mlt-o mlt-o-" + o, OUTCOMES[o][1])).setAttribute("aria-hidden", "true");
        words.push("round " + n + " " + OUTCOMES[o][0]);
      });
      button.append(make("bdi", "mlt-entry-item", one.item), make("span", "mlt-entry-condition", one.condition), outcomes);
      if (words.length) button.setAttribute("aria-label", [one.item, one.condition, ...words].join(", "));
      button.addEventListener("click", () => go(one.item, one.condition));
      entry.appendChild(button);
      one.button = button;
      return entry;
    }

    function mark() {
      for (const one of state.rows)
        if (state.shown && one.item === state.shown.item && one.condition === state.shown.condition) one.button.setAttribute("aria-current", "true");
        else one.button.removeAttribute("aria-current");
      const here = state.rows.findIndex((one) => one.button.hasAttribute("aria-current"));
      before.disabled = here <= 0;
      after.disabled = here < 0 || here === state.rows.length - 1;
    }

    async function fill(further) {
      const asked = ++state.asked;
      if (!further) {
        state.rows = [];
        state.cursor = null;
        list.textContent = "";
      }
      more.hidden = true;
      const wanted = state.rows.length + PAGE;
      try {
        do {
          const page = await source.list(query(), state.cursor, wanted - state.rows.length);
          if (asked !== state.asked) return;
          state.cursor = page.cursor;
          for (const one of page.rows) {
            const own = { ...one };
            state.rows.push(own);
            list.appendChild(row(own));
          }
          const all = page.total === undefined ? state.rows.length + (page.cursor === null ? "" : " or more") : page.total;
          count.textContent = all + (all === 1 ? " dialogue" : " dialogues") + (about.total && all !== about.total ? " of " + about.total : "") + (page.searched ? ", " + page.searched : "");
        } while (state.cursor !== null && state.rows.length < wanted && source.goesOn);
      } catch (error) {
        count.textContent = error.message;
      }
      more.hidden = state.cursor === null;
      mark();
    }

    // -------------------------------------------------------------------------------------- one dialogue
    function go(item, condition) {
      const to = address(item, condition);
      if (links && location.hash !== to) location.hash = to;  // shown when the address has changed
      else show(item, condition);
    }

    async function show(item, condition) {
      const asked = (state.wanted = {});
      note.textContent = "";
      try {
        const one = await source.dialogue(item, condition);
        if (asked !== state.wanted) return;
        lay(one);
      } catch (error) {
        note.textContent = error.message;
      }
      mark();
    }

    function lay(one) {
      state.shown = one;
      state.token = state.pointed = null;
      state.weights = null;
      state.names = Object.keys(one.colours || {});
      title.textContent = one.title || one.item;
      itemName.textContent = "Item " + one.item + (one.category ? ", " + one.category : "");
      link.href = address(one.item, one.condition);
      refill(conditions, (source.conditions ? source.conditions(one.item) : about.conditions).map((c) => [c, c]), one.condition);
      const modes = state.names.map((n) => [n, n || "the direction"]);
      if (source.attention && one.spans !== false) modes.push([ATTENTION, ATTENTION]);
      if (modes.length) modes.push([PLAIN, PLAIN]);
      const kept = modes.some(([value]) => value === state.direction) ? state.direction : modes.length ? (state.names.length ? modes[0][0] : PLAIN) : PLAIN;
      refill(by, modes, kept);
      by.parentNode.hidden = modes.length < (state.names.length ? 3 : 2);
      read.hidden = !source.tokens || state.names.length > 0;
      boxLabel.hidden = !one.pieces.some((p) => p[2] === "template");
      turn(kept);
      columns(one);
      paint();
      if (!read.hidden && state.reading) colour();
    }

    function refill(select, options, value) {
      select.textContent = "";
      for (const [key, shown] of options) {
        const option = make("option", "", shown);
        option.value = key;
        select.appendChild(option);
      }
      select.value = value;
      select.parentNode.hidden = options.length < 2;
    }

    // Another direction: it opens at the layer that was chosen, or at its own best one.
    function turn(direction) {
      state.direction = direction;
      const colours = state.shown.colours && state.shown.colours[direction];
      if (!colours) {
        slider.max = Math.max(0, (about.layers || 1) - 1);
        if (direction === ATTENTION) slider.value = Math.min(state.layer === null ? Number(slider.max) : state.layer, Number(slider.max));
        return;
      }
      const last = colours.layers.length - 1, sound = colours.layers.filter((l) => !colours.refused.includes(l));
      const opening = colours.opening !== null ? colours.opening : sound.length ? sound[sound.length - 1] : colours.layers[last];
      slider.max = last;
      const wanted = state.layer !== null && colours.layers.includes(state.layer) ? state.layer : opening;
      slider.value = Math.max(0, colours.layers.indexOf(wanted));
    }

    function columns(one) {
      const told = one.rounds || [], numbers = [...new Set(one.pieces.map((p) => p[1]))].sort((a, b) => a - b);
      spans = [];
      body.textContent = "";
      body.classList.toggle("mlt-spaced", one.spaced);
      notes.textContent = "";
      for (const line of one.notes) notes.appendChild(make("div", "mlt-note", line));
      const rooms = {};
      for (const n of numbers) {
        const room = make("section", "mlt-round"), top = make("h5", "mlt-round-name", "Round " + n), about = told.find((t) => t.round === n);
        room.setAttribute("aria-label", "Round " + n);
        if (about) {
          top.appendChild(make("span", "mlt-o mlt-o-" + about.outcome, OUTCOMES[about.outcome][1] + " " + OUTCOMES[about.outcome][0]));
          if (about.changed) top.appendChild(make("span", "mlt-changed", "changed"));
        }
        room.appendChild(top);
        if (about && one.options && one.options.length) room.appendChild(bars(one.options, about));
        if (about && about.note) room.appendChild(make("p", "mlt-told", about.note));
        rooms[n] = body.appendChild(room);
      }
      let position = 0, round = null, turn = null, speaker = null;
      for (const [name, at, who, content] of one.pieces) {
        if (at !== round) {
          round = at;
          turn = null;
        }
        const text = make("div", who === "template" ? "mlt-template" : "mlt-text");
        const parts = Array.isArray(content) ? content : [content];
        for (const index of parts) {
          const token = one.strings[index];
          const shown = who === "template" ? token.replace(/\n/g, "\u21b5") : parts === content ? token.replace(/\n/g, "\u21b5\n") : token;
          const span = make("span", "mlt-token", shown === "" ? "\u2205" : shown);
          if (parts === content) {
            span.dataset.token = position++;
            span.dataset.text = token;
            span.dataset.place = readable(name) + ", round " + at;
            spans.push(span);
          }
          text.appendChild(span);
        }
        if (who === "template") {
          // White space between two segments of one turn does not end the turn.
          const within = turn !== null && text.textContent.replace(/\u21b5/g, "").trim() === "";
          (within ? turn : rooms[at]).appendChild(text);
          if (!within) turn = null;
          continue;
        }
        if (turn === null || speaker !== who) {
          turn = make("div", "mlt-turn mlt-" + who);
          turn.appendChild(make("div", "mlt-speaker", who === "model" ? "written by the model" : "said to the model"));
          rooms[at].appendChild(turn);
          speaker = who;
        }
        const segment = make("div", "mlt-segment");
        segment.style.setProperty("--mlt-edge", EDGES[name] || "#8a94a0");
        segment.append(make("span", "mlt-name", readable(name)), text);
        turn.appendChild(segment);
      }
    }

    // -------------------------------------------------------------------------------------- colours
    function shares() {
      const one = state.shown, row = Number(slider.value), none = () => null;
      if (state.direction === ATTENTION) {
        const weights = state.weights;
        if (!weights) return { of: none, texts: ["", ""], unit: "Choose a token: how much it reads from each token before it." };
        const most = Math.max(1e-9, ...weights.filter((w, i) => w !== null && i > 0));
        return { of: (i) => (weights[i] === null ? null : weights[i] / most), ramp: [0, ORANGE, ORANGE], texts: ["0", number(most)],
          unit: "attention of head " + headBox.value + " in " + layerName(row) + " from token " + state.token + "; the first token, which often takes most (here " + number(weights[0]) + "), does not set the scale" };
      }
      const colours = one.colours && one.colours[state.direction];
      if (!colours) return null;
      const layer = colours.layers[row], scale = one.scales[state.direction][layer], zero = white.value === "zero";
      const middle = zero ? 0 : scale[0], most = zero ? scale[2] : scale[1];
      return { of: (i) => { const v = valueAt(colours, row, i); return v === null || !most ? null : (v - middle) / most; }, ramp: [-1, BLUE, RED],
        texts: ["\u2264 " + number(middle - most), "\u2265 " + number(middle + most)],
        unit: colours.units + "; no colour at " + (zero ? "0" : number(middle) + ", the median") + ", blue: higher, red: lower; one scale per layer for " +
          (one.own ? "this dialogue" : "all coloured dialogues here") + (colours.refused.includes(layer) ? ". Nothing is claimed about this layer: there is no stable direction" : "") };
    }

    function paint() {
      const found = shares(), one = state.shown, colours = one.colours && one.colours[state.direction], reads = state.direction === ATTENTION;
      sliderLabel.hidden = !reads && (!colours || colours.layers.length < 2);
      headLabel.hidden = !reads;
      white.parentNode.hidden = !colours;
      legend.hidden = !found;
      legend.textContent = "";
      if (colours || reads) {
        const layer = reads ? Number(slider.value) : colours.layers[Number(slider.value)];
        const refused = !reads && colours.refused.includes(layer);
        sliderText.textContent = layerName(layer) + (refused ? " (refused)" : "");
        sliderText.classList.toggle("mlt-refused", refused);
        slider.setAttribute("aria-valuetext", sliderText.textContent);
      }
      spans.forEach((span, i) => {
        const share = found ? found.of(i) : null;
        span.style.backgroundColor = share === null || share === 0 ? "" : color(share, found.ramp[1], found.ramp[2]);
        span.classList.toggle("mlt-strong", share !== null && Math.abs(share) > 0.7);
      });
      if (found) {
        if (found.ramp) {
          const scale = make("span", "mlt-scale"), ramp = make("span", "mlt-ramp"), stops = [];
          for (let i = 0; i <= 20; i++) stops.push(color(found.ramp[0] + i / 20 * (1 - found.ramp[0]), found.ramp[1], found.ramp[2]));
          ramp.style.background = "linear-gradient(to right," + stops.join(",") + ")";
          scale.append(make("span", "", found.texts[0]), ramp, make("span", "", found.texts[1]));
          legend.appendChild(scale);
        }
        legend.appendChild(make("span", "", found.unit));
      }
      describe();
    }

    function describe() {
      info.textContent = "";
      info.hidden = spans.length === 0;
      const line = make("span", "mlt-line"), one = state.shown, row = Number(slider.value);
      info.appendChild(line);
      if (state.token === null && state.direction === ATTENTION) {
        line.textContent = "Click a token, or move to it with the arrow keys and press Enter: it is coloured what that token reads.";
        return;
      }
      if (state.token === null) {
        line.textContent = "Point at a token to read its value" + (state.names.length ? " and its profile over the layers." : ".");
        return;
      }
      const span = spans[state.token], key = one.ids.length ? " (id " + one.ids[state.token] + ")" : "";
      line.append(make("b", "", JSON.stringify(span.dataset.text)), " token " + state.token + key + ", " + span.dataset.place);
      if (state.direction === ATTENTION && state.weights && state.pointed !== null && state.weights[state.pointed] !== null)
        line.append(make("br"), "it reads ", make("b", "mlt-value", number(state.weights[state.pointed])), " from ", JSON.stringify(spans[state.pointed].dataset.text));
      const colours = one.colours && one.colours[state.direction];
      if (!colours) return;
      line.append(make("br"), layerName(colours.layers[row]) + ": ", make("b", "mlt-value", number(valueAt(colours, row, state.token))), " " + colours.units);
      for (const name of state.names) {
        const at = one.colours[name].layers.indexOf(colours.layers[row]);
        if (name !== state.direction && at >= 0) line.append("; " + name + " ", make("b", "mlt-other", number(valueAt(one.colours[name], at, state.token))));
      }
      info.appendChild(profile(colours, state.token, row));
    }

    function point(event) {
      const span = event.target.closest(".mlt-token");
      if (!span || span.dataset.token === undefined) return;
      if (state.direction === ATTENTION) {
        state.pointed = Number(span.dataset.token);
        if (event.type !== "click") return describe();
      }
      if (state.token !== null) spans[state.token].classList.remove("mlt-here");
      state.token = Number(span.dataset.token);
      span.classList.add("mlt-here");
      if (state.direction === ATTENTION) attend();
      else describe();
    }

    async function asking(words, ask) {
      note.textContent = words;
      const one = state.shown;
      try {
        const answer = await ask(one);
        if (one !== state.shown) return null;
        note.textContent = "";
        return answer;
      } catch (error) {
        if (one === state.shown) note.textContent = error.message;
        return null;
      }
    }

    // One dialogue is read at a time; when that is done, the one that is shown by then.
    async function colour() {
      if (read.disabled) return;
      const begun = state.shown;
      read.disabled = true;
      const answer = await asking("The model reads this dialogue; the first time it is loaded, which can take minutes.", (one) => source.tokens(one.item, one.condition));
      read.disabled = false;
      if (begun !== state.shown) return read.hidden ? undefined : colour();
      state.reading = answer !== null;
      if (answer) {
        if (state.direction === PLAIN) state.direction = null;
        lay(answer);
      }
    }

    async function attend() {
      if (state.token === null) return paint();
      const at = { layer: slider.value, head: headBox.value, token: state.token };
      const answer = await asking("The model reads this dialogue.", (one) => source.attention(one.item, one.condition, at));
      if (!answer) return;
      headBox.max = answer.heads - 1;
      state.weights = answer.weights;
      paint();
    }

    function restore() {
      const wanted = links ? addressed() : null;
      if (wanted) {
        for (let fold = root.closest("details"); fold; fold = fold.parentNode.closest("details")) fold.open = true;
        if (!state.shown || wellFormed(state.shown.item) !== wanted.item || state.shown.condition !== wanted.condition) return show(wanted.item, wanted.condition);
      } else if (!state.shown || location.hash === "") {
        const first = state.first;
        if (first) return show(first.item, first.condition);
      }
      return Promise.resolve();
    }

    for (const name in filters) filters[name].addEventListener("change", () => fill(false));
    let typing = null;
    search.addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(() => fill(false), 150);
    });
    more.addEventListener("click", () => fill(true));
    list.addEventListener("keydown", (event) => {
      const to = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
      const next = to && event.target.closest("li") && event.target.closest("li")[to];
      if (!next) return;
      event.preventDefault();
      next.firstChild.focus();
    });
    const step = (by) => {
      const here = state.rows.findIndex((one) => one.button.hasAttribute("aria-current")), to = state.rows[here + by];
      if (to) go(to.item, to.condition);
    };
    before.addEventListener("click", () => step(-1));
    after.addEventListener("click", () => step(1));
    conditions.addEventListener("change", () => go(state.shown.item, conditions.value));
    by.addEventListener("change", () => {
      turn(by.value);
      paint();
    });
    slider.addEventListener("input", () => {
      const colours = state.shown.colours && state.shown.colours[state.direction];
      if (colours) {
        state.layer = colours.layers[Number(slider.value)];
        paint();
      } else {
        state.weights = null;
        attend();
      }
    });
    headBox.addEventListener("change", attend);
    white.addEventListener("change", paint);
    box.addEventListener("change", () => body.classList.toggle("mlt-hide-template", !box.checked));
    read.addEventListener("click", colour);
    body.addEventListener("mouseover", point);
    body.addEventListener("click", point);
    body.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1, Enter: 0 }[event.key], from = state.direction === ATTENTION ? state.pointed : state.token;
      if (by === undefined || event.target !== body || !spans.length) return;
      event.preventDefault();
      const to = spans[Math.max(0, Math.min(spans.length - 1, from === null ? 0 : from + by))];
      to.scrollIntoView({ block: "nearest" });
      point({ target: to, type: by ? "keydown" : "click" });
    });
    if (links) addEventListener("hashchange", restore);

    const plain = root.querySelector(".mlt-plain");
    if (plain) plain.hidden = true;
    if (about.total !== 1) root.append(choose, found);
    root.append(panel);
    fill(false).then(() => {
      state.first = state.rows[0] || null;
      return restore();
    }).then(() => {
      if (links && addressed()) root.scrollIntoView();
    });
  }

  for (const root of document.querySelectorAll(".ml-transcript:not([data-ready])")) {
    root.setAttribute("data-ready", "");
    const data = root.querySelector(".mlt-data");
    start(root, root.source || embedded(JSON.parse(data.textContent)));
  }
})();
