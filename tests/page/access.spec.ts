// Keyboard, screen readers, small windows, light and dark.
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import AxeBuilder from "@axe-core/playwright";
import { expect, test, type Page } from "@playwright/test";
import { draw, screenshots } from "./environment.ts";
import { STEPS, ended, go, open, prepare, start } from "./page.ts";

/** A page on which every step has something to show. */
async function trained(page: Page): Promise<void> {
  await open(page);
  await prepare(page, { steps: 8, "eval-every": 2, "sample-every": 4 });
  await go(page, "method");
  await page.locator("#sample-prompt").fill("Tell me of z.");
  await start(page);
  await ended(page);
  await go(page, "compare");
  await page.locator("#prompt").fill("Tell me of z.");
  await page.locator("#ask").click();
  await expect(page.locator("#ask")).toBeEnabled({ timeout: 60_000 });
}

test("each step is accessible and fits 360 px, in light and dark", async ({ page }) => {
  test.setTimeout(300_000);
  await trained(page);
  if (draw) mkdirSync(screenshots, { recursive: true });
  for (const colorScheme of ["light", "dark"] as const) {
    await page.emulateMedia({ colorScheme });
    for (const step of STEPS) {
      await go(page, step);
      // The charts follow the scheme in the next frame.
      await page.waitForTimeout(300);
      const { violations } = await new AxeBuilder({ page }).withTags(["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]).analyze();
      const serious = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
      const found = serious.map(({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.target} ${node.failureSummary}`).join("; ")}`);
      expect(found, `${step}, ${colorScheme}`).toEqual([]);
      const picture = join(screenshots, `${step}-${colorScheme}.png`);
      if (draw) await page.screenshot({ path: picture, fullPage: true });
      expect(existsSync(picture), `${picture}: made with ESPALIER_SCREENSHOTS=1 cargo xtask test accessible`).toBe(true);
    }
  }
  await page.setViewportSize({ width: 360, height: 740 });
  for (const step of STEPS) {
    await go(page, step);
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    expect(width, step).toBeLessThanOrEqual(360);
  }
});

/** Presses Tab until the element has the focus. */
async function tabTo(page: Page, selector: string): Promise<void> {
  const target = page.locator(selector);
  await expect(target).toBeEnabled();
  for (let i = 0; i < 200; i++) {
    if (await target.evaluate((element) => element === document.activeElement)) return;
    await page.keyboard.press("Tab");
  }
  throw new Error(`${selector} cannot be reached by the Tab key`);
}

async function press(page: Page, selector: string, key = "Enter"): Promise<void> {
  await tabTo(page, selector);
  await page.keyboard.press(key);
}

test("all six steps work by keyboard alone", async ({ page }) => {
  test.setTimeout(300_000);
  await open(page);
  await press(page, "#load-seedling");
  await expect(page.locator("#model-name")).toBeVisible();
  await press(page, "#step-data");
  await tabTo(page, "#data-paste");
  await page.keyboard.insertText(Array.from({ length: 8 }, (_, i) => JSON.stringify({ prompt: `Say ${i}`, completion: "The garden is green." })).join("\n"));
  await press(page, "#data-use");
  await expect(page.locator("#data-kept")).toBeVisible();
  await press(page, "#step-method");
  await tabTo(page, "#method-lora");
  await press(page, "#method-advanced > summary");
  // A slider takes arrows, Home, End and Page keys, and has a number field beside it.
  await tabTo(page, "#rank-slider");
  const rank = async () => Number(await page.locator("#rank").inputValue());
  await page.keyboard.press("End");
  const most = await rank();
  await page.keyboard.press("Home");
  const least = await rank();
  await page.keyboard.press("ArrowRight");
  const next = await rank();
  await page.keyboard.press("PageUp");
  expect(least).toBeLessThan(next);
  expect(next).toBeLessThan(await rank());
  expect(await rank()).toBeLessThanOrEqual(most);
  await tabTo(page, "#steps");
  await page.keyboard.insertText("4");
  await press(page, "#step-train");
  await press(page, "#start");
  await ended(page);
  const chart = page.locator(".chart canvas").first();
  await tabTo(page, ".chart canvas >> nth=0");
  await page.keyboard.press("Home");
  // The held-out loss before the first step.
  await expect(chart).toHaveAttribute("aria-valuetext", /^Step 0: held out/);
  await page.keyboard.press("ArrowRight");
  await expect(chart).toHaveAttribute("aria-valuetext", /^Step 1: training/);
  await press(page, "#step-compare");
  await tabTo(page, "#prompt");
  await page.keyboard.insertText("Hello");
  await press(page, "#ask");
  await expect(page.locator("#answer-tuned")).not.toBeEmpty({ timeout: 60_000 });
  await expect(page.locator("#ask")).toBeEnabled({ timeout: 60_000 });
  await press(page, "#step-keep");
  const download = page.waitForEvent("download");
  await press(page, "#export-peft");
  await download;
});

test("what is pressed is 24 px or more", async ({ page }) => {
  await open(page);
  await prepare(page);
  for (const step of STEPS) {
    await go(page, step);
    const small = await page.locator("button:visible, select:visible, input:visible:not([type=range]), summary:visible").evaluateAll((elements) =>
      elements
        .map((element) => ({ element, box: (element.closest("label") ?? element).getBoundingClientRect() }))
        .filter(({ box }) => box.width > 0 && (box.width < 24 || box.height < 24))
        .map(({ element, box }) => `${element.outerHTML.slice(0, 80)} ${box.width}x${box.height}`),
    );
    expect(small, step).toEqual([]);
  }
});
