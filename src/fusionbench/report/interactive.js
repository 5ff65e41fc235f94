"use strict";

const figures = JSON.parse(document.getElementById("figures").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
function draw() {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--text").trim(), line = style.getPropertyValue("--line").trim();
  for (const { id, data, layout } of figures) {
    const coloured = structuredClone(layout);
    Object.assign(coloured, { font: { color: ink }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" });
    coloured.modebar = { bgcolor: "rgba(0,0,0,0)", color: ink };
    for (const [name, part] of Object.entries(coloured)) {
      if (/^[xy]axis/.test(name)) Object.assign(part, { gridcolor: line, linecolor: line, zerolinecolor: line });
      if (name === "polar") {
        part.bgcolor = "rgba(0,0,0,0)";
        Object.assign(part.radialaxis, { gridcolor: line, linecolor: line });
        Object.assign(part.angularaxis, { gridcolor: line, linecolor: line });
      }
    }
    Plotly.react(id, data, coloured, { responsive: true, displaylogo: false });
  }
}
dark.addEventListener("change", draw);
draw();
