// Keeps the sections of a page as the server sees them, and takes dropped files. Without it the pages refresh.
"use strict";

document.documentElement.classList.add("scripted");

const connection = document.getElementById("connection");
const said = document.getElementById("said");

function say(text) {
  if (said && said.textContent !== text) said.textContent = text;
}

// Replaces what changed and nothing else: what somebody has focused, opened or scrolled stays.
function show(html) {
  const page = new DOMParser().parseFromString(html, "text/html");
  for (const fresh of page.querySelectorAll("[data-live]")) {
    const old = document.querySelector(`[data-live="${CSS.escape(fresh.dataset.live)}"]`);
    if (!old) continue;
    if (fresh.dataset.say && fresh.dataset.say !== old.dataset.say) {
      old.dataset.say = fresh.dataset.say;
      say(fresh.dataset.say);
    }
    if (old.innerHTML === fresh.innerHTML) continue;
    const focused = old.contains(document.activeElement) ? describe(old, document.activeElement) : null;
    const log = old.querySelector(".log");
    const atEnd = !log || log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    const top = log ? log.scrollTop : 0;
    const open = [...old.querySelectorAll("details")].map(one => one.open);
    old.innerHTML = fresh.innerHTML;
    old.querySelectorAll("details").forEach((one, i) => { if (i < open.length) one.open = open[i]; });
    const newLog = old.querySelector(".log");
    if (newLog) newLog.scrollTop = atEnd ? newLog.scrollHeight : top;
    if (focused) find(old, focused)?.focus();
  }
}

const FOCUSABLE = "a[href], button, summary, [tabindex]";

function describe(section, element) {
  const all = [...section.querySelectorAll(FOCUSABLE)];
  return { text: element.textContent, at: all.indexOf(element) };
}

function find(section, focused) {
  const all = [...section.querySelectorAll(FOCUSABLE)];
  return all.find(one => one.textContent === focused.text) ?? all[focused.at];
}

function watch(address) {
  const source = new EventSource(address);
  source.addEventListener("html", event => show(JSON.parse(event.data)[0]));
  source.addEventListener("step", event => window.charts?.step(JSON.parse(event.data)));
  source.addEventListener("eval", event => window.charts?.evaluation(JSON.parse(event.data)));
  source.addEventListener("end", () => source.close());
  source.addEventListener("open", () => { connection.hidden = true; });
  source.addEventListener("error", () => {
    connection.textContent = "The connection to the appliance is lost; this page is not up to date.";
    connection.hidden = false;
    if (source.readyState === EventSource.CLOSED) setTimeout(() => watch(address), 10000);
  });
}

function takeFiles(form) {
  const state = form.querySelector(".upload-state");
  const button = form.querySelector("button");

  function send(body) {
    const request = new XMLHttpRequest();
    request.open("POST", form.action);
    request.setRequestHeader("Accept", "application/json");
    request.upload.addEventListener("progress", event => {
      if (event.lengthComputable) state.textContent = `${Math.floor(100 * event.loaded / event.total)} % sent`;
    });
    request.addEventListener("loadend", () => {
      button.disabled = false;
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { /* not ours: the connection broke */ }
      if (request.status === 201) {
        form.reset();
        state.textContent = `In the inbox: ${answer.dropped.join(", ")}`;
      } else {
        state.textContent = `Not dropped: ${answer.detail ?? "the connection was lost"}`;
      }
    });
    button.disabled = true;
    request.send(body);
  }

  form.addEventListener("submit", event => {
    event.preventDefault();
    send(new FormData(form));
  });
  document.addEventListener("dragover", event => { event.preventDefault(); form.classList.add("over"); });
  document.addEventListener("dragleave", event => { if (!event.relatedTarget) form.classList.remove("over"); });
  document.addEventListener("drop", event => {
    event.preventDefault();
    form.classList.remove("over");
    if (!event.dataTransfer.files.length) return;
    const body = new FormData(form);
    body.delete("file");
    for (const file of event.dataTransfer.files) body.append("file", file);
    send(body);
  });
}

document.querySelectorAll(".log").forEach(log => { log.scrollTop = log.scrollHeight; });
if (document.body.dataset.stream) watch(document.body.dataset.stream);
const form = document.getElementById("upload");
if (form) takeFiles(form);
