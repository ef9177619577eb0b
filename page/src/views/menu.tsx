/** One menu at a time, at the button that opened it. Keys as the ARIA practices have them for a menu button. */
import { signal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { Icon, type IconName } from "./icons.tsx";

export interface Item {
  label: string;
  icon?: IconName | undefined;
  /** Left out: a line that only says something. */
  run?: () => void;
  isChosen?: boolean;
  isDanger?: boolean;
}

const open = signal<{ from: HTMLElement; label: string; items: Item[] } | null>(null);

export function openMenu(from: HTMLElement, label: string, items: Item[]): void {
  open.value = open.value?.from === from ? null : { from, label, items };
}

export function OpenMenu() {
  const menu = useRef<HTMLDivElement>(null);
  const now = open.value;
  const close = (isFocused: boolean): void => {
    const { from } = open.value ?? {};
    open.value = null;
    if (isFocused) from?.focus();
  };
  useLayoutEffect(() => {
    const element = menu.current;
    if (!now || !element) return;
    const at = now.from.getBoundingClientRect();
    const [width, height] = [element.offsetWidth, element.offsetHeight];
    const isRtl = document.documentElement.dir === "rtl";
    const wanted = isRtl ? at.left : at.right - width;
    const left = Math.max(8, Math.min(innerWidth - width - 8, wanted < 8 ? at.left : wanted));
    const below = at.bottom + 4 + height <= innerHeight - 8;
    element.style.left = `${left}px`;
    element.style.top = `${below ? at.bottom + 4 : Math.max(8, at.top - height - 4)}px`;
    element.querySelector<HTMLElement>("[role^=menuitem]")?.focus();
  }, [now]);
  useEffect(() => {
    if (!now) return;
    const away = (event: Event): void => {
      const target = event.target as Node;
      if (!menu.current?.contains(target) && !now.from.contains(target)) close(false);
    };
    addEventListener("pointerdown", away, true);
    addEventListener("resize", away);
    return () => {
      removeEventListener("pointerdown", away, true);
      removeEventListener("resize", away);
    };
  }, [now]);
  if (!now) return null;
  const onKeyDown = (event: KeyboardEvent): void => {
    const entries = [...menu.current!.querySelectorAll<HTMLElement>("[role^=menuitem]")];
    const index = entries.indexOf(document.activeElement as HTMLElement);
    const to: Record<string, number> = { ArrowDown: index + 1, ArrowUp: index - 1, Home: 0, End: -1 };
    if (event.key in to) entries.at(to[event.key]! % entries.length)?.focus();
    else if (event.key === "Escape" || event.key === "Tab") close(true);
    else if (event.key.length === 1 && event.key !== " ") {
      const letter = event.key.toLowerCase();
      entries.find((each) => each.textContent?.trim().toLowerCase().startsWith(letter))?.focus();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return (
    <div ref={menu} class="menu" role="menu" aria-label={now.label} onKeyDown={onKeyDown}>
      {now.items.map((item) => item.run ? (
        <button key={item.label} role={item.isChosen === undefined ? "menuitem" : "menuitemradio"} aria-checked={item.isChosen} tabIndex={-1}
          class={item.isDanger ? "danger" : undefined} onClick={() => {
            close(true);
            item.run!();
          }}>
          {item.icon ? <Icon name={item.icon} /> : <span class="icon" />}<span dir="auto">{item.label}</span>
        </button>
      ) : <p key={item.label} role="presentation">{item.label}</p>)}
    </div>
  );
}
