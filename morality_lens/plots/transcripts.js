(function () {
  "use strict";
  // ColorBrewer's RdBu, lightened in the middle so that a value of zero has the page's white.
  const RAMP = [[178, 24, 43], [239, 138, 98], [253, 219, 199], [255, 255, 255], [209, 229, 240], [103, 169, 207], [33, 102, 172]];
  const MISSING = -32768;
  const EDGES = {
    question: "#7f7f7f", answer_request: "#c5ccd3", answer: "#111111", review: "#9aa4ae", instruction: "#0072b2",
    cot_request: "#d55e00", rationale: "#d55e00", feedback: "#009e73", evidence: "#cc79a7",
  };

  function color(share) {
    const at = (Math.max(-1, Math.min(1, share)) + 1) / 2 * (RAMP.length - 1);
    const i = Math.min(Math.floor(at), RAMP.length - 2);
    const rgb = RAMP[i].map((a, k) => Math.round(a + (at - i) * (RAMP[i + 1][k] - a)));
    return "rgb(" + rgb.join(",") + ")";
  }

  function number(value) {
    if (value === null) return "no value";
    const text = Math.abs(value) >= 1000 ? value.toPrecision(4) : value.toFixed(Math.abs(value) < 1 ? 3 : 2);
    return (value > 0 ? "+" : "") + text.replace("-", "\u2212");
  }

  function layerName(layer) {
    return layer === -1 ? "embedding" : "layer " + layer;
  }

  function make(tag, kind, text) {
    const node = document.createElement(tag);
    if (kind) node.className = kind;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  function unpack(view) {
    if (view.grid || view.values === null) return;
    const raw = atob(view.values);
    const bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    view.grid = new DataView(bytes.buffer);
  }

  function valueAt(view, row, position) {
    if (!view.grid) return null;
    const step = view.grid.getInt16(2 * (row * view.tokens.length + position), true);
    return step === MISSING ? null : step * view.scale[row];
  }

  // A short picture of one token's value at every layer.
  function profile(view, position, current) {
    const ns = "http://www.w3.org/2000/svg", width = 190, height = 48;
    const svg = document.createElementNS(ns, "svg");
    const put = (tag, attributes) => {
      const node = document.createElementNS(ns, tag);
      for (const key in attributes) node.setAttribute(key, attributes[key]);
      svg.appendChild(node);
    };
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", "value of this token over layers");
    const values = view.layers.map((_, row) => valueAt(view, row, position));
    const most = Math.max(1e-12, ...values.map((v) => Math.abs(v === null ? 0 : v)));
    const x = (row) => 5 + row / Math.max(1, values.length - 1) * (width - 10);
    const y = (v) => height / 2 - v / most * (height / 2 - 5);
    put("line", { x1: 0, x2: width, y1: height / 2, y2: height / 2, stroke: "#b7bfc8" });
    const points = values.map((v, row) => (v === null ? null : x(row) + "," + y(v))).filter((p) => p !== null);
    put("polyline", { points: points.join(" "), fill: "none", stroke: "#48525c", "stroke-width": 1.5 });
    if (values[current] !== null && values[current] !== undefined)
      put("circle", { cx: x(current), cy: y(values[current]), r: 4, fill: values[current] < 0 ? "#b2182b" : "#2166ac" });
    return svg;
  }

  function start(root) {
    const data = JSON.parse(root.querySelector(".mlt-data").textContent);
    const state = { view: data.views[0], row: 0, token: null };
    let spans = [];

    const bar = make("div", "mlt-bar");
    const chooser = (text, kind) => {
      const label = make("label", "", text);
      const select = make("select", kind);
      label.appendChild(select);
      bar.appendChild(label);
      return select;
    };
    const fill = (select, values) => {
      select.textContent = "";
      for (const value of new Set(values)) {
        const option = make("option", "", value);
        option.value = value;
        select.appendChild(option);
      }
      select.parentNode.hidden = select.options.length < 2;
    };
    const items = chooser("Item", "mlt-item");
    const conditions = chooser("Components", "mlt-condition");
    const sliderLabel = make("label", "", "Layer");
    const slider = make("input", "mlt-layer");
    slider.type = "range";
    slider.step = 1;
    slider.min = 0;
    const sliderText = make("output");
    sliderLabel.append(slider, sliderText);
    const boxLabel = make("label");
    const box = make("input", "mlt-show-template");
    box.type = "checkbox";
    boxLabel.append(box, make("span", "", "template tokens"));
    bar.append(sliderLabel, boxLabel);

    const legend = make("div", "mlt-legend");
    const scale = make("span", "mlt-scale");
    const low = make("span"), high = make("span"), ramp = make("span", "mlt-ramp"), unit = make("span");
    const stops = [];
    for (let i = 0; i <= 20; i++) stops.push(color(i / 10 - 1));
    ramp.style.background = "linear-gradient(to right," + stops.join(",") + ")";
    scale.append(low, ramp, high);
    legend.append(scale, unit);

    const body = make("div", "mlt-body mlt-hide-template");
    body.tabIndex = 0;
    body.setAttribute("role", "region");
    body.setAttribute("aria-label", "Transcript");
    const info = make("div", "mlt-info");

    function describe() {
      info.textContent = "";
      const line = make("span", "mlt-line");
      info.appendChild(line);
      if (state.token === null) {
        line.textContent = "Point at a token to read its value" + (state.view.grid ? " and its profile over the layers." : ".");
        return;
      }
      const { view, row, token } = state;
      const piece = view.pieces.find((p) => p[2] <= token && token < p[3]);
      const id = view.ids.length ? " (id " + view.ids[token] + ")" : "";
      line.append(
        make("b", "", JSON.stringify(view.tokens[token])), " token " + token + id + ", " + piece[0].replace(/_/g, " ") + ", round " + piece[1]);
      if (view.grid) {
        line.append(make("br"), layerName(view.layers[row]) + ": ", make("b", "mlt-value", number(valueAt(view, row, token))), " " + view.units);
        info.appendChild(profile(view, token, row));
      }
    }

    function paint() {
      const { view, row } = state;
      const has = Boolean(view.grid) && view.layers.length > 0;
      sliderLabel.hidden = !has || view.layers.length < 2;
      legend.hidden = !has;
      if (has) {
        const layer = view.layers[row], limit = data.limits[layer];
        slider.max = view.layers.length - 1;
        slider.value = row;
        slider.setAttribute("aria-valuetext", layerName(layer));
        sliderText.textContent = layerName(layer);
        low.textContent = "\u2264 " + number(-limit);
        high.textContent = "\u2265 " + number(limit);
        unit.textContent = view.units + "; white: 0, blue: toward moral; one scale per layer for all transcripts here";
        spans.forEach((span, position) => {
          const value = valueAt(view, row, position);
          const share = value === null || !limit ? 0 : value / limit;
          span.style.backgroundColor = share === 0 ? "" : color(share);
          span.style.color = Math.abs(share) > 0.8 ? "#fff" : "";
        });
      }
      describe();
    }

    function lay() {
      const view = state.view;
      unpack(view);
      if (view.grid) state.row = Math.min(state.row, view.layers.length - 1);
      state.token = null;
      spans = [];
      body.textContent = "";
      body.classList.toggle("mlt-spaced", view.spaced);
      if (view.title) body.appendChild(make("div", "mlt-title", view.title));
      for (const note of view.notes) body.appendChild(make("div", "mlt-note", note));
      let round = null, turn = null, speaker = null;
      for (const [name, at, from, to, who] of view.pieces) {
        if (at !== round) {
          body.appendChild(make("div", "mlt-round", "Round " + at));
          round = at;
          turn = null;
        }
        const text = make("div", who === "template" ? "mlt-template" : "mlt-text");
        for (let i = from; i < to; i++) {
          const shown = who === "template" ? view.tokens[i].replace(/\n/g, "\u21b5") : view.tokens[i].replace(/\n/g, "\u21b5\n");
          const span = make("span", "mlt-token", shown === "" ? "\u2205" : shown);
          span.dataset.token = i;
          spans.push(span);
          text.appendChild(span);
        }
        if (who === "template") {
          // White space between two segments of one turn does not end the turn.
          const within = turn !== null && text.textContent.replace(/\u21b5/g, "").trim() === "";
          (within ? turn : body).appendChild(text);
          if (!within) turn = null;
          continue;
        }
        if (turn === null || who !== speaker) {
          turn = make("div", "mlt-turn mlt-" + who);
          turn.appendChild(make("div", "mlt-speaker", who === "model" ? "model" : "user"));
          body.appendChild(turn);
          speaker = who;
        }
        const segment = make("div", "mlt-segment");
        segment.style.setProperty("--mlt-edge", EDGES[name] || "#c5ccd3");
        segment.append(make("span", "mlt-name", name.replace(/_/g, " ")), text);
        turn.appendChild(segment);
      }
      body.scrollTop = 0;
      paint();
    }

    function choose(keep) {
      const there = data.views.filter((v) => v.item === items.value);
      fill(conditions, there.map((v) => v.condition));
      if (keep && there.some((v) => v.condition === keep)) conditions.value = keep;
      show();
    }
    function show() {
      state.view = data.views.find((v) => v.item === items.value && v.condition === conditions.value);
      lay();
    }

    function point(event) {
      const span = event.target.closest(".mlt-token");
      if (!span) return;
      if (state.token !== null) spans[state.token].classList.remove("mlt-here");
      state.token = Number(span.dataset.token);
      span.classList.add("mlt-here");
      describe();
    }

    items.addEventListener("change", () => choose(conditions.value));
    conditions.addEventListener("change", show);
    slider.addEventListener("input", () => {
      state.row = Number(slider.value);
      paint();
    });
    box.addEventListener("change", () => body.classList.toggle("mlt-hide-template", !box.checked));
    body.addEventListener("mouseover", point);
    body.addEventListener("click", point);

    fill(items, data.views.map((v) => v.item));
    const first = data.views.find((v) => v.layers.length);
    state.row = first ? first.layers.length - 1 : 0;
    root.querySelector(".mlt-plain").hidden = true;
    root.append(bar, legend, body, info);
    choose(null);
  }

  for (const root of document.querySelectorAll(".ml-transcript:not([data-ready])")) {
    root.setAttribute("data-ready", "");
    start(root);
  }
})();
