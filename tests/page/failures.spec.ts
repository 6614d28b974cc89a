// Everything that can go wrong, forced: each leaves a plain message that stays, and one thing to do.
import { expect, test, type Page } from "@playwright/test";
import { CHATS, choose, ended, go, loadSeedling, open, prepare, reached, start, useText } from "./page.ts";

/** The newest failure is of this kind, says something like this, and offers this. */
async function failed(page: Page, kind: string, message: RegExp, action: RegExp | null): Promise<void> {
  const failure = page.locator("#failure");
  await expect(failure).toHaveAttribute("data-kind", kind, { timeout: 60_000 });
  await expect(page.locator("#failure-message")).toContainText(message);
  if (action) await expect(page.locator("#failure-action")).toHaveText(action);
  // It stays.
  await page.waitForTimeout(1_500);
  await expect(failure).toBeVisible();
}

test("without WebGPU the page names the remedy within a second, and the rest works", async ({ page }) => {
  await page.addInitScript(() => {
    Object.defineProperty(Navigator.prototype, "gpu", { get: () => undefined, configurable: true });
  });
  await page.goto("./");
  await expect(page.locator("[data-test=panel]")).toBeVisible();
  await expect(page.locator("#no-gpu")).toBeVisible({ timeout: 1_000 });
  await expect(page.locator("#no-gpu li").first()).not.toBeEmpty();
  for (const step of ["data", "method", "train", "compare", "keep"] as const) await go(page, step);
});

test("without an adapter the page names the remedy", async ({ page }) => {
  await page.addInitScript(() => {
    // Undefined in a page without WebGPU, which this one is not.
    const gpu = (globalThis as { GPU?: { prototype: object } }).GPU!;
    Object.defineProperty(gpu.prototype, "requestAdapter", { value: async () => null });
  });
  await page.goto("./");
  await expect(page.locator("#no-gpu")).toBeVisible();
});

test("too little memory is told, with the way out", async ({ page }) => {
  await open(page, "?faults");
  await page.locator("#budget").fill("16");
  await page.locator("#budget-apply").click();
  await expect(page.locator("#device")).toBeVisible();
  await loadSeedling(page);
  await useText(page, CHATS);
  await choose(page, { steps: 4, "batch-size": 16, context: 512 });
  await go(page, "train");
  const blocked = page.locator("#start-blocked");
  // Either the plan says so before the start, or the run does.
  if (await page.locator("#start").isEnabled()) {
    await page.locator("#start").click();
    await failed(page, "OutOfMemory", /memory/i, /choices|Try again/);
  } else {
    await expect(blocked).toContainText(/memory/i);
  }
});

test("a lost device is told, and the run goes on from its checkpoint", async ({ page }) => {
  await open(page, "?faults");
  await prepare(page, { steps: 12, "checkpoint-every": 2 });
  await start(page);
  await reached(page, 3);
  await page.locator("#fault-lose-device").click();
  // The run recovers by itself and says so, or offers to.
  const notice = page.locator("[data-test=notice]");
  const failure = page.locator("#failure");
  await expect(notice.or(failure).first()).toContainText(/GPU|device/i, { timeout: 60_000 });
  if (await failure.isVisible()) await page.locator("#failure-action").click();
  await ended(page);
});

test("a loss that is not a number ends the run and says why", async ({ page }) => {
  await open(page);
  await prepare(page, { steps: 30, lr: 1e30, "max-grad-norm": 0, warmup: 0 });
  await start(page);
  await failed(page, "NotANumber", /no longer a number/i, /.+/);
});

test("full storage is told, and training can go on", async ({ page }) => {
  await open(page, "?faults");
  await prepare(page, { steps: 12, "checkpoint-every": 2 });
  await start(page);
  await reached(page, 1);
  await page.locator("#fault-full-storage").click();
  await failed(page, "FullStorage", /storage|room|space/i, /room|.+/i);
});

test("a worker that breaks down is told", async ({ page }) => {
  await open(page, "?faults");
  await prepare(page);
  await page.locator("#fault-panic").click();
  await expect(page.locator("#failure").or(page.locator("[data-test=notice]")).first()).toBeVisible({ timeout: 30_000 });
  await go(page, "load");
  await expect(page.locator("#device")).toBeVisible();
});

test("a malformed model is told, with what is wrong with it", async ({ page }) => {
  await open(page);
  await page.locator("#model-files").setInputFiles({ name: "broken.gguf", mimeType: "application/octet-stream", buffer: Buffer.from("GGUF but not really") });
  await failed(page, "Model", /.+/, /model/i);
  await page.locator("#model-files").setInputFiles({ name: "notes.txt", mimeType: "text/plain", buffer: Buffer.from("hello") });
  await failed(page, "Model", /.+/, /model/i);
});

test("malformed data is told, and dropped rows are counted with the reason", async ({ page }) => {
  await open(page);
  await loadSeedling(page);
  await go(page, "data");
  await page.locator("#data-files").setInputFiles({ name: "broken.json", mimeType: "application/json", buffer: Buffer.from('[{"prompt": "a", ') });
  await failed(page, "Data", /.+/, /data/i);
  await useText(page, `${CHATS}\n{"prompt": 3}\nnot json`);
  await expect(page.locator("#data-dropped")).toContainText("2");
});

test("data in which nothing is learned blocks the start, and says why", async ({ page }) => {
  await open(page);
  await loadSeedling(page);
  const chats = Array.from({ length: 6 }, (_, i) => JSON.stringify({ prompt: `Tell me, I ask of you, of the garden, of the house and of the sea, and then of ${i}.`, completion: "It is green." }));
  await useText(page, chats.join("\n"));
  await expect(page.locator("#data-kept")).toBeVisible();
  // The answers lie beyond the longest example: truncation, and no fault of the template.
  await choose(page, { context: 8 });
  await go(page, "data");
  await expect(page.locator("[data-test=dropped]").first().or(page.locator("#nothing-learned")).or(page.locator("#failure")).first()).toBeVisible();
  await expect(page.locator("[data-reason=RefusedByTemplate], [data-reason=AnswerNotFound]")).toHaveCount(0);
  await go(page, "train");
  await expect(page.locator("#start")).toBeDisabled();
  await expect(page.locator("#start-blocked")).not.toBeEmpty();
});
