"use strict";
// Takes the parts of the page that have changed, and puts them where the old ones are: what a person has opened,
// selected, typed or scrolled to stays.
const bar = document.querySelector("nav.bar");
const state = document.getElementById("state");
const button = document.getElementById("pause");
let at = bar.dataset.at;
let stream = null;
let paused = false;
let over = "";

function morph(old, wanted) {
  for (const { name, value } of wanted.attributes) if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const { name } of [...old.attributes]) if (name !== "open" && !wanted.hasAttribute(name)) old.removeAttribute(name);
  const named = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
  let place = old.firstChild;
  for (const next of [...wanted.childNodes]) {
    const mine = (next.id && named.get(next.id)) || place;
    if (mine && mine.nodeName === next.nodeName && (mine.id || "") === (next.id || "")) {
      if (mine === place) place = place.nextSibling;
      else old.insertBefore(mine, place);
      if (mine.nodeType !== Node.ELEMENT_NODE) { if (mine.data !== next.data) mine.data = next.data; }
      else if (!mine.isEqualNode(next)) morph(mine, next);
    } else old.insertBefore(next, place);
  }
  while (place) { const gone = place; place = place.nextSibling; gone.remove(); }
}

function take(parts) {
  for (const [name, html] of Object.entries(parts)) {
    const old = document.getElementById(`part-${name}`);
    const read = new DOMParser().parseFromString(`<body>${html}</body>`, "text/html");
    if (name === "title") document.title = read.body.textContent;
    else if (old) { read.body.id = old.id; const box = document.createElement("div"); box.id = old.id; box.append(...read.body.childNodes); morph(old, box); }
  }
  if (typeof arrange === "function") arrange();
}

function say(kind, words) { state.className = kind; state.textContent = words; }

const now = () => (document.querySelector(".facts .ended") ? "live; the run has ended" : "live");
const clock = () => new Date().toLocaleTimeString();

function listen() {
  if (stream || over || paused || document.hidden) return;
  // A new stream begins after the version that this page has; one that breaks is taken up again by its last event.
  stream = new EventSource(`${bar.dataset.events}?after=${encodeURIComponent(at)}`);
  stream.addEventListener("open", () => say("live", now()));
  stream.addEventListener("parts", (event) => { at = event.lastEventId; take(JSON.parse(event.data)); say("live", `${now()}, changed at ${clock()}`); });
  stream.addEventListener("over", (event) => { over = event.data; leave(); button.hidden = true; say("over", over); });
  stream.addEventListener("error", () => {
    if (stream.readyState === EventSource.CLOSED) { leave(); say("lost", `not live since ${clock()}; trying again in 10 s`); setTimeout(listen, 10000); }
    else say("lost", `connection lost at ${clock()}: this is the last state; trying again`);
  });
}

function leave() { if (stream) stream.close(); stream = null; }

button.addEventListener("click", () => {
  paused = !paused;
  button.textContent = paused ? "go on" : "pause";
  if (paused) { leave(); say("", `paused at ${clock()}`); } else listen();
});
// A browser opens few connections to one host: a page that nobody sees gives its own back.
document.addEventListener("visibilitychange", () => { if (document.hidden) { if (stream) { leave(); say("", "asleep"); } } else listen(); });
button.hidden = false;
listen();
