// Keeps the sections as the host tells them (server-sent events); counts times on. A hidden page listens to nothing, so
// that nobody is asked on a page that they do not see.
"use strict";

const state = document.getElementById("state");
const title = document.title;
let source = null;
let skew = 0; // ms by which the host's clock is ahead

function replace(section, html) {
  const open = new Set([...section.querySelectorAll("details[open]")].map((one) => one.dataset.key));
  section.innerHTML = html; // the host has escaped what comes from others
  for (const one of section.querySelectorAll("details")) one.open = open.has(one.dataset.key);
  document.title = document.querySelector(".question") ? `(a question) ${title}` : title;
  count();
}

function count() {
  for (const one of document.querySelectorAll("time[data-since]")) {
    const seconds = Math.max(0, Math.round((Date.now() + skew) / 1000 - one.dataset.since));
    one.textContent = seconds < 120 ? `for ${seconds} s` : `for ${Math.floor(seconds / 60)} min`;
  }
}

function listen() {
  if (source || document.hidden) return;
  source = new EventSource("/events");
  for (const section of document.querySelectorAll("main > section")) {
    source.addEventListener(section.id, (event) => replace(section, event.data));
  }
  source.addEventListener("now", (event) => { skew = Number(event.data) * 1000 - Date.now(); });
  source.addEventListener("open", () => { state.textContent = "live"; state.className = "up"; });
  source.addEventListener("over", () => { stop(); location.reload(); });
  source.addEventListener("error", () => {
    state.textContent = "not connected";
    state.className = "down";
    if (source && source.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 5000); // it was refused
  });
}

function stop() {
  if (source) source.close();
  source = null;
}

document.addEventListener("visibilitychange", () => { if (document.hidden) stop(); else listen(); });
window.addEventListener("pagehide", stop);
window.addEventListener("pageshow", listen);
setInterval(count, 1000);
count();
