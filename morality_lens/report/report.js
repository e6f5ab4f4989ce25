(function () {
  "use strict";
  const places = Array.from(document.querySelectorAll(".figure[data-figure]"));

  function draw(place) {
    if (place.dataset.drawn) return;
    place.dataset.drawn = "yes";
    const data = JSON.parse(document.getElementById("figure-" + place.dataset.figure).textContent);
    Plotly.newPlot(place, data.data, data.layout, { responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "" });
  }

  // A figure is drawn when it comes near the window: one in a closed fold has no width before.
  if ("IntersectionObserver" in window) {
    const watch = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        watch.unobserve(entry.target);
        draw(entry.target);
      }
    }, { rootMargin: "800px" });
    places.forEach((place) => watch.observe(place));
  } else places.forEach(draw);

  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details.group").forEach((fold) => { fold.open = true; });
    places.forEach(draw);
  });
})();
