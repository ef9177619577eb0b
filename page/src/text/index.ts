/** The page's texts in the language that was chosen, or else the browser's. */
import { computed, effect, signal } from "@preact/signals";
import { de } from "./de.ts";
import { en, type Text } from "./en.ts";

export const LANGUAGES: Record<string, Text> = { en, de };
const KEPT = "media-language";

function preferred(): string {
  const kept = localStorage.getItem(KEPT);
  const wanted = [...(kept ? [kept] : []), ...navigator.languages].map((language) => language.slice(0, 2));
  return wanted.find((language) => language in LANGUAGES) ?? "en";
}

export const language = signal(preferred());
/** In the browser's own variant of the language, so that dates are written as people there write them. */
export const text = computed<Text>(() => {
  const chosen = LANGUAGES[language.value]!;
  return { ...chosen, locale: navigator.languages.find((each) => each.startsWith(`${chosen.locale}-`)) ?? chosen.locale };
});

export function choose(wanted: string): void {
  localStorage.setItem(KEPT, wanted);
  language.value = wanted;
}

effect(() => {
  document.documentElement.lang = language.value;
  document.documentElement.dir = text.value.direction;
});
