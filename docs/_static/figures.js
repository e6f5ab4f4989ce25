// Figures of the notebooks, drawn from the numbers that stand beside them, as wide as the page.
for (const place of document.querySelectorAll(".figure-alive")) {
  const { data, layout } = JSON.parse(place.querySelector("script").textContent);
  const wide = () => Math.max(place.clientWidth, 560);
  Plotly.newPlot(place, data, { ...layout, autosize: false, width: wide() }, { displaylogo: false });
  addEventListener("resize", () => Plotly.relayout(place, { width: wide() }));
}
