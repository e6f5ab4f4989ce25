(function () {
  "use strict";
  const places = Array.from(document.querySelectorAll(".figure[data-figure]"));
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const title = document.title.replace(/[^A-Za-z0-9]+/g, "-").toLowerCase();
  const SCALE = 3;

  function content(place) {
    return JSON.parse(document.getElementById("figure-" + place.dataset.figure).textContent);
  }

  // Dark marks are lightened on a dark page; in print and in exports a figure is always on white.
  function lighter(color) {
    if (typeof color !== "string") return color;
    if (color === "white") return "#14181d";
    const hex = /^#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})$/i.exec(/^#[0-9a-f]{3}$/i.test(color) ? "#" + color.slice(1).replace(/./g, "$&$&") : color);
    const rgba = /^rgba\((\d+),(\d+),(\d+),([\d.]+)\)$/.exec(color);
    if (!hex && !rgba) return color;
    const rgb = hex ? hex.slice(1).map((h) => parseInt(h, 16)) : rgba.slice(1, 4).map(Number);
    const light = (Math.max(...rgb) + Math.min(...rgb)) / 510;
    const raised = light < 0.5 ? rgb.map((v) => Math.round(v + (255 - v) * (0.62 - light * 0.9))) : rgb;
    return rgba ? "rgba(" + raised.join(",") + "," + Math.min(1, rgba[4] * 1.6) + ")" : "rgb(" + raised.join(",") + ")";
  }

  function recolor(value, key) {
    if (Array.isArray(value)) return /color$/.test(key) ? value.map(lighter) : value.map((one) => recolor(one, ""));
    if (value && typeof value === "object") {
      for (const name in value) if (name !== "colorscale") value[name] = recolor(value[name], name);
      return value;
    }
    return /color$/.test(key) ? lighter(value) : value;
  }

  function themed(figure, onDark) {
    const layout = figure.layout;
    if (!onDark) return figure;
    recolor(figure.data, "");
    for (const shape of layout.shapes || []) shape.fillcolor = shape.fillcolor ? "#2a313a" : shape.fillcolor;
    const base = layout.template.layout;
    base.font.color = "#e4e8ec";
    base.plot_bgcolor = base.paper_bgcolor = "rgba(0,0,0,0)";
    base.xaxis.gridcolor = base.yaxis.gridcolor = "#2a313a";
    base.xaxis.linecolor = base.xaxis.tickcolor = "#a9b3bd";
    return figure;
  }

  // A legend that needs more lines than were planned for, as on a narrow window, makes its figure higher.
  function makeRoom(place) {
    const legend = place.querySelector(".legend .scrollbox, g.legend");
    const figure = place.figure;
    if (!legend || figure.layout.legend && figure.layout.legend.orientation === "v") return;
    const needed = legend.getBBox().height + 52 - figure.layout.margin.b;
    const more = Math.max(0, Math.ceil(needed));
    if (Math.abs(more - (place.more || 0)) < 3) return;
    place.more = more;
    place.style.height = figure.height + more + "px";
    Plotly.relayout(place, { height: figure.height + more, "margin.b": figure.layout.margin.b + more });
  }

  function draw(place, onDark) {
    const figure = themed(content(place), onDark);
    const layout = Object.assign({}, figure.layout, { height: figure.height, title: { text: "" } });
    layout.margin = Object.assign({}, layout.margin, { t: figure.top });
    figure.layout.margin = layout.margin;
    place.figure = figure;
    place.more = 0;
    place.dataset.drawn = onDark ? "dark" : "light";
    const config = { responsive: true, displayModeBar: false, showSendToCloud: false, plotlyServerURL: "" };
    Plotly.react(place, figure.data, layout, config).then(() => makeRoom(place));
  }

  function onScreen(place) {
    if (!place.dataset.drawn) draw(place, dark.matches);
  }

  // A figure is drawn when it comes near the window: one in a closed fold has no width before.
  if ("IntersectionObserver" in window) {
    const watch = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        watch.unobserve(entry.target);
        onScreen(entry.target);
      }
    }, { rootMargin: "800px" });
    places.forEach((place) => watch.observe(place));
  } else places.forEach(onScreen);

  function redraw(onDark) {
    places.filter((place) => place.dataset.drawn).forEach((place) => draw(place, onDark));
  }
  dark.addEventListener("change", () => redraw(dark.matches));

  let waiting = 0;
  window.addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => places.filter((place) => place.dataset.drawn).forEach(makeRoom), 300);
  });

  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details.group").forEach((fold) => { fold.open = true; });
    places.forEach((place) => { if (place.dataset.drawn !== "light") draw(place, false); });
  });
  window.addEventListener("afterprint", () => { if (dark.matches) redraw(true); });

  // A link into a fold opens it.
  function unfold() {
    const name = decodeURIComponent(location.hash.slice(1));
    const target = name && !name.includes("=") ? document.getElementById(name) : null;
    if (!target) return;
    for (let fold = target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
    target.scrollIntoView();
  }
  window.addEventListener("hashchange", unfold);
  unfold();

  function save(blob, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  // Figures as files: with their title, on white, in the width they have on the page.
  function exportFigure(place, format) {
    const figure = content(place);
    const size = { format, width: Math.max(700, place.clientWidth), height: figure.layout.height, scale: format === "png" ? SCALE : 1 };
    Plotly.toImage({ data: figure.data, layout: figure.layout }, size)
      .then((address) => fetchBlob(address, format))
      .then((blob) => save(blob, title + "-" + place.dataset.figure + "." + format));
  }
  function fetchBlob(address, format) {
    const comma = address.indexOf(","), head = address.slice(0, comma), body = address.slice(comma + 1);
    if (!/;base64$/.test(head)) return new Blob([decodeURIComponent(body)], { type: "image/svg+xml" });
    const raw = atob(body), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return new Blob([bytes], { type: "image/" + format });
  }
  document.querySelectorAll("button[data-export]").forEach((button) => {
    button.hidden = false;
    const place = button.closest("figure").querySelector(".figure");
    button.setAttribute("aria-label", "Save the figure as " + button.dataset.export.toUpperCase());
    button.addEventListener("click", () => exportFigure(place, button.dataset.export));
  });

  // Tables as files: the cells as they stand.
  function cells(table) {
    const rows = Array.from(table.querySelectorAll("tbody tr"), (row) => Array.from(row.children, (cell) => cell.querySelector("svg") ? null : cell.textContent.trim().replace(/\s+/g, " ")));
    const heads = Array.from(table.querySelectorAll("thead tr"), (row) => Array.from(row.children));
    const width = Math.max(...rows.map((row) => row.length));
    const names = Array.from({ length: width }, () => []);
    const taken = [];
    heads.forEach((row, r) => {
      let column = 0;
      for (const cell of row) {
        while (taken[r] && taken[r][column]) column++;
        for (let c = 0; c < cell.colSpan; c++) {
          for (let d = 0; d < cell.rowSpan; d++) (taken[r + d] = taken[r + d] || [])[column + c] = true;
          if (names[column + c]) names[column + c].push(cell.textContent.trim().replace(/\s+/g, " "));
        }
        column += cell.colSpan;
      }
    });
    const kept = names.map((_, i) => !rows.every((row) => row[i] === null || row[i] === undefined));
    const only = (row) => row.filter((_, i) => kept[i]).map((cell) => cell || "");
    return [only(names.map((parts) => parts.join(": "))), ...rows.map(only)];
  }
  const LATEX = { "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", $: "\\$", "#": "\\#", _: "\\_", "{": "\\{", "}": "\\}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "≤": "$\\leq$", "<": "$<$", ">": "$>$", "−": "$-$" };
  const WRITERS = {
    csv: (rows) => rows.map((row) => row.map((cell) => /[",\n]/.test(cell) ? '"' + cell.replace(/"/g, '""') + '"' : cell).join(",")).join("\n"),
    md: (rows) => [rows[0], rows[0].map(() => "---"), ...rows.slice(1)].map((row) => "| " + row.map((cell) => cell.replace(/\|/g, "\\|")).join(" | ") + " |").join("\n"),
    tex: (rows) => {
      const lines = rows.map((row) => row.map((cell) => cell.replace(/[\\&%$#_{}~^≤<>−]/g, (c) => LATEX[c]).replace(/(^|[\s[])-(?=[\d.])/g, "$1$$-$$")).join(" & ") + " \\\\");
      return ["\\begin{tabular}{" + "l".repeat(rows[0].length) + "}", "\\toprule", lines[0], "\\midrule", ...lines.slice(1), "\\bottomrule", "\\end{tabular}"].join("\n");
    },
  };
  const LABELS = { csv: "CSV", md: "Markdown", tex: "LaTeX" };
  document.querySelectorAll("table.numbers").forEach((table, index) => {
    const bar = document.createElement("div");
    bar.className = "tools exports";
    const fold = table.closest("details");
    const caption = (table.caption || (fold && fold.querySelector("summary")) || table.closest("section").querySelector("h2")).textContent.trim();
    const name = title + "-" + (table.classList.contains("result") ? "result" : caption.replace(/[^A-Za-z0-9]+/g, "-").toLowerCase().slice(0, 40).replace(/^-|-$/g, "") + "-" + index);
    for (const format in WRITERS) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = LABELS[format];
      button.dataset.table = format;
      button.setAttribute("aria-label", "Save the table as " + LABELS[format]);
      button.addEventListener("click", () => save(new Blob([WRITERS[format](cells(table)) + "\n"], { type: "text/plain" }), name + "." + format));
      bar.appendChild(button);
    }
    table.parentElement.after(bar);
  });
})();
