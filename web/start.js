// Starts the page, and keeps it for offline use. The page's code is Rust; this is what has to come before it.

import init from "./app.js";

/** Says in the window why the page cannot start. */
function explain(error) {
  const place = document.getElementById("starting");
  if (!place) return;
  const old = typeof WebAssembly !== "object";
  place.setAttribute("role", "alert");
  place.textContent = old
    ? "This browser is too old for this page: it knows no WebAssembly. A current Chrome, Edge, Firefox or Safari will do."
    : `The page could not start (${error?.message ?? error}). Loading it again may help.`;
}

init({ module_or_path: new URL("./app_bg.wasm", import.meta.url) }).catch(explain);

/** Registers the service worker. A new build waits until the page is loaded again, so that no run is disturbed. */
async function keepForOfflineUse() {
  const workers = navigator.serviceWorker;
  if (!workers) return;
  const isUpdate = workers.controller !== null;
  const registration = await workers.register("./sw.js");
  const takeOver = (worker) => {
    if (!isUpdate || !worker) return;
    // Someone who has already done something here keeps the build that they work with.
    if (navigator.userActivation?.hasBeenActive) return;
    workers.addEventListener("controllerchange", () => location.reload(), { once: true });
    worker.postMessage("take over");
  };
  takeOver(registration.waiting);
  registration.addEventListener("updatefound", () => {
    const worker = registration.installing;
    worker?.addEventListener("statechange", () => {
      if (worker.state === "installed") takeOver(worker);
    });
  });
}

addEventListener("load", () => keepForOfflineUse().catch(() => {
  // Private windows and plain http refuse service workers; the page works without.
}));
