// The service worker: serves this build's own files from a cache, so that the page opens without a network. Models, hubs and
// whatever else is fetched pass through untouched.

// Filled in by `cargo xtask page`. A build without a name (`trunk serve`) is not cached.
const BUILD = "";
const FILES = [];

const CACHE = `espalier-${BUILD}`;
const ADDRESSES = new Set(FILES.map((file) => new URL(file, self.location).href));
const PAGE = new URL("./", self.location).href;

self.addEventListener("install", (event) => {
  // Past the browser's own cache, which may hold files of the build before.
  const files = FILES.map((file) => new Request(file, { cache: "reload" }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(files)));
});

self.addEventListener("activate", (event) => {
  event.waitUntil((async () => {
    const names = await caches.keys();
    await Promise.all(names.filter((name) => name.startsWith("espalier-") && name !== CACHE).map((name) => caches.delete(name)));
    await self.clients.claim();
  })());
});

self.addEventListener("message", (event) => {
  if (event.data === "take over") self.skipWaiting();
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (!BUILD || request.method !== "GET" || request.headers.has("Range")) return;
  const url = new URL(request.url);
  url.search = "";
  url.hash = "";
  const address = url.href === `${PAGE}index.html` ? PAGE : url.href;
  if (!ADDRESSES.has(address)) return;
  event.respondWith((async () => {
    const cache = await caches.open(CACHE);
    return (await cache.match(address)) ?? fetch(request);
  })());
});
