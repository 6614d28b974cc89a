// A real model: SmolLM2-135M from GGUF, three QLoRA steps, against the native build on the same adapter.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "@playwright/test";
import { smollm2 } from "./environment.ts";
import { CHATS, choose, ended, folder, go, measurements, native, open, saved, start, useText } from "./page.ts";

test("SmolLM2 learns in the page as it does natively, in less than 1 GiB of WebAssembly memory", async ({ page }) => {
  test.skip(!smollm2, "SmolLM2 is not in the cache");
  test.setTimeout(600_000);
  await open(page);
  await page.locator("#load-served").click();
  await expect(page.locator("#model-name")).toBeVisible({ timeout: 120_000 });
  await useText(page, CHATS);
  await expect(page.locator("#data-kept")).toBeVisible();
  await choose(page, { steps: 3, "batch-size": 1, "grad-accumulation": 1, context: 48, "eval-fraction": 0, weights: "nf4", "checkpoint-every": 3 });
  await start(page);
  await ended(page, "Complete", 400_000);
  const lines = await measurements(page);
  const settings = JSON.parse((await saved(page, "#export-settings")).bytes.toString());

  const worker = page.workers().find((worker) => worker.url().includes("worker"))!;
  const bytes = await worker.evaluate(async () => {
    // The module that the worker runs already: it hands over what it exports.
    const address = new URL("./worker.js", location.href).href;
    const { default: init } = await import(address);
    return (await init()).memory.buffer.byteLength as number;
  });
  console.log(`SmolLM2: ${(bytes / 2 ** 20).toFixed(0)} MiB of WebAssembly memory`);
  expect(bytes).toBeLessThan(2 ** 30);

  const work = folder();
  writeFileSync(join(work, "data.jsonl"), CHATS);
  writeFileSync(join(work, "run.json"), JSON.stringify({ ...settings, sample_prompt: null }));
  native("train", smollm2, "--data", join(work, "data.jsonl"), "--config", join(work, "run.json"), "--out", join(work, "out"));
  const expected = readFileSync(join(work, "out", "metrics.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line));
  expect(lines).toHaveLength(3);
  lines.forEach((line, i) => expect(Math.abs(line.loss - expected[i].loss), `step ${i + 1}: page ${line.loss}, native ${expected[i].loss}`).toBeLessThan(1e-3));
});
