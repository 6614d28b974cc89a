// The time of a training step in the page against that of the native build, on the same adapter. Each is measured twice, in turns,
// and the better median counts: the machine may have other work to do.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test, type Page } from "@playwright/test";
import { seedling, smollm2 } from "./environment.ts";
import { CHATS, choose, ended, folder, go, measurements, native, open, saved, start, useText } from "./page.ts";

type Line = Record<string, number>;

/** Seconds of the median step, without the first, which also prepares the shaders. */
function median(lines: Line[]): number {
  const times = lines.slice(1).map((line) => line.tokens / line.tokens_per_s).sort((a, b) => a - b);
  return times[Math.floor(times.length / 2)];
}

async function inPage(page: Page, load: string, choices: Record<string, number | string>): Promise<{ lines: Line[]; settings: object }> {
  await open(page);
  await page.locator(load).click();
  await expect(page.locator("#model-name")).toBeVisible({ timeout: 120_000 });
  await useText(page, CHATS);
  await expect(page.locator("#data-kept")).toBeVisible();
  await choose(page, choices);
  await start(page);
  await ended(page, "Complete", 500_000);
  const lines = await measurements(page);
  await go(page, "keep");
  return { lines, settings: JSON.parse((await saved(page, "#export-settings")).bytes.toString()) };
}

function natively(model: string, settings: object): Line[] {
  const work = folder();
  writeFileSync(join(work, "data.jsonl"), CHATS);
  writeFileSync(join(work, "run.json"), JSON.stringify({ ...settings, sample_prompt: null }));
  native("train", model, "--data", join(work, "data.jsonl"), "--config", join(work, "run.json"), "--out", join(work, "out"));
  return readFileSync(join(work, "out", "metrics.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line));
}

const RUNS = [
  { name: "Seedling, 4 rows", load: "#load-seedling", model: seedling, choices: { steps: 20, "batch-size": 4, "grad-accumulation": 1, "eval-fraction": 0, "checkpoint-every": 1000 } },
  { name: "SmolLM2-135M, 1 row", load: "#load-served", model: smollm2, choices: { steps: 4, "batch-size": 1, "grad-accumulation": 1, context: 48, "eval-fraction": 0, "checkpoint-every": 1000 } },
];

for (const { name, load, model, choices } of RUNS) {
  test(name, async ({ page }) => {
    test.skip(!model, "the model is not in the cache");
    test.setTimeout(1_200_000);
    const [inBrowser, outside]: number[][] = [[], []];
    for (let round = 0; round < 2; round++) {
      const { lines, settings } = await inPage(page, load, choices);
      inBrowser.push(median(lines));
      outside.push(median(natively(model, settings)));
    }
    const [browser, alone] = [Math.min(...inBrowser), Math.min(...outside)];
    console.log(`${name}: ${(browser * 1e3).toFixed(1)} ms a step in the page, ${(alone * 1e3).toFixed(1)} ms natively, ratio ${(browser / alone).toFixed(2)} (goal: at most 1.25)`);
  });
}
