"use strict";
// Everything is readable without this script; it filters, searches and follows the tiles of the map.
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const byId = (id) => document.getElementById(id);

function parseRanks(text) {
  const spans = [];
  for (const part of text.split(",").filter(Boolean)) {
    const [first, last = first] = part.split("-").map(Number);
    if (!Number.isInteger(first) || !Number.isInteger(last)) return null;
    spans.push([first, last]);
  }
  return spans;
}

const meets = (spans, others) => spans.some(([a, b]) => others.some(([c, d]) => a <= d && c <= b));

function showRanks() {
  const wanted = parseRanks(byId("ranks").value.replaceAll(" ", ""));
  byId("ranks").setCustomValidity(wanted ? "" : "write 3, 0-3 or 0-3,7");
  if (!wanted) return;
  const fits = (ranks) => !wanted.length || meets(wanted, parseRanks(ranks));
  for (const row of all("table.ranks tr[id]")) row.hidden = !fits(row.id.slice(1));
  for (const tile of all(".map a")) tile.classList.toggle("off", !fits(tile.hash.slice(2)));
  for (const strip of all(".strip[data-ranks]")) strip.hidden = !fits(strip.dataset.ranks);
  searchStacks();
}

function searchStacks() {
  const word = byId("search").value.trim().toLowerCase();
  const wanted = parseRanks(byId("ranks").value.replaceAll(" ", "")) || [];
  let hits = 0;
  for (const frame of all(".stacks .frame")) {
    const hit = word !== "" && frame.textContent.toLowerCase().includes(word);
    frame.classList.toggle("hit", hit);
    hits += hit;
  }
  for (const part of all(".stacks details").reverse()) {
    const ofRanks = !wanted.length || meets(wanted, parseRanks(part.dataset.ranks));
    const found = word === "" || part.querySelector(".hit") !== null || part.parentElement.closest("details:has(> .hit, > summary .hit)");
    part.hidden = !(ofRanks && found);
    if (word !== "" && !part.hidden) part.open = true;
  }
  byId("hits").textContent = word === "" ? "" : `${hits} frame${hits === 1 ? "" : "s"}`;
}

function follow() {
  const target = location.hash && byId(location.hash.slice(1));
  if (!target) return;
  for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  target.hidden = false;
  target.scrollIntoView({ block: "center" });
}

// A live page calls this again for what has been replaced.
function arrange() {
  const tiles = new Map(all(".map a").map((tile) => [tile.hash.slice(1), tile]));
  for (const row of all("table.ranks tr[id]")) {
    const tile = tiles.get(row.id);
    if (tile) tile.title = `rank ${[...row.cells].map((cell) => cell.textContent).filter(Boolean).join(" · ")}`;
  }
  document.querySelector(".tools").hidden = false;
  showRanks();
}

addEventListener("input", (event) => {
  if (event.target.id === "ranks") showRanks();
  if (event.target.id === "search") searchStacks();
});
addEventListener("hashchange", follow);
addEventListener("beforeprint", () => all("details").forEach((part) => { part.open = true; }));
addEventListener("keydown", (event) => {
  const typing = event.target.tagName === "INPUT";
  if (event.key === "/" && !typing) { event.preventDefault(); byId("search").focus(); }
  if (event.key === "Escape" && typing) { event.target.value = ""; showRanks(); event.target.blur(); }
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step && event.target.matches(".map a")) {
    const tiles = all(".map a");
    tiles[tiles.indexOf(event.target) + step]?.focus();
  }
});
arrange();
follow();
