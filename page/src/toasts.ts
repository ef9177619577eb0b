/** Messages about what happened. They go after some seconds, and have a button where the action can be undone. */
import { signal } from "@preact/signals";

export interface Toast {
  id: number;
  text: string;
  isProblem: boolean;
  action?: { label: string; run: () => void };
  /** Called when it goes without its action having been chosen. */
  passed?: () => void;
}

export const toasts = signal<Toast[]>([]);
const SECONDS = { said: 6, problem: 12 };
const MOST = 4;
let last = 0;
const timers = new Map<number, { left: number; since: number; timer: number }>();

export function say(text: string, more: Partial<Omit<Toast, "id" | "text">> = {}): number {
  const toast: Toast = { id: (last += 1), text, isProblem: false, ...more };
  const same = toasts.value.find((each) => each.text === text && !each.action);
  if (same) dismiss(same.id);
  toasts.value = [...toasts.value, toast];
  for (const old of toasts.value.slice(0, -MOST)) dismiss(old.id);
  run(toast.id, 1000 * (toast.isProblem ? SECONDS.problem : SECONDS.said));
  return toast.id;
}

export function complain(error: unknown): void {
  say(error instanceof Error ? error.message : String(error), { isProblem: true });
}

function run(id: number, left: number): void {
  timers.set(id, { left, since: Date.now(), timer: window.setTimeout(() => dismiss(id), left) });
}

/** While `isHeld`, no toast goes: somebody reads them. */
export function hold(isHeld: boolean): void {
  for (const [id, each] of timers) {
    clearTimeout(each.timer);
    if (isHeld) each.left = Math.max(2000, each.left - (Date.now() - each.since));
    else run(id, each.left);
  }
}

function end(id: number): Toast | undefined {
  const toast = toasts.value.find((each) => each.id === id);
  clearTimeout(timers.get(id)?.timer);
  timers.delete(id);
  toasts.value = toasts.value.filter((each) => each.id !== id);
  return toast;
}

export function dismiss(id: number): void {
  end(id)?.passed?.();
}

export function act(id: number): void {
  end(id)?.action?.run();
}
