// The page without a network, its first picture, and what it asks of the network.
import { expect, test } from "@playwright/test";
import { page as address } from "./environment.ts";
import { ended, open, prepare, start } from "./page.ts";

test("after one load the page works offline, training included", async ({ page, context }) => {
  await open(page);
  await page.evaluate(() => navigator.serviceWorker.ready);
  // The service worker has taken its files when it is active.
  await expect.poll(() => page.evaluate(() => navigator.serviceWorker.controller?.state)).toBe("activated");
  await context.setOffline(true);
  await page.reload();
  await expect(page.locator("#device")).toBeVisible();
  await prepare(page, { steps: 2 });
  await start(page);
  await ended(page);
});

test("the first picture stands within a second, before the worker's program is there", async ({ page, context }) => {
  await open(page);
  // Only the page's own code, and the worker's after a while.
  await context.route("**/worker_bg.wasm", async (route) => {
    await new Promise((done) => setTimeout(done, 4_000));
    await route.continue();
  });
  await page.goto("about:blank");
  await page.goto("./");
  await expect(page.locator("#load-seedling")).toBeVisible({ timeout: 3_000 });
  await page.locator("#step-data").click();
  await expect(page.locator("#data-paste")).toBeVisible();
  const painted = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime);
  expect(painted).toBeLessThan(1_000);
});

test("the server sends the headers, ranges and types that the page needs", async ({ request }) => {
  const html = await request.get(address);
  expect(html.headers()["content-security-policy"]).toContain("default-src 'self'");
  expect(html.headers()["cache-control"]).toBe("no-store");
  const wasm = await request.head(`${address}/app_bg.wasm`);
  expect(wasm.headers()["content-type"]).toBe("application/wasm");
  const part = await request.get(`${address}/app_bg.wasm`, { headers: { Range: "bytes=0-3" } });
  expect(part.status()).toBe(206);
  expect(part.headers()["content-range"]).toMatch(/^bytes 0-3\//);
  expect([...(await part.body())]).toEqual([0, 0x61, 0x73, 0x6d]);
});
