// Pictures are made when they come near the screen; the list is searched and filtered.
"use strict";

function show(place) {
  const picture = JSON.parse(document.getElementById(place.dataset.plot).textContent);
  const least = (picture.layout.meta || {}).least || 0;
  place.style.minWidth = `${least}px`;
  const options = {
    responsive: true,
    displaylogo: false,
    displayModeBar: window.innerWidth > 700,
    modeBarButtonsToRemove: ["select2d", "lasso2d"],
  };
  return Plotly.newPlot(place, picture.data, picture.layout, options).then(() => {
    if (picture.frames) Plotly.addFrames(place, picture.frames);
    place.dataset.done = "yes";
  });
}

const near = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) {
      near.unobserve(entry.target);
      show(entry.target);
    }
  }
}, { rootMargin: "600px" });
document.querySelectorAll(".plot").forEach((place) => near.observe(place));

const search = document.getElementById("search");
const verdict = document.getElementById("verdict");
const family = document.getElementById("family");

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const article of document.querySelectorAll("article")) {
    const text = `${article.id} ${article.textContent}`.toLowerCase();
    const fits = words.every((word) => text.includes(word))
      && (!verdict.value || article.dataset.states.split("|").includes(verdict.value))
      && (!family.value || article.dataset.family === family.value);
    article.hidden = !fits;
    for (const tile of document.querySelectorAll(`[data-of="${article.id}"]`)) tile.hidden = !fits;
    count += fits;
  }
  document.getElementById("shown").textContent = `${count} shown`;
}
for (const control of [search, verdict, family]) control.addEventListener("input", filter);
filter();
