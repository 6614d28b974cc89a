// What a person does on the page, step by step.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, type Download, type Page } from "@playwright/test";
import { unzipSync } from "fflate";
import { espalier, swiftshader } from "./environment.ts";

export const STEPS = ["load", "data", "method", "train", "compare", "keep"] as const;
export type Step = (typeof STEPS)[number];

/** A small data set, every row of which ends in the same words. */
export const CHATS = [..."abcdefghijklmnopqrst"]
  .map((letter) => JSON.stringify({ prompt: `Tell me of ${letter}.`, completion: `The ${letter} is in the garden, and the garden is green.` }))
  .join("\n");

/** Opens the page and waits until its GPU is open. */
export async function open(page: Page, query = ""): Promise<void> {
  await page.goto(`./${query}`);
  await expect(page.locator("#device")).toBeVisible();
}

/** Goes to a step by its link. */
export async function go(page: Page, step: Step): Promise<void> {
  await page.locator(`#step-${step}`).click();
  await expect(page.locator("[data-test=panel]")).toHaveAttribute("data-step", step);
}

export async function loadSeedling(page: Page): Promise<void> {
  await go(page, "load");
  await page.locator("#load-seedling").click();
  await expect(page.locator("#model-name")).toBeVisible();
}

export async function useText(page: Page, text: string): Promise<void> {
  await go(page, "data");
  await page.locator("#data-paste").fill(text);
  await page.locator("#data-use").click();
}

/** Makes choices, by the ids of their fields, and ends on the Method step. */
export async function choose(page: Page, choices: Record<string, number | string>): Promise<void> {
  for (const [id, value] of Object.entries(choices)) {
    const onData = ["eval-fraction", "context"].includes(id);
    await go(page, onData ? "data" : "method");
    if (!onData) await unfold(page, "#method-advanced");
    const field = page.locator(`#${id}`);
    if ((await field.evaluate((element) => element.tagName)) === "SELECT") await field.selectOption(String(value));
    else await field.fill(String(value));
  }
  await go(page, "method");
}

/** Opens a folded part. */
export async function unfold(page: Page, selector: string): Promise<void> {
  await page.locator(selector).evaluate((element) => element.setAttribute("open", ""));
}

/** Seedling, the chats and choices that make a short run. */
export async function prepare(page: Page, choices: Record<string, number | string> = {}): Promise<void> {
  await loadSeedling(page);
  await useText(page, CHATS);
  await expect(page.locator("#data-kept")).toBeVisible();
  await choose(page, { steps: 6, "batch-size": 2, "grad-accumulation": 1, "checkpoint-every": 2, ...choices });
  await expect(page.locator("#plan-total")).toBeVisible();
}

export async function start(page: Page): Promise<void> {
  await go(page, "train");
  await page.locator("#start").click();
}

/** Waits until the run has ended, in this way. */
export async function ended(page: Page, how = "Complete", timeout = 120_000): Promise<void> {
  await expect(page.locator("#outcome")).toHaveAttribute("data-how", how, { timeout });
}

/** Waits until this many steps are made. */
export async function reached(page: Page, step: number, timeout = 120_000): Promise<void> {
  await expect.poll(async () => Number(await page.locator("#run-step").getAttribute("data-step")), { timeout }).toBeGreaterThanOrEqual(step);
}

/** A number that an element carries in full. */
export async function figure(page: Page, selector: string, attribute: string): Promise<number> {
  return Number(await page.locator(selector).getAttribute(attribute));
}

/** Presses a button that hands over a file, and gives its name and content. */
export async function saved(page: Page, button: string): Promise<{ name: string; bytes: Buffer }> {
  const waiting = page.waitForEvent("download");
  await page.locator(button).click();
  const download: Download = await waiting;
  return { name: download.suggestedFilename(), bytes: readFileSync(await download.path()) };
}

/** One line of the measurements a step. */
export async function measurements(page: Page): Promise<Record<string, number>[]> {
  await go(page, "keep");
  const { bytes } = await saved(page, "#export-metrics");
  return bytes.toString().trim().split("\n").map((line) => JSON.parse(line));
}

/** A folder that is gone after the tests' machine is. */
export function folder(): string {
  return mkdtempSync(join(tmpdir(), "espalier-"));
}

/** Unpacks a zip file into a folder, and names it. */
export function unzipped(bytes: Buffer): string {
  const into = folder();
  for (const [name, content] of Object.entries(unzipSync(new Uint8Array(bytes)))) {
    writeFileSync(join(into, name.split("/").pop()!), content);
  }
  return into;
}

/** Runs the native program on the browser's adapter, and gives what it prints. */
export function native(...words: string[]): string {
  const env = { ...process.env, NODEVICE_SELECT: "1", ...(swiftshader && { VK_DRIVER_FILES: swiftshader }) };
  return execFileSync(espalier, words, { env, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"], maxBuffer: 64 << 20 });
}
