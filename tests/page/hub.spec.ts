// Models from a hub: here, a server on this machine with a hub's paths, at another origin than the page's.
import { expect, test } from "@playwright/test";
import { hub } from "./environment.ts";
import { go, open, unfold } from "./page.ts";

test("a download that breaks off goes on, and the model is kept", async ({ page, request }) => {
  await open(page);
  await page.locator("#endpoint").evaluate((element) => element.closest("details")?.setAttribute("open", ""));
  await page.locator("#endpoint").fill(hub);
  await page.locator("#hub-id").fill("espalier/seedling");
  const ranges: (string | undefined)[] = [];
  page.context().on("request", (sent) => {
    if (sent.url().endsWith(".gguf")) ranges.push(sent.headers()["range"]);
  });
  await request.post(`${hub}/break/300000`);
  await page.locator("#hub-load").click();
  const failure = page.locator("#failure");
  await expect(page.locator("#model-name").or(failure).first()).toBeVisible({ timeout: 60_000 });
  // It goes on by itself, or when it is asked to.
  if (await failure.isVisible()) await page.locator("#failure-action").click();
  await expect(page.locator("#model-name")).toBeVisible({ timeout: 60_000 });
  expect(ranges.some((range) => range !== undefined && !range.startsWith("bytes=0-"))).toBe(true);

  await page.reload();
  await expect(page.locator("#device")).toBeVisible();
  await go(page, "load");
  await page.locator("[data-test=load-stored]").first().click();
  await expect(page.locator("#model-name")).toBeVisible({ timeout: 60_000 });
  await page.locator("#delete-all").click();
  await page.locator("#delete-all-sure").click();
  await expect(page.locator("[data-test=stored-model]")).toHaveCount(0);
});

test("a model that is not there is told", async ({ page }) => {
  await open(page);
  await unfold(page, "details:has(#endpoint)");
  await page.locator("#endpoint").fill(hub);
  await page.locator("#hub-id").fill("espalier/nothing");
  await page.locator("#hub-load").click();
  await expect(page.locator("#failure")).toBeVisible({ timeout: 60_000 });
  await expect(page.locator("#failure-action")).toBeVisible();
});
