// Light or dark: the system's choice unless the reader made one, and always light on paper. Colors themselves are
// style.css's; canvases ask for them here.

import { computed, effect, signal } from "@preact/signals";

export const themeChoices = ["auto", "light", "dark"] as const;
export type ThemeChoice = (typeof themeChoices)[number];

const key = "lowrank-theme";
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const paper = window.matchMedia("print");
const systemDark = signal(dark.matches);
const printing = signal(paper.matches);
dark.addEventListener("change", () => {
  systemDark.value = dark.matches;
});
paper.addEventListener("change", () => {
  printing.value = paper.matches;
});
window.addEventListener("beforeprint", () => {
  printing.value = true;
});
window.addEventListener("afterprint", () => {
  printing.value = false;
});

export const themeChoice = signal<ThemeChoice>(stored());
/** What is drawn now. */
export const theme = computed<"light" | "dark">(() => {
  if (printing.value) return "light";
  if (themeChoice.value !== "auto") return themeChoice.value;
  return systemDark.value ? "dark" : "light";
});

effect(() => {
  document.documentElement.dataset.theme = theme.value;
});

export function chooseTheme(choice: ThemeChoice): void {
  themeChoice.value = choice;
  try {
    window.localStorage.setItem(key, choice);
  } catch {
    // A browser that stores nothing forgets the choice.
  }
}

function stored(): ThemeChoice {
  try {
    const found = window.localStorage.getItem(key);
    return themeChoices.find((choice) => choice === found) ?? "auto";
  } catch {
    return "auto";
  }
}

let probe: HTMLElement | undefined;

/** A custom property of the style sheet as a color that a canvas takes. */
export function cssColor(name: string): string {
  if (!probe) {
    probe = document.createElement("span");
    probe.hidden = true;
    document.body.append(probe);
  }
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}

export const seriesColors = 8;
/** Lines beyond the colors take them again, broken. */
export function seriesStyle(index: number): { color: string; dash?: number[] } {
  const dashes = [undefined, [7, 4], [2, 3]];
  const dash = dashes[Math.floor(index / seriesColors) % dashes.length];
  return { color: cssColor(`--series-${(index % seriesColors) + 1}`), ...(dash && { dash }) };
}
